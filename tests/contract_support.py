"""How a component of each group is built, fed and called: what tests/test_contract*.py need to know of it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from tensordict.utils import NestedKey
from torch import Tensor, nn

from gaze_torchrl import registry
from gaze_torchrl.modules import FineCNN, FovealGaze, GazeModule, MomentsHead, NoGaze, PoolReadout, Trunk

CHANNELS, MAP, FOVEAE, PROPRIO, SIDE = 4, (8, 9), 3, 3, 40

# An entry of a tensordict, by the last name of its key and for any leading dims.
SAMPLES = {
    "pixels": lambda *lead: torch.randint(0, 256, (*lead, 3, SIDE, SIDE), dtype=torch.uint8),
    "features": lambda *lead: torch.rand(*lead, CHANNELS, *MAP),
    "foveated": lambda *lead: torch.rand(*lead, CHANNELS, *MAP),
    "proprio": lambda *lead: torch.randn(*lead, PROPRIO),
    "map": lambda *lead: torch.rand(*lead, *MAP),
    "foveae": lambda *lead: torch.rand(*lead, FOVEAE, *MAP),
    "mean": lambda *lead: 2 * torch.rand(*lead, FOVEAE, 2) - 1,
    "covariance": lambda *lead: 0.1 * torch.eye(2) + torch.rand(*lead, FOVEAE, 1, 1) * torch.ones(2, 2),
    "label": lambda *lead: torch.randn(lead),
    "valid": lambda *lead: torch.arange(math.prod(lead)).reshape(lead) > 0,
    "done": lambda *lead: torch.rand(*lead, 1) < 0.2,
}


def sample(keys: Iterable[NestedKey], *lead: int) -> TensorDict:
    td = TensorDict({}, lead)
    for key in keys:
        td[key] = SAMPLES[last(key)](*lead)
    return td


def last(key: NestedKey) -> str:
    return key if isinstance(key, str) else key[-1]


def leaves(td: TensorDict, dtype: torch.dtype = torch.float64) -> tuple[TensorDict, dict[NestedKey, Tensor]]:
    """The same in floating point, pixels inside of [0, 1], and those entries that a gradient could reach."""
    td = td.apply(lambda one: 0.1 + one / 320 if one.dtype == torch.uint8 else one)
    td = td.apply(lambda one: one.to(dtype).requires_grad_() if one.is_floating_point() else one)
    return td, {key: one for key, one in td.items(True, True) if one.is_floating_point()}


class Adapter:
    """A component as a function from a tensordict to named tensors; this one is for those of feature maps."""

    def inputs(self, component: Any, *lead: int) -> TensorDict:
        return sample(["features"], *lead)

    def call(self, component: Any, td: TensorDict) -> dict[str, Tensor]:
        raise NotImplementedError

    def constant(self, key: NestedKey) -> bool:
        """Whether no gradient may reach an input."""
        return False


class Encoder(Adapter):
    def inputs(self, component, *lead):
        return sample(["pixels"], *lead)

    def call(self, component, td):
        return {"features": component(td["pixels"])}


class Gaze(Adapter):
    def call(self, component, td):
        return dict(zip(component.out_names, component(td["features"]), strict=True))


class Head(Adapter):
    """Takes flat batches: the gaze around it flattens them."""

    def call(self, component, td):
        places = component(td["features"].reshape(-1, CHANNELS, *MAP))
        return {
            name: one.reshape(*td.batch_size, *one.shape[1:])
            for name, one in zip(("mean", "covariance"), places, strict=True)
        }


class Key(Adapter):
    """Takes flat batches: `TripletReplay` flattens them."""

    def inputs(self, component, *lead):
        return sample(getattr(component, "reads", ("features",)), *lead)

    def call(self, component, td):
        rows = [column.reshape(-1, *column.shape[td.ndim :]) for column in td.values()]
        return {"key": component(*rows).reshape(*td.batch_size, -1)}


class Readout(Adapter):
    def inputs(self, component, *lead):
        return sample(component.in_keys, *lead)

    def call(self, component, td):
        return {"embedding": component(td.copy())[component.out_keys[0]]}


class Contrast(Adapter):
    def inputs(self, component, *lead):
        return sample(component.in_keys, *lead)

    def call(self, component, td):
        torch.manual_seed(0)  # views are drawn from torch's own generator
        return dict(component(td).items())

    def constant(self, key):
        return last(key) != "pixels"


class Regularizer(Contrast):
    def constant(self, key):
        return key[0] == "next"  # stored, not computed


class Augment(Adapter):
    def inputs(self, component, *lead):
        return sample(component.keys, *lead)

    def call(self, component, td):
        return dict(component(td).select(*component.keys).flatten_keys().items())


class Labels(Adapter):
    def inputs(self, component, *lead):
        return steps(7)

    def call(self, component, td):
        return dict(zip(("label", "known"), component(td), strict=True))


class Normalize(Adapter):
    def inputs(self, component, *lead):
        columns = {"label": 5 * torch.randn(30), "known": torch.rand(30) < 0.7, "proprio": torch.randn(30, PROPRIO)}
        return TensorDict(columns, [30])

    def call(self, component, td):
        explaining = [td["proprio"]] if getattr(component, "reads", None) == "proprio" else []
        return {"label": component(td["label"], td["known"], *explaining)}


class Miner(Adapter):
    def inputs(self, component, *lead):
        return bank(40)

    def call(self, component, td, seed=0):
        columns = (td[name] for name in ("key", "label", "known", "episode", "step"))
        return component(*columns, torch.Generator().manual_seed(seed))._asdict()


ADAPTERS: dict[str, Adapter] = {
    "encoder": Encoder(),
    "gaze": Gaze(),
    "gaze/head": Head(),
    "readout": Readout(),
    "key": Key(),
    "contrast": Contrast(),
    "regularizer": Regularizer(),
    "augment": Augment(),
    "labels": Labels(),
    "normalize": Normalize(),
    "miner": Miner(),
}


def facts(entry: registry.Entry, place: Any = lambda key: key) -> dict[str, Any]:
    """What the data decides, for a small example; ``place`` moves the keys that the networks read."""
    head = MomentsHead(CHANNELS, num_foveae=entry.node.get("num_foveae", 1))
    gaze = GazeModule(FovealGaze(CHANNELS, MAP), features=place("features"))
    encoder = TensorDictModule(FineCNN((4, CHANNELS)), in_keys=[place("pixels")], out_keys=[place("features")])
    known = {
        "in_channels": 3 if entry.group == "encoder" else CHANNELS,
        "map_size": MAP,
        "proprio_dim": PROPRIO,
        "num_foveae": FOVEAE,
        "head": head,
        "gaze_network": gaze,
        "encoder_network": encoder,
        "metric": "cosine",
    }
    return {name: known[name] for name in registry.FACTS[entry.group] if name in known}


def build(entry: registry.Entry, seed: int = 0, **options: Any) -> Any:
    """A component with its default options, whose parameters depend on the seed; skipped where a package lacks."""
    torch.manual_seed(seed)
    offered = {"seed": seed, **facts(entry), **options}
    if entry.group == "regularizer":  # by default its coefficients are 0, which means off
        offered |= {name: 0.5 + 0.1 * seed for name, one in entry.parameters.items() if one.default == 0.0}
    given = {name: value for name, value in offered.items() if name in entry.parameters}
    try:
        component = entry.target(**{**given, **entry.options})
    except ImportError as error:
        if "gaze_torchrl[" not in str(error):  # the extra that would bring the package
            raise
        pytest.skip(str(error))
    if isinstance(component, nn.Module):
        # Some start at zero, where they would all be alike.
        for parameter in component.parameters():
            if parameter.requires_grad:
                parameter.data.add_(0.03 * torch.randn_like(parameter))
    return component


def keyed(entry: registry.Entry, place: Any) -> tuple[nn.Module, list[NestedKey], list[NestedKey]]:
    """The component as it works on tensordicts, with its keys where ``place`` puts them; keys read and written."""
    component = build(entry)
    if entry.group in ("contrast", "regularizer"):
        component = build(entry, **facts(entry, place))
        names = [one.name for one in fields(component.tensor_keys)]
        component.set_keys(**{name: place(getattr(component.tensor_keys, name)) for name in names})
    elif entry.group == "readout":
        names = [name for name, one in entry.parameters.items() if "NestedKey" in str(one.annotation)]
        component = build(entry, **{name: place(entry.parameters[name].default) for name in names})
    elif entry.group == "augment":
        keys = [place(key) for key in component.keys]
        return build(entry, keys=keys), keys, keys
    else:
        component = on_tensordicts(entry, component, place)
    return component, component.in_keys, component.out_keys


def on_tensordicts(entry: registry.Entry, component: Any, place: Any) -> nn.Module:
    """A gaze, a head or an encoder within what gives it keys."""
    gaze = component if entry.group == "gaze" else NoGaze(CHANNELS, MAP)
    if entry.group == "gaze/head":
        gaze = FovealGaze(CHANNELS, MAP, num_foveae=FOVEAE, head=component)
    features, foveated, seen = place("features"), place("foveated"), place("gaze")
    gaze = GazeModule(gaze, features=features, foveated=foveated, gaze_key=seen)
    if entry.group != "encoder":
        return gaze
    readout = PoolReadout(component.out_channels, features=features, gaze=seen, embedding=place("embedding"))
    return Trunk(component, gaze, readout, pixels=place("pixels"))


def steps(trajectories: int) -> TensorDict:
    """Steps [T] grouped by trajectory, in time order; some trajectories end, some are cut, some still run."""
    lengths = torch.randint(1, 9, (trajectories,))
    trajectory = torch.arange(trajectories).repeat_interleave(lengths)
    count, last = len(trajectory), trajectory.new_zeros(len(trajectory), dtype=torch.bool)
    last[lengths.cumsum(0) - 1] = True
    done = last & (torch.rand(count) < 0.8)
    return TensorDict(
        {
            "trajectory": trajectory,
            "step": torch.cat([torch.arange(int(length)) for length in lengths]),
            "reward": torch.randn(count),
            "next_value": torch.randn(count),
            "success": torch.rand(count) < 0.2,
            "done": done,
            "terminated": done & (torch.rand(count) < 0.5),
        },
        [count],
    )


def bank(count: int, seed: int = 0) -> TensorDict:
    """What a miner sees of steps [N] of a few interleaved episodes; no two keys or labels are the same."""
    generator = torch.Generator().manual_seed(seed)
    episode = torch.randint(6, (count,), generator=generator)
    return TensorDict(
        {
            "key": torch.randn(count, 5, generator=generator),
            "label": torch.randn(count, generator=generator),
            "known": torch.rand(count, generator=generator) < 0.8,
            "episode": episode,
            "step": torch.stack([(episode[:row] == episode[row]).sum() for row in range(count)]),
        },
        [count],
    )


def rollout(lanes: int, length: int, seed: int) -> TensorDict:
    """What a collector hands to the replay buffer, [N, T]: an episode per lane."""
    generator = torch.Generator().manual_seed(seed)
    done = torch.zeros(lanes, length, 1, dtype=torch.bool)
    done[:, -1] = True
    return TensorDict(
        {
            "features": torch.rand(lanes, length, CHANNELS, *MAP, generator=generator),
            "proprio": torch.rand(lanes, length, PROPRIO, generator=generator),
            "collector": {"traj_ids": (torch.arange(lanes) + lanes * seed)[:, None].expand(lanes, length)},
            "next": {
                "reward": torch.rand(lanes, length, 1, generator=generator),
                "state_value": torch.rand(lanes, length, 1, generator=generator),
                "success": torch.rand(lanes, length, 1, generator=generator) < 0.2,
                "done": done,
                "terminated": done,
            },
        },
        [lanes, length],
    )
