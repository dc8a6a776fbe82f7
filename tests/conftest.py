"""Settings of every test: one thread (small networks are several times slower on two) and a fixed seed."""

import importlib.util

import pytest
import torch

torch.set_num_threads(1)

if importlib.util.find_spec("torchvision") is not None:
    # Registries serve torchvision built for CUDA. Beside a CPU torch its compiled operators do not load, and without
    # these two declarations it refuses to be imported; its models use none of them.
    operators = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
