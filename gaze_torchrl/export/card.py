"""The model card: what was trained, how well it does, how to use it, what it is not for."""

from __future__ import annotations

import csv
from importlib.metadata import version
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

__all__ = ["model_card"]


def model_card(path: Path, config: DictConfig, spaces: dict[str, Any], frames: int, outputs: list[str]) -> str:
    """A README for the exported policy.

    Args:
        path: the run folder.
        config: its configuration.
        spaces: what the agent sees and does.
        frames: what it has learnt from.
        outputs: names of what the policy returns.

    Returns:
        Markdown, with the evaluation of these very weights.
    """
    with (path / "evaluation.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if int(row["frames"]) == frames]
    measured = {name: value for row in rows for name, value in row.items() if name != "frames" and value}
    gaze, loss = config.gaze._target_.rsplit(".")[-1], config.loss.objective._target_.rsplit(".")[-1]
    contrast = "none" if config.contrast._target_ is None else config.contrast._target_.rsplit(".")[-1]
    packages = ", ".join(f"{name} {version(name)}" for name in ("gaze_torchrl", "torch", "torchrl", "tensordict"))
    shape = ", ".join(map(str, spaces["pixels"]))
    proprio = "" if spaces["proprio"] is None else f" and `proprio` float32 [B, {spaces['proprio']}]"
    call = "policy(pixels)" if spaces["proprio"] is None else "policy(pixels, proprio)"
    lines = [
        f"# {gaze} on {config.task.env}: {config.task.name}",
        "",
        f"Trained by {loss} for {frames:,} frames (seed {config.seed}), contrast: {contrast}. {packages}.",
        "",
        "## Evaluation",
        "",
        f"{config.evaluation.episodes} episodes with seed {config.evaluation.seed}, actions without noise:",
        "",
        "| metric | value |",
        "|---|---|",
        *(f"| {name} | {float(value):.3f} |" for name, value in measured.items()),
        "",
        "## Use",
        "",
        f"`pixels` uint8 [B, {shape}]{proprio} in; {', '.join(f'`{name}`' for name in outputs)} out.",
        "",
        "```python",
        "from pathlib import Path",
        "from gaze_torchrl.export import load_policy",
        "",
        'policy = load_policy(Path("."))  # plain PyTorch; nothing is unpickled',
        f'action = {call}["action"]',
        "```",
        "",
        'Without this package: `torch.export.load("policy.pt2").module()`, or, if it is here, `policy.onnx`.',
        "",
        "## Limits",
        "",
        f"It has seen pictures [{shape}] of this one task, with this camera and these actions "
        f"({spaces['action']['kind']}); `gaze-eval RUN suite=...` says how it fares elsewhere. Where the gaze points "
        "is what the policy reads, not an explanation of what it does.",
        "",
        "`config.yaml` is the whole configuration; the run folder has every metric.",
        "",
    ]
    return "\n".join(lines)
