"""What can be chosen: the text of gaze-list."""

from __future__ import annotations

import inspect
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from gaze_torchrl.registry import FACTS, Entry, entries, load, load_plugins
from gaze_torchrl.training.explain import config_dir

__all__ = ["about", "overview", "summary"]


def overview() -> str:
    """Every group with its choices, one line each; the default is starred."""
    text = [_group(group, fields=False) for group in sorted(_choices())]
    hint = "* is the default. gaze-list GROUP shows fields, gaze-list NAME shapes, gaze-list train the rest."
    return "\n".join([*text, hint])


def about(what: str) -> str:
    """A group with the fields of its choices, and everything about the choices of one name, or about one choice.

    Args:
        what: such as ``"miner"``, ``"visual"`` or ``"miner=visual"``; ``"train"`` for the keys that are in no group.

    Raises:
        ValueError: if there is neither, with the groups there are.
    """
    if what == "train":
        return (config_dir() / "train.yaml").read_text().partition("\n\n")[2].partition("\nhydra:")[0]
    choices = _choices()
    text = [_group(what, fields=True)] if what in choices else []
    group, _, name = what.rpartition("=")
    text += [_component(one, name) for one in sorted(choices) if name in choices[one] and group in ("", one)]
    if not text:
        raise ValueError(f"{what!r} is neither a group nor a choice: the groups are {sorted(choices)}.")
    return "\n".join(text)


def _choices() -> dict[str, dict[str, Path | Entry]]:
    """By group and name: the YAML file, or the registered component of a plug-in that has none."""
    plugins = load_plugins()
    choices: dict[str, dict[str, Path | Entry]] = {}
    for entry in entries():
        choices.setdefault(entry.group, {})[entry.name] = entry
    for folder in (*plugins.folders.values(), config_dir()):
        for path in folder.rglob("*.yaml"):
            if group := path.parent.relative_to(folder).as_posix().removeprefix("."):
                choices.setdefault(group, {})[path.stem] = path
    return choices


def _group(group: str, fields: bool) -> str:
    # Benchmarks are no part of a run, and have a command of their own.
    choices, lines = _choices()[group], ["gaze-bench run" if group == "benchmark" else f"{group}="]
    width = max(map(len, choices))
    for name, choice in sorted(choices.items()):
        lines.append(f" {'*' if name == _default(group) else ' '} {name:{width}} {summary(choice)}")
        if fields:
            lines += [f"       {line}" for line in _fields(choice)] + [""]
    return "\n".join(lines)


def _component(group: str, name: str) -> str:
    load()
    choice = _choices()[group][name]
    lines = [f"{group}={name}", f"  {summary(choice)}", "", *(f"  {line}" for line in _fields(choice))]
    if (entry := next((one for one in entries(group) if one.name == name), None)) is not None:
        arguments = ", ".join(
            key if one.default is one.empty else f"{key}={one.default!r}" for key, one in entry.parameters.items()
        )
        given = ", ".join(key for key in FACTS[group] if key in entry.parameters)
        lines += ["", f"  {entry.path}({arguments})", f"  given by the data: {given or 'nothing'}", ""]
        lines += [f"  {line}" for line in (inspect.getdoc(entry.target) or "").splitlines()]
    return "\n".join([*lines, ""])


def summary(choice: Path | Entry) -> str:
    """The line that says what a choice is.

    Args:
        choice: its YAML file, or the registered component of a plug-in that has none.
    """
    if isinstance(choice, Entry):
        return choice.summary
    comments = [line.removeprefix("# ") for line in choice.read_text().splitlines() if line.startswith("# ")]
    return next((comment for comment in comments if "@package" not in comment), "")


def _fields(choice: Path | Entry) -> list[str]:
    text = OmegaConf.to_yaml(choice.node) if isinstance(choice, Entry) else choice.read_text()
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def _default(group: str) -> str | None:
    chosen = OmegaConf.load(config_dir() / "train.yaml").defaults
    return {key: name for entry in chosen if isinstance(entry, DictConfig) for key, name in entry.items()}.get(group)
