"""With what code and on what machine numbers were made."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from gaze_torchrl import __version__
from gaze_torchrl.benchmark.results import write_text

__all__ = ["commit", "environment", "record"]

_PACKAGES = ("gaze_torchrl", "torch", "torchrl", "tensordict", "numpy", "mani_skill")


def commit() -> str:
    """The commit of the code that runs, with ``-dirty`` if code or configuration differ from it; else the version.

    Results lie in the repository, too, but do not change what runs: they make nothing dirty.
    """
    package = Path(__file__).resolve().parents[1]
    described = _git(package, "describe", "--always")
    # An installed package may lie inside a repository that knows nothing of it.
    if described is None or not _git(package, "ls-files", "__init__.py"):
        return __version__
    changed = _git(package, "status", "--porcelain", "--", ".", "../configs")
    return described + ("-dirty" if changed else "")


def environment(jobs: int) -> dict[str, Any]:
    """What numbers may depend on: code, Python, packages, machine.

    Args:
        jobs: runs at the same time; speed depends on it.
    """
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "commit": commit(),
        "python": platform.python_version(),
        "packages": found,
        "machine": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "jobs": jobs,
    }


def record(path: Path, command: str, jobs: int) -> None:
    """Add a command and its environment to those that results were made by, unless it is there.

    Args:
        path: ``versions.json``, a list.
        command: for a shell.
        jobs: as for `environment`.
    """
    known = json.loads(path.read_text()) if path.exists() else []
    if (here := {"command": command, **environment(jobs)}) not in known:
        write_text(path, json.dumps([*known, here], indent=2) + "\n")


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", folder, *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:  # no git
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _cpu() -> str:
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
