"""The registry: every component under a group and a name, ours and those of installed plug-ins."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, TypeVar

__all__ = [
    "BUILDER_KEYS",
    "FACTS",
    "Entry",
    "Plugins",
    "entries",
    "load",
    "load_plugins",
    "lookup",
    "parameters_of",
    "register",
]

Component = TypeVar("Component", bound=Callable)

FACTS: dict[str, tuple[str, ...]] = {
    "encoder": ("in_channels",),
    "gaze": ("in_channels", "map_size", "proprio_dim", "head"),
    "gaze/head": ("in_channels", "map_size", "num_foveae"),
    "readout": ("in_channels", "map_size", "proprio_dim", "num_foveae"),
    "labels": (),
    "normalize": ("proprio_dim",),
    "miner": ("metric",),
    "key": ("in_channels", "map_size", "proprio_dim"),
    "contrast": ("gaze_network", "encoder_network", "proprio_dim"),
    "regularizer": (),
    "augment": ("seed",),
    "env": ("seed", "device"),
}
"""What the data decides, by group: constructors name what they need of it, and no configuration sets it."""

BUILDER_KEYS: dict[str, dict[str, Any]] = {
    "gaze": {"rl_gradient": True, "condition": False},
    "contrast": {"max_grad_norm": 0.5, "own_learning_rate": None, "anneal_frames": None, "pretrain_frames": 0},
}
"""Keys of a component's YAML that the builder or the training loop reads, with their defaults."""


@dataclass(frozen=True)
class Entry:
    """A registered component.

    Args:
        group: such as ``"gaze"``; a folder of ``configs``.
        name: such as ``"foveal"``; the choice in ``gaze=foveal``.
        target: the class or function.
        options: values of its arguments under this name, where they differ from the signature's defaults.
    """

    group: str
    name: str
    target: Callable
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """Importable name, for ``_target_``."""
        return f"{self.target.__module__}.{self.target.__qualname__}"

    @property
    def summary(self) -> str:
        """First line of the docstring."""
        return (inspect.getdoc(self.target) or "").partition("\n")[0]

    @property
    def parameters(self) -> dict[str, inspect.Parameter]:
        """Arguments by name (`parameters_of`)."""
        return parameters_of(self.target)

    @property
    def node(self) -> dict[str, Any]:
        """What the component's YAML says, ``_target_`` and every option with its default.

        Tensordict keys are left out: in a configured pipeline they are the builder's.
        """
        facts = FACTS.get(self.group, ())
        defaults = {
            name: one.default
            for name, one in self.parameters.items()
            if one.default is not one.empty and name not in facts and "NestedKey" not in str(one.annotation)
        }
        return {"_target_": self.path, **defaults, **self.options, **BUILDER_KEYS.get(self.group, {})}


def parameters_of(target: Callable) -> dict[str, inspect.Parameter]:
    """Arguments of a function or of a constructor by name, with those that a constructor passes on to its parents.

    Args:
        target: a class or a function.

    Example:
        >>> class Parent:
        ...     def __init__(self, size: int, *, margin: float = 0.3) -> None: ...
        >>> class Child(Parent):
        ...     def __init__(self, size: int, *, scale: float = 1.0, **options: float) -> None: ...
        >>> list(parameters_of(Child))
        ['size', 'scale', 'margin']
    """
    # Of the constructors themselves: TorchRL's metaclasses hide them behind (*args, **kwargs).
    functions: list[Callable] = [target]
    if inspect.isclass(target):
        functions = [vars(one)["__init__"] for one in target.__mro__ if "__init__" in vars(one)]
    found: dict[str, inspect.Parameter] = {}
    for function in functions:
        parameters = inspect.signature(function).parameters
        found |= {key: one for key, one in parameters.items() if key not in found}
        if all(one.kind is not one.VAR_KEYWORD for one in parameters.values()):
            break
    return {
        key: one
        for key, one in found.items()
        if key != "self" and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
    }


_ENTRIES: dict[tuple[str, str], Entry] = {}


def register(group: str, name: str, **options: Any) -> Callable[[Component], Component]:
    """Make a component known under a name: decorate its class, once per name.

    Args:
        group: one of the groups in `FACTS`.
        name: the choice, in lower case with underscores.
        **options: values that differ from the signature's defaults under this name.

    Returns:
        A decorator that returns what it was given.

    Raises:
        ValueError: for an unknown group, a name that is taken, or an option the component does not have.

    Example:
        >>> @register("miner", "doctest")
        ... class DoctestMiner:
        ...     "Mines nothing."
        ...     def __init__(self, anchors: int = 3) -> None: ...
        >>> lookup("miner", "doctest").summary, _ENTRIES.pop(("miner", "doctest")).node["anchors"]
        ('Mines nothing.', 3)
    """

    def decorate(target: Component) -> Component:
        if group not in FACTS:
            raise ValueError(f"Unknown group {group!r}: components belong to one of {sorted(FACTS)}.")
        entry, taken = Entry(group, name, target, options), _ENTRIES.get((group, name))
        # A plug-in may be imported before our own component of that name, which then takes it back.
        if taken is not None and taken.path != entry.path and not entry.path.startswith("gaze_torchrl."):
            raise ValueError(f"{group}={name} is {taken.path} already: register {entry.path} under another name.")
        if unknown := sorted(set(options) - set(entry.parameters)):
            raise ValueError(f"{entry.path} takes no {unknown}; it takes {sorted(entry.parameters)}.")
        _ENTRIES[group, name] = entry
        return target

    return decorate


def entries(group: str | None = None) -> Iterator[Entry]:
    """Registered components, of one group or of all, sorted by group and name."""
    yield from (_ENTRIES[key] for key in sorted(_ENTRIES) if group in (None, key[0]))


def lookup(group: str, name: str) -> Entry:
    """The component of a name.

    Raises:
        KeyError: with the names there are.
    """
    if (group, name) not in _ENTRIES:
        raise KeyError(f"No {group}={name}: there are {[entry.name for entry in entries(group)]}.")
    return _ENTRIES[group, name]


@dataclass(frozen=True)
class Plugins:
    """What installed packages bring.

    Args:
        folders: of YAML files, by plug-in: the ``configs`` folders beside the modules.
        broken: plug-ins that could not be imported, with the reason.
    """

    folders: dict[str, Path]
    broken: dict[str, str]


def load() -> Plugins:
    """Import every component of the package and every plug-in."""
    for folder in ("modules", "replay", "objectives", "envs"):
        importlib.import_module(f"gaze_torchrl.{folder}")
    return load_plugins()


@cache
def load_plugins() -> Plugins:
    """Import the modules that installed packages name under the entry point group ``gaze_torchrl.plugins``.

    Importing them registers their components. One that fails does not stop the others.
    """
    folders, broken = {}, {}
    for plugin in entry_points(group="gaze_torchrl.plugins"):
        try:
            plugin.load()
        except Exception as error:  # whatever a stranger's module raises must not take the command down
            broken[plugin.name] = f"{plugin.value}: {type(error).__name__}: {error}"
            continue
        file = sys.modules[plugin.module].__file__
        if file and (folder := Path(file).parent / "configs").is_dir():
            folders[plugin.name] = folder
    return Plugins(folders, broken)
