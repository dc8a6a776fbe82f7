"""Cost of gazes, readouts and contrastive losses beside the encoder, as ratios of CPU time in one run.

python benchmarks/gaze_cost.py [--batch 256] [--size 64] [--repeats 15]
"""

import argparse
import time
from collections.abc import Callable

import torch
from tensordict import TensorDict
from torch import Tensor, nn

from gaze_torchrl.modules import (
    AttentionPoolGaze,
    FineCNN,
    FlattenReadout,
    FovealGaze,
    GazeModule,
    GlimpseReadout,
    MaskGaze,
    MLPHead,
    NatureCNN,
    PatchGaze,
    PoolReadout,
    SpatialSoftmaxGaze,
    TransformerHead,
)
from gaze_torchrl.objectives import InfoNCEContrastiveLoss, SoftMarginContrastiveLoss, TripletContrastiveLoss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--size", type=int, default=64, help="image height and width, pixels")
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)

    pixels = torch.randint(0, 256, (arguments.batch, 3, arguments.size, arguments.size), dtype=torch.uint8)
    fine = FineCNN()
    features = fine(pixels).detach().requires_grad_()
    size = (features.shape[1], tuple(features.shape[-2:]))
    cases = {"FineCNN": backward(fine, pixels), "NatureCNN": backward(NatureCNN(), pixels)}
    gazes = {
        "foveal": FovealGaze(*size),
        "foveal, mlp head": FovealGaze(*size, head=MLPHead(*size)),
        "foveal, transformer head": FovealGaze(*size, head=TransformerHead(*size)),
        "multi_foveal, 8 foveae": FovealGaze(*size, num_foveae=8),
        "patch": PatchGaze(size[0]),
        "mask": MaskGaze(size[0]),
        "attention_pool": AttentionPoolGaze(size[0]),
        "spatial_softmax": SpatialSoftmaxGaze(*size),
    }
    cases |= {f"gaze {name}": backward(gaze, features) for name, gaze in gazes.items()}
    gaze = GazeModule(gazes["multi_foveal, 8 foveae"])
    seen = gaze(TensorDict({"features": features.detach()}, [arguments.batch])).detach()
    readouts = {
        "glimpse, 8 foveae": GlimpseReadout(size[0], num_foveae=8),
        "flatten": FlattenReadout(*size),
        "pool": PoolReadout(size[0]),
    }
    cases |= {f"readout {name}": backward(readout, seen) for name, readout in readouts.items()}
    losses = {"triplet": TripletContrastiveLoss, "soft_margin": SoftMarginContrastiveLoss}
    losses["info_nce"] = InfoNCEContrastiveLoss
    for count in (64, 256):
        triplets = TensorDict({"valid": torch.ones(count, dtype=torch.bool)}, [count])
        for name in ("anchor", "positive", "negative"):
            triplets[name] = {"features": torch.rand(count, *features.shape[1:]).half(), "label": torch.rand(count)}
        batch = TensorDict({"triplets": triplets}, [count])
        for name, loss in losses.items():
            cases[f"contrast {name}, {count} triplets"] = backward(loss(gaze, num_triplets=count), batch)

    best = measure(cases, arguments.repeats)
    print(f"forward + backward, batch {arguments.batch}, {arguments.size} px, map {size[1]}, one thread, CPU ms")
    print(f"{'':36}{'ms':>8}{'/ FineCNN':>12}{'/ NatureCNN':>13}")
    for name, value in best.items():
        ratios = (value / best[encoder] for encoder in ("FineCNN", "NatureCNN"))
        print(f"{name:36}{1e3 * value:8.2f}" + "".join(f"{ratio:12.2f}" for ratio in ratios))
    beside_nature(84, 4, 256, arguments.repeats)
    beside_nature(128, 3, 128, arguments.repeats)


def beside_nature(size: int, channels: int, batch: int, repeats: int) -> None:
    """One fovea on the map of NatureCNN, beside NatureCNN with its layer of 512 units, both eager and compiled."""
    pixels = torch.randint(0, 256, (batch, channels, size, size), dtype=torch.uint8)
    encoder = NatureCNN(in_channels=channels)
    features = encoder(pixels).detach().requires_grad_()
    gaze = FovealGaze(features.shape[1], tuple(features.shape[-2:]))
    network = nn.Sequential(encoder, nn.Flatten(), nn.Linear(features[0].numel(), 512), nn.ReLU())
    cases = {"eager": (network, gaze), "compiled": (torch.compile(network), torch.compile(gaze))}
    calls = {f"{mode}/{i}": backward(one, (pixels, features)[i]) for mode in cases for i, one in enumerate(cases[mode])}
    best = measure(calls, repeats + 2)  # the first ones compile
    print(f"{batch} images of {channels} x {size} x {size}: NatureCNN and 512 units, ms; the gaze, ms; of NatureCNN")
    for mode in cases:
        whole, part = best[f"{mode}/0"], best[f"{mode}/1"]
        print(f"  {mode:10}{1e3 * whole:8.1f}{1e3 * part:8.2f}{part / best['eager/0']:8.1%}")


def measure(cases: dict[str, Callable[[], None]], repeats: int) -> dict[str, float]:
    """The least CPU time of each call, seconds."""
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(repeats):  # interleaved, so that a slow moment of the machine hits all alike
        for name, run in cases.items():
            start = time.process_time()
            run()
            seconds[name].append(time.process_time() - start)
    return {name: min(times) for name, times in seconds.items()}


def backward(module: nn.Module, inputs: Tensor | TensorDict) -> Callable[[], None]:
    """A call of the module and the gradient of all it writes."""
    # Not accumulated: that is the optimizer's affair, once per step.
    leaves = [one for one in [*module.parameters(), inputs] if getattr(one, "requires_grad", False)]

    def run() -> None:
        outputs = module(inputs.copy() if isinstance(inputs, TensorDict) else inputs)
        if isinstance(outputs, TensorDict):
            outputs = [outputs[key] for key in module.out_keys]
        tensors = [outputs] if isinstance(outputs, Tensor) else outputs
        torch.autograd.grad(sum(one.sum() for one in tensors if one.requires_grad), leaves, allow_unused=True)

    return run


if __name__ == "__main__":
    main()
