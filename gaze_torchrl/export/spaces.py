"""What an agent sees and does, as JSON: enough to build its networks where its environment is not installed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torchrl.data import Bounded, Categorical, Composite, OneHot, TensorSpec, Unbounded
from torchrl.envs import EnvBase

__all__ = ["describe", "stand_in"]

DISCRETE = {"one_hot": OneHot, "categorical": Categorical}


def describe(env: EnvBase) -> dict[str, Any]:
    """The spaces of one environment.

    Args:
        env: with ``pixels`` and maybe ``proprio``.

    Returns:
        ``pixels`` [C, H, W], ``proprio`` its size or None, ``action``: its kind, and bounds or number of choices.
    """
    spec, proprio = env.action_spec_unbatched, env.observation_spec.get("proprio", None)
    kinds = [kind for kind, kind_class in DISCRETE.items() if type(spec) is kind_class]
    action: dict[str, Any] = {"kind": kinds[0], "choices": spec.space.n} if kinds else _bounds(spec)
    return {
        "pixels": list(env.observation_spec["pixels"].shape[-3:]),
        "proprio": None if proprio is None else proprio.shape[-1],
        "action": action,
    }


def stand_in(spaces: dict[str, Any]) -> Any:
    """What `build_agent` asks of an environment: its specs.

    Args:
        spaces: as `describe` returned them.
    """
    observed = {"pixels": Unbounded(tuple(spaces["pixels"]), dtype=torch.uint8)}
    if spaces["proprio"] is not None:
        observed["proprio"] = Unbounded((spaces["proprio"],))
    action = spaces["action"]
    if action["kind"] in DISCRETE:
        spec = DISCRETE[action["kind"]](action["choices"])
    else:
        spec = Bounded(torch.tensor(action["low"]), torch.tensor(action["high"]))
    return SimpleNamespace(observation_spec=Composite(observed), action_spec_unbatched=spec)


def _bounds(spec: TensorSpec) -> dict[str, Any]:
    return {"kind": "continuous", "low": spec.space.low.tolist(), "high": spec.space.high.tolist()}
