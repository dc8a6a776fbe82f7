"""Errors of the configuration: what was wrong with a choice or a key, and what exists."""

from __future__ import annotations

import difflib
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

__all__ = [
    "ConfigError",
    "config_dir",
    "current_names",
    "explain",
    "groups",
    "listing",
    "unknown_key",
    "without_choice",
]


class ConfigError(ValueError):
    """A choice or a value that cannot be; the message says what exists."""


def config_dir() -> Path:
    """Folder of the YAML files: inside the installed package, or at the top of the source tree."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def groups() -> list[str]:
    """The groups that a run chooses from, nested ones with a slash, such as ``gaze/head``."""
    folders = {path.relative_to(config_dir()).as_posix() for path in config_dir().rglob("*") if path.is_dir()}
    return sorted(folders - {"benchmark"})  # those are chosen by gaze-bench


def current_names(overrides: Sequence[str]) -> list[str]:
    """Overrides with the choices that were renamed under their new names, and a warning."""
    current = []
    for override in overrides:
        new = RENAMED.get(override)
        if new is not None:
            warnings.warn(f"{override} is now {' '.join(new)}; the old name will go.", FutureWarning, stacklevel=2)
        current += new or [override]
    return current


def without_choice(overrides: Sequence[str]) -> str:
    """What to say of the first override that leaves a group of components without a choice; empty if there is none.

    Example:
        >>> without_choice(["seed=2", "contrast=null"])
        'contrast=null leaves contrast without a choice: contrast=none is the one that does nothing.'
    """
    for override in overrides:
        group, _, value = override.lstrip("~").partition("=")
        if group in groups() and (override.startswith("~") or value == "null"):
            idle = (config_dir() / group / "none.yaml").exists()
            advice = (
                f"{group}=none is the one that does nothing." if idle else f"leave it out, or see gaze-list {group}."
            )
            return f"{override} leaves {group} without a choice: {advice}"
    return ""


# Choices of older versions.
RENAMED = {
    "gaze=foveal_mlp": ["gaze=foveal", "gaze/head=mlp"],
    "experiment=maniskill": ["experiment=ppo_maniskill"],
}


def explain(error: Exception, overrides: Sequence[str] = (), primary: str = "train") -> str:
    """What Hydra said, and what exists where it found nothing.

    Args:
        error: Hydra's.
        overrides: the command line it came from; its choices of groups decide which keys exist.
        primary: the file that was composed: train or bench.
    """
    if any(override.startswith("#") for override in overrides):
        return "A comment (#) was taken for an argument: in zsh, first `setopt interactivecomments`."
    chain, cause = [str(error)], error.__cause__
    while cause is not None:
        chain.append(str(cause))
        cause = cause.__cause__
    text = "\n".join(dict.fromkeys(line for part in chain for line in part.splitlines() if line.strip()))
    if match := re.search(r"Could not override '([\w/]+)'\. No match in the defaults list", text):
        group, _, part = match[1].rpartition("/")
        if part == "benchmark":
            return "A benchmark is no part of a run: gaze-bench run NAME takes one."
        return f"There is no {match[1]} to choose: {group}={_chosen(group, overrides)} has no {part}."
    if match := re.search(r"Could not find '([\w/]+)/([\w-]+)'", text):
        close = difflib.get_close_matches(
            match[2], [path.stem for path in (config_dir() / match[1]).glob("*.yaml")], n=1
        )
        own = "One of your own is found if its module is an entry point of an installed package (docs/extending)."
        hint = f"Did you mean {close[0]!r}?" if close else own
        text = text.replace(match[0], f"{match[0]}. {hint}", 1)
    if match := re.search(r"Could not override '([\w./]+)'", text):
        known = {*groups(), "benchmark", "hydra.searchpath"}
        choices = [override for override in current_names(overrides) if override.partition("=")[0] in known]
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            default = compose(primary, choices)
        return _unknown(match[1], default)
    return re.sub(rf"^In '{primary}': |\nConfig search path:(.|\n)*", "", text)


def unknown_key(error: str, config: DictConfig) -> str | None:
    """What exists where OmegaConf found no such key in a configuration; None for other errors."""
    match = re.search(r"full_key: (\S+)", error)
    return _unknown(match[1], config) if match and "is not in struct" in error else None


def _unknown(name: str, config: DictConfig) -> str:
    parent, _, key = name.rpartition(".")
    node = OmegaConf.select(config, parent) if parent else config
    paths = [*groups(), *_paths(cast(dict, OmegaConf.to_container(config)))]
    elsewhere = [path for path in paths if re.split(r"[./]", path)[-1] == key]
    close = elsewhere or difflib.get_close_matches(key, [*(node or []), *groups()])
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"Unknown key {name!r}.{hint} {listing(node, parent)}"


def _paths(node: dict[str, Any]) -> Iterator[str]:
    """The keys of a configuration and of all its nodes, with dots."""
    for key, value in node.items():
        yield key
        if isinstance(value, dict):
            yield from (f"{key}.{path}" for path in _paths(value))


def _chosen(group: str, overrides: Sequence[str]) -> str:
    return next((one.partition("=")[2] for one in reversed(overrides) if one.startswith(f"{group}=")), "?")


def listing(node: Any, name: str) -> str:
    """The keys of a node of the configuration, or of a set, as a sentence."""
    keys = sorted(str(key) for key in node if key != "_target_") if isinstance(node, DictConfig | set) else []
    return f"{name or 'The configuration'} has {keys}."
