"""From a YAML node to the component it names."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torchrl.objectives import LossModule

from gaze_torchrl.registry import parameters_of
from gaze_torchrl.training.explain import ConfigError

__all__ = ["assemble"]


def assemble(
    node: DictConfig, name: str, *, skip: Sequence[str] = (), wrap: Callable[[type], type] | None = None, **facts: Any
) -> Any:
    """Build a component from its YAML node and from what is known only at run time.

    Args:
        node: ``_target_`` and its arguments.
        name: the node's name in the configuration, for messages.
        skip: keys of the node that are not the target's.
        wrap: turns the target into the class that is built, such as `with_auxiliary`.
        **facts: what the data decides (sizes, keys); each target takes those its signature names.

    Returns:
        The component.

    Raises:
        ConfigError: if the target does not take an argument, needs one that nothing gives, or refuses a value.
    """
    factory = instantiate(OmegaConf.masked_copy(node, [str(key) for key in node if key not in skip]), _partial_=True)
    build = factory.func if wrap is None else wrap(factory.func)
    parameters = parameters_of(build)
    unknown = sorted(set(factory.keywords) - set(parameters))
    # TorchRL's losses pass what they do not know up to their parents, and the last one drops it without a word.
    if unknown and inspect.isclass(build) and issubclass(build, LossModule):
        raise ConfigError(f"{name}: {factory.func.__name__} takes no {unknown}; it takes {sorted(parameters)}.")
    known = {key: value for key, value in facts.items() if key in parameters and key not in factory.keywords}
    missing = [
        str(key)
        for key, parameter in parameters.items()
        if parameter.default is parameter.empty and key not in {*known, *factory.keywords}
    ]
    if missing:
        raise ConfigError(
            f"{name}: {factory.func.__name__} needs {missing}, which neither the configuration nor the data gives."
        )
    try:
        return build(*factory.args, **factory.keywords, **known)
    except (TypeError, ValueError) as error:
        takes = sorted(set(parameters) - set(facts))
        raise ConfigError(f"{name}: {error} ({factory.func.__name__} takes {takes}.)") from error
