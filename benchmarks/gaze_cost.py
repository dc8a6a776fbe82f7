"""Cost of the gaze beside the encoder, as ratios of CPU time in one run.

python benchmarks/gaze_cost.py [--batch 256] [--size 64] [--repeats 15]
"""

import argparse
import time
from collections.abc import Callable

import torch
from tensordict import TensorDict

from gaze_torchrl.modules import FineCNN, FovealGaze, GazeModule, GlimpseReadout, NatureCNN
from gaze_torchrl.objectives import TripletContrastiveLoss


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
    map_size = tuple(features.shape[-2:])
    cases: dict[str, Callable[[], object]] = {
        "FineCNN": lambda: fine(pixels).sum().backward(),
        "NatureCNN": backward(NatureCNN(), pixels),
    }
    for foveae in (1, 4):
        gaze = FovealGaze(features.shape[1], map_size, num_foveae=foveae)
        cases[f"gaze, {foveae} foveae, moments"] = backward(gaze, features)
    cases["gaze, 1 fovea, mlp"] = backward(FovealGaze(features.shape[1], map_size, head="mlp"), features)
    module = GazeModule(FovealGaze(features.shape[1], map_size), foveated=None)
    seen = module(TensorDict({"features": features.detach()}, [arguments.batch])).detach()
    readout = GlimpseReadout(features.shape[1])
    cases["glimpse readout"] = lambda: readout(seen.clone(False))["embedding"].sum().backward()
    for triplets in (64, 256):
        maps = {name: torch.rand(triplets, *features.shape[1:]).half() for name in ("anchor", "positive", "negative")}
        td = TensorDict({"triplets": {**maps, "valid": torch.ones(triplets, dtype=torch.bool)}}, [triplets])
        loss = TripletContrastiveLoss(module)
        cases[f"contrast, {triplets} triplets"] = lambda loss=loss, td=td: loss(td)["loss_gaze"].backward()

    seconds = {name: [] for name in cases}
    for _ in range(arguments.repeats):  # interleaved, so that a slow moment of the machine hits all alike
        for name, run in cases.items():
            start = time.process_time()
            run()
            seconds[name].append(time.process_time() - start)
    best = {name: min(times) for name, times in seconds.items()}
    print(f"forward + backward, batch {arguments.batch}, {arguments.size} px, map {map_size}, one thread, CPU ms")
    print(f"{'':28}{'ms':>8}{'/ FineCNN':>12}{'/ NatureCNN':>13}")
    for name, value in best.items():
        ratios = (value / best[encoder] for encoder in ("FineCNN", "NatureCNN"))
        print(f"{name:28}{1e3 * value:8.2f}" + "".join(f"{ratio:12.2f}" for ratio in ratios))


def backward(module: torch.nn.Module, inputs: torch.Tensor) -> Callable[[], None]:
    def run() -> None:
        outputs = module(inputs)
        total = outputs if isinstance(outputs, torch.Tensor) else sum(output.sum() for output in outputs)
        total.sum().backward()

    return run


if __name__ == "__main__":
    main()
