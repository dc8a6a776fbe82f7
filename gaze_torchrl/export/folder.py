"""The export folder: weights, configuration, spaces, traced programs and a model card."""

from __future__ import annotations

import json
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import DictConfig, OmegaConf
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from gaze_torchrl.export.card import model_card
from gaze_torchrl.export.policy import ExportedPolicy
from gaze_torchrl.export.spaces import describe, stand_in
from gaze_torchrl.training.agent import build_env, rebuild_agent
from gaze_torchrl.training.checkpoints import best_metric, load_agent
from gaze_torchrl.training.experiment import run_config

__all__ = ["export_run", "load_policy"]


def export_run(path: Path, folder: Path | None = None, best: bool = False) -> Path:
    """Write a run's trained policy as files that load without pickle and without the environment.

    ``model.safetensors`` (weights), ``config.yaml`` and ``spaces.json`` (to rebuild the networks: `load_policy`),
    ``policy.pt2`` (`torch.export`), ``policy.onnx`` if the packages of ``gaze_torchrl[onnx]`` are installed, and
    ``README.md``, a model card. The programs take any batch size.

    Args:
        path: a run folder.
        folder: where to; by default ``export`` in the run folder.
        best: the best checkpoint (by ``checkpoint.keep_best``) instead of the newest.

    Returns:
        The folder.

    Raises:
        ConfigError: if the best checkpoint is asked for and none is kept.
        FileNotFoundError: if the path is no run folder, or has no checkpoint.
        CheckpointError: if the checkpoint is refused.
    """
    config = run_config(path, ["device=cpu"])
    if "simulation" in config.env:
        config.env.simulation = "cpu"  # the spaces are the same
    if "weights" in config.encoder:
        config.encoder.weights = None  # of a pretrained encoder: the checkpoint holds them, and so will the folder
    best_by = best_metric(config) if best else None
    env = build_env(config, 1, config.evaluation.seed)
    spaces = describe(env)
    agent = rebuild_agent(config, env)
    env.close()
    frames = load_agent(path, agent, best_by)
    policy = ExportedPolicy(agent, spaces["proprio"] is not None)
    folder = path / "export" if folder is None else folder
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.contiguous() for name, value in policy.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"frames": str(frames)})
    OmegaConf.save(config, folder / "config.yaml")
    (folder / "spaces.json").write_text(json.dumps(spaces, indent=2) + "\n")
    _trace(policy, spaces, folder)
    (folder / "README.md").write_text(model_card(path, config, spaces, frames, list(policy.outputs)))
    return folder


def load_policy(folder: str | Path) -> ExportedPolicy:
    """The policy of an export folder, on the CPU.

    Args:
        folder: as `export_run` wrote it; read only.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if the weights are torn, or do not fit the configuration.
    """
    folder = Path(folder)
    for name in ("model.safetensors", "config.yaml", "spaces.json"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} is no export folder: it has no {name}. gaze-export RUN makes one.")
    spaces = json.loads((folder / "spaces.json").read_text())
    config = cast(DictConfig, OmegaConf.load(folder / "config.yaml"))
    policy = ExportedPolicy(rebuild_agent(config, stand_in(spaces)), spaces["proprio"] is not None)
    try:
        policy.load_state_dict(load_file(folder / "model.safetensors"))
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"{folder / 'model.safetensors'} is refused: {error} Export the run again.") from error
    return policy


def _trace(policy: ExportedPolicy, spaces: dict[str, Any], folder: Path) -> None:
    inputs = policy.example(spaces)
    names = ["pixels", "proprio"][: len(inputs)]
    batch = torch.export.Dim("batch")
    batches = {name: {0: batch} for name in names}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the tracers say of each other
        program = torch.export.export(policy, inputs, dynamic_shapes=batches, strict=False)
        torch.export.save(program, folder / "policy.pt2")
        if all(find_spec(name) for name in ("onnx", "onnxscript")):
            outputs = list(policy.outputs)
            options: dict[str, Any] = {"input_names": names, "output_names": outputs, "external_data": False}
            torch.onnx.export(program, f=folder / "policy.onnx", dynamo=True, verbose=False, **options)
