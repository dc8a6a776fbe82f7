"""Small networks and triplets for the contrastive losses."""

import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule

from gaze_torchrl.modules import FiLM, FineCNN, FovealGaze, GazeModule

MEMBERS = ("anchor", "positive", "negative")


def gaze_module(film=False, **options):
    return GazeModule(FovealGaze(4, (8, 8), **options), film=FiLM(4, 3) if film else None)


def encoder_module():
    return TensorDictModule(FineCNN((4, 4)), in_keys=["pixels"], out_keys=["features"])


def batch(n=6, valid=None, dtype=torch.float32):
    def member():
        return {
            "features": torch.rand(n, 4, 8, 8, dtype=dtype),
            "pixels": torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8),
            "proprio": torch.randn(n, 3, dtype=dtype),
            "label": torch.randn(n),
        }

    valid = torch.ones(n, dtype=torch.bool) if valid is None else torch.tensor(valid)
    return TensorDict({"triplets": {**{name: member() for name in MEMBERS}, "valid": valid}}, [n])


def reached(loss, modules):
    """Whether the gradient reaches each module."""
    return [
        any(
            gradient.abs().sum() > 0
            for gradient in torch.autograd.grad(
                loss, list(module.parameters()), retain_graph=True, materialize_grads=True
            )
        )
        for module in modules
    ]
