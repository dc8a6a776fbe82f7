"""The configuration, composed by Hydra from our YAML files and those of plug-ins."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from hydra import compose, initialize_config_dir
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins as HydraPlugins
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gaze_torchrl.registry import entries, load_plugins
from gaze_torchrl.training.explain import ConfigError, config_dir, current_names, explain
from gaze_torchrl.training.validate import validate

__all__ = ["add_plugins", "compose_config"]


def compose_config(overrides: Sequence[str] = ()) -> DictConfig:
    """Compose ``train.yaml`` as ``gaze-train`` does, without running anything.

    Args:
        overrides: as on the command line, such as ``["task=hard", "gaze.num_foveae=1"]``.

    Returns:
        The configuration, validated.

    Raises:
        ConfigError: for an unknown choice or key, or a value that cannot be.

    Example:
        >>> compose_config(["task=hard"]).task.name
        'hard'
    """
    overrides = current_names(overrides)
    add_plugins()
    try:
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            config = compose("train", list(overrides), return_hydra_config=True)
    except HydraException as error:
        raise ConfigError(explain(error, overrides)) from error
    config = _without_hydra(config, keep_run_dir=any(one.startswith("run_dir=") for one in overrides))
    validate(config)  # first: what does not fit may not resolve either
    OmegaConf.resolve(config)
    return config


def add_plugins() -> None:
    """Make the components and the YAML of installed plug-ins choices like ours; a broken one is reported by name."""
    plugins = load_plugins()
    for name, reason in plugins.broken.items():
        warnings.warn(f"The plug-in {name!r} is broken and was left out: {reason}", stacklevel=2)
    HydraPlugins.instance().register(_PluginYAML)
    for entry in entries():
        ours, mine = (f"{entry.group}/{entry.name}.yaml", entry.path.startswith("gaze_torchrl."))
        if (config_dir() / ours).is_file() and not mine:
            warnings.warn(f"{entry.path} was left out: {entry.group}={entry.name} is taken.", stacklevel=2)
        # A component without a YAML file gets the one its signature gives.
        elif not any((folder / ours).is_file() for folder in (config_dir(), *plugins.folders.values())):
            try:
                ConfigStore.instance().store(group=entry.group, name=entry.name, node=entry.node)
            except OmegaConfBaseException as error:
                warnings.warn(f"{entry.path} was left out: YAML cannot hold its defaults ({error}).", stacklevel=2)


class _PluginYAML(SearchPathPlugin):
    """Adds the ``configs`` folders of plug-ins to Hydra's search path."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for name, folder in load_plugins().folders.items():
            search_path.append(name, f"file://{folder}")


def _without_hydra(config: DictConfig, keep_run_dir: bool) -> DictConfig:
    choices = dict(config.hydra.runtime.choices)
    OmegaConf.set_struct(config, False)
    del config["hydra"]
    # ${hydra:...} resolves inside a run only; here the folder's name is all that depends on it.
    if not keep_run_dir:
        config.run_dir = f"runs/{config.task.name}-{choices['gaze']}-{choices['contrast']}-seed{config.seed}"
    OmegaConf.set_struct(config, True)
    return config
