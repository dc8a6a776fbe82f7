"""Processes of tests, which may end while they are looked at: a file of /proc is not there, or its reading fails."""

from contextlib import suppress
from pathlib import Path


def read(pid: int, name: str) -> str:
    """A file of a process under /proc, empty once it has ended."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/{name}").read_text()
    return ""


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not waited for does not."""
    return "State:" in (status := read(pid, "status")) and "State:\tZ" not in status


def children_with(pid: int, word: str) -> list[int]:
    """Children of a process whose command line contains a word, oldest first."""
    return [int(child) for child in read(pid, f"task/{pid}/children").split() if word in read(int(child), "cmdline")]
