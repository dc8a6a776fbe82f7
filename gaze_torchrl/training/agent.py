"""The agent: environment, encoder, gaze, readout and actor, built once from the configuration."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from hydra.utils import get_object
from omegaconf import DictConfig
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase, TensorDictSequential
from tensordict.utils import NestedKey
from torchrl.envs import EnvBase

from gaze_torchrl.modules import FiLM, GazeModule, MapGeometry, Trunk, gaze_actor
from gaze_torchrl.registry import BUILDER_KEYS
from gaze_torchrl.training.assemble import assemble
from gaze_torchrl.training.explain import ConfigError

__all__ = ["Agent", "build_agent", "build_env", "rebuild_agent"]


class _Policy(TensorDictSequential):
    """Modules that write some of their outputs only.

    TensorDictSequential has ``selected_out_keys`` for this, but keeps all of a nested tensordict if it keeps a part:
    the foveae would be stored with the mean, and take as much memory as the frames.
    """

    def __init__(self, *modules: TensorDictModuleBase, keys: list[NestedKey]) -> None:
        super().__init__(*modules)
        self.out_keys = keys

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        return tensordict.update(super().forward(tensordict.copy()).select(*self.out_keys))


@dataclass
class Agent:
    """What acts: the policy and where its gaze points.

    Args:
        actor: pixels and proprioception to an action; its first module is the `Trunk`.
        geometry: from the gaze's coordinates to the image's.
        sizes: what the data decided: ``in_channels`` of the features, ``map_size``, ``proprio_dim``, ``num_foveae``.
    """

    actor: TensorDictSequential
    geometry: MapGeometry
    sizes: dict

    @property
    def trunk(self) -> Trunk:
        """Encoder, gaze and readout, from pixels and proprioception to the embedding."""
        return self.actor[0]

    @property
    def gaze(self) -> GazeModule:
        """Where the trunk looks."""
        return self.trunk.gaze

    def policy(self, *heads: TensorDictModuleBase, keep: tuple[NestedKey, ...] = ()) -> TensorDictSequential:
        """Actor and further heads as one policy that writes the action and its distribution, what the heads say, the
        gaze's place, and what to ``keep``: what else passes through the networks is large and would only go stale.
        """
        distribution = [key for key in self.actor.out_keys if key in ("action_log_prob", "loc", "scale", "logits")]
        outputs: list[NestedKey] = [key for head in heads for key in head.out_keys]
        keys = ["action", *distribution, *outputs, *self._gaze_keys("mean", "covariance"), *keep]
        return _Policy(self.actor, *heads, keys=keys)

    def watched_policy(self) -> TensorDictSequential:
        """The policy with all that its gaze shows, for evaluation and videos."""
        return self.policy(keep=tuple(self._gaze_keys("map", "foveae")))

    def _gaze_keys(self, *names: str) -> list[NestedKey]:
        return [key for key in self.gaze.out_keys if key[-1] in names]


def build_env(config: DictConfig, num_envs: int, seed: int) -> EnvBase:
    """The configured environment, seeded.

    Args:
        config: the whole configuration.
        num_envs: environments in the batch.
        seed: of the environment.

    Raises:
        ConfigError: if the device cannot be used or the environment refuses an argument.
    """
    try:
        torch.empty(0, device=config.device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device={config.device} cannot be used here: {error}") from error
    node = config.env.copy()
    node.num_envs = num_envs
    env = assemble(node, "env", device=torch.device(config.device))
    env.set_seed(seed)
    return env


def build_agent(config: DictConfig, env: EnvBase) -> Agent:
    """Encoder, gaze, readout and actor for the observations and actions of an environment.

    Args:
        config: the whole configuration.
        env: what the agent will act in.

    Raises:
        ConfigError: if a component refuses its options, or two do not fit together.
    """
    channels, height, width = env.observation_spec["pixels"].shape[-3:]
    proprio = env.observation_spec.get("proprio", None)
    encoder = assemble(config.encoder, "encoder", in_channels=channels)
    augment = config.augment._target_ and get_object(config.augment._target_)
    for group, part in (("encoder", encoder), ("augment", augment)):
        if (reads := getattr(part, "in_channels", channels)) != channels:
            raise ConfigError(
                f"{getattr(part, '__name__', type(part).__name__)} reads pictures of {reads} channels, but "
                f"env={config.task.env} shows {channels}: choose another {group}, or one colour picture (no "
                "frame_stack, no depth)."
            )
    geometry = encoder.geometry(height, width)
    sizes = {
        "in_channels": encoder.out_channels,
        "map_size": geometry.size,
        "proprio_dim": 0 if proprio is None else proprio.shape[-1],
    }
    gaze = _build_gaze(config, sizes)
    if hasattr(gaze, "num_foveae"):
        sizes["num_foveae"] = gaze.num_foveae
    film = None
    if config.gaze.condition:
        if proprio is None:
            raise ConfigError(f"gaze.condition=true needs proprioception, which env={config.task.env} does not give.")
        if not list(gaze.parameters()):
            raise ConfigError(f"gaze.condition=true does nothing for {type(gaze).__name__}, which looks at no feature.")
        film = FiLM(sizes["in_channels"], sizes["proprio_dim"])
    readout = assemble(config.readout, "readout", **sizes)
    foveated = "foveated" if "foveated" in readout.in_keys else None
    gaze_module = GazeModule(gaze, foveated=foveated, rl_gradient=config.gaze.rl_gradient, film=film)
    written = {*gaze_module.in_keys, *gaze_module.out_keys, *env.observation_spec.keys(True, True)}
    if unwritten := [key for key in readout.in_keys if key not in written]:
        raise ConfigError(
            f"{type(readout).__name__} reads {unwritten}, which {type(gaze).__name__} does not write: a gaze without a "
            "location goes with readout=flatten or readout=pool."
        )
    if foveated is None and not any(key[-1] == "map" for key in readout.in_keys):
        for key, neutral in {"periphery": 0.0, "normalize": "peak"}.items():
            if (value := config.gaze.get(key, neutral)) != neutral:
                raise ConfigError(
                    f"gaze.{key}={value} changes the map, which {type(readout).__name__} does not read: choose "
                    f"readout=flatten or pool, or gaze.{key}={neutral}."
                )
    try:
        actor = gaze_actor(
            encoder,
            gaze_module,
            readout,
            env.action_spec_unbatched,
            policy=config.loss.policy,
            hidden=config.loss.hidden,
            initial_log_std=config.loss.initial_log_std,
        )
    except TypeError as error:  # actions that no policy here can take
        raise ConfigError(f"env={config.task.env}: {error}") from error
    return Agent(actor.to(torch.device(config.device)), geometry, sizes)


def rebuild_agent(config: DictConfig, env: EnvBase) -> Agent:
    """An agent whose weights are loaded next: the file of a pretrained encoder's is not asked for.

    Args:
        config, env: as for `build_agent`.
    """
    if config.encoder.get("weights") is not None:
        config = config.copy()
        config.encoder.weights = None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* stays frozen at random weights")
        return build_agent(config, env)


def _build_gaze(config: DictConfig, sizes: dict) -> torch.nn.Module:
    node = config.gaze
    skip, facts = [*BUILDER_KEYS["gaze"], "head"], dict(sizes)
    if node.get("head") is not None:
        facts["head"] = assemble(node.head, "gaze.head", num_foveae=node.num_foveae, **sizes)
    return assemble(node, "gaze", skip=skip, **facts)
