"""Settings of every test: one thread (small networks are slower on two) and a fixed seed; slow files come first."""

import importlib.util
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


def declare_torchvision() -> None:
    """Registries serve torchvision built for CUDA. Beside a CPU torch its compiled operators do not load, and without
    these two declarations it refuses to be imported; its models use none of them."""
    found = importlib.util.find_spec("torchvision")
    if found is None or found.origin is None or torch.version.cuda is not None:
        return
    compiled = Path(found.origin).with_name("_C.so")
    if compiled.exists() and b"libtorch_cuda" in compiled.read_bytes():
        operators = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        KEPT.append(operators)  # they go with it


KEPT: list[torch.library.Library] = []
declare_torchvision()


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first: a worker that got one last would keep the others waiting for minutes."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
