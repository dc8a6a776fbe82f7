"""Exported policies act as the trained ones did, from files that nothing unpickles."""

import csv
import pickletools
import zipfile

import pytest
import torch
from omegaconf import OmegaConf
from torchrl.envs.utils import ExplorationType, set_exploration_type

from gaze_torchrl.export import export_run, load_policy
from gaze_torchrl.export.spaces import describe, stand_in
from gaze_torchrl.training.agent import build_agent, build_env
from gaze_torchrl.training.checkpoints import load_agent
from gaze_torchrl.training.config import compose_config
from gaze_torchrl.training.experiment import evaluate_run
from gaze_torchrl.training.explain import ConfigError
from tests.training.support import TINY, command, tiny_run

QUICK = ["evaluation.video_episodes=0", "total_frames=128"]
RUNS = {
    "ppo": [],
    "sac": ["loss=sac"],
    "transformer": ["gaze/head=transformer"],
    "plain": ["gaze=none", "readout=flatten", "contrast=none"],
}


@pytest.fixture(scope="module", params=RUNS)
def run(request, tmp_path_factory):
    return tiny_run(tmp_path_factory.mktemp(request.param) / "run", *QUICK, *RUNS[request.param])


@pytest.fixture(scope="module")
def exported(run):
    return export_run(run)


def trained(run, batch):
    """Observations, and what the run's own agent does there."""
    config = OmegaConf.load(run / "config.yaml")
    env = build_env(config, batch, 3)
    agent = build_agent(config, env)
    load_agent(run, agent)
    seen = env.reset()
    with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
        return seen, agent.watched_policy()(seen.copy())


@pytest.mark.parametrize("batch", [1, 5])
def test_equal_actions_in_pytorch_torch_export_and_onnx(run, exported, batch):
    seen, acted = trained(run, batch)
    inputs = (seen["pixels"], seen["proprio"])
    policy = load_policy(str(exported))
    with torch.no_grad():
        found = policy(*inputs)
    assert found["action"].equal(acted["action"])
    program = torch.export.load(exported / "policy.pt2").module()
    assert {name: one.shape for name, one in program(*inputs).items()} == {n: one.shape for n, one in found.items()}
    for name, one in program(*inputs).items():
        torch.testing.assert_close(one, found[name], atol=1e-5, rtol=1e-5)
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(exported / "policy.onnx")
    outputs = session.run(list(found), dict(zip(("pixels", "proprio"), (one.numpy() for one in inputs), strict=True)))
    for one, expected in zip(outputs, found.values(), strict=True):
        torch.testing.assert_close(torch.from_numpy(one), expected, atol=1e-5, rtol=1e-5)
    for name in found.keys() - {"action"}:
        assert found[name].equal(acted["gaze", name.removeprefix("gaze_")])


def test_a_pretrained_encoder_loads_without_the_file_of_its_weights(tmp_path, recwarn):
    torchvision = pytest.importorskip("torchvision")
    weights = tmp_path / "resnet18.pt"
    torch.save(torchvision.models.resnet18().state_dict(), weights)
    chosen = ["encoder=pretrained", "encoder.layer=layer1", f"encoder.weights={weights}", "env.image_size=32"]
    run = tiny_run(tmp_path / "run", *QUICK, *chosen)
    seen, acted = trained(run, 2)
    weights.unlink()
    evaluate_run(run)
    found = load_policy(export_run(run))(seen["pixels"], seen["proprio"])
    assert found["action"].equal(acted["action"])
    assert not [one for one in recwarn if "random weights" in str(one.message)]


def test_loads_without_the_environment(exported, monkeypatch):
    monkeypatch.delattr("gaze_torchrl.export.folder.build_env")
    assert load_policy(exported)(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.zeros(2, 2))["action"].shape == (
        2,
        2,
    )


def test_the_card_has_the_numbers_of_these_weights(run, exported):
    card = (exported / "README.md").read_text()
    with (run / "evaluation.csv").open() as file:
        last = list(csv.DictReader(file))[-1]
    assert f"| return | {float(last['return']):.3f} |" in card
    assert f"for {int(last['frames']):,} frames" in card


def test_no_weights_are_pickled(exported):
    with pytest.raises(ValueError, match=r"at position 0, opcode|pickle exhausted|unknown"):
        list(pickletools.genops((exported / "model.safetensors").read_bytes()))
    assert not zipfile.is_zipfile(exported / "model.safetensors")


def test_torn_weights_and_missing_files_are_refused(exported, tmp_path):
    copy = tmp_path / "export"
    copy.mkdir()
    for name in ("model.safetensors", "config.yaml", "spaces.json"):
        (copy / name).write_bytes((exported / name).read_bytes())
    weights = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(ValueError, match=r"model\.safetensors is refused: .* Export the run again"):
        load_policy(copy)
    (copy / "spaces.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no export folder: it has no spaces\.json"):
        load_policy(copy)


def test_proprioception_is_asked_for(exported):
    with pytest.raises(ValueError, match=r"pixels and proprio: call policy\(pixels, proprio\)"):
        load_policy(exported)(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))


def test_the_best_checkpoint(run, tmp_path):
    assert (export_run(run, tmp_path / "best", best=True) / "model.safetensors").exists()
    (run / "config.yaml").write_text((run / "config.yaml").read_text().replace("keep_best: return", "keep_best: null"))
    with pytest.raises(ConfigError, match=r"needs a run with checkpoint\.keep_best"):
        export_run(run, tmp_path / "none", best=True)


@pytest.mark.slow
def test_the_command(tmp_path):
    run = tiny_run(tmp_path / "run", *QUICK)
    done = command("export", str(run), "--to", str(tmp_path / "out"), "checkpoint=best")
    assert done.stdout.strip() == str(tmp_path / "out"), done.stderr
    assert {"model.safetensors", "policy.pt2", "README.md"} <= {one.name for one in (tmp_path / "out").iterdir()}
    missing = command("export", str(tmp_path))
    assert missing.returncode == 2
    assert "is no run folder" in missing.stderr


SPACES = {
    "torch": [*TINY],
    "gymnasium": ["env=gym"],
    "ale_py": ["env=ale", "loss=discrete_sac"],
    "dm_control": ["env=dm_control"],
}


@pytest.mark.parametrize("package", SPACES)
def test_spaces_stand_in_for_the_environment(package):
    pytest.importorskip(package)
    config = compose_config(SPACES[package])
    env = build_env(config, 1, 0)
    real, spaces = build_agent(config, env), describe(env)
    assert describe(stand_in(spaces)) == spaces
    rebuilt = build_agent(config, stand_in(spaces))
    rebuilt.actor.load_state_dict(real.actor.state_dict())
    seen = env.reset()
    with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
        assert real.actor(seen.copy())["action"].equal(rebuilt.actor(seen.copy())["action"])
    env.close()
