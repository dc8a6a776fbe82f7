"""Every YAML composes and builds; what cannot be is refused before the first environment step."""

import pytest
from hydra.utils import get_class
from omegaconf import OmegaConf

from gaze_torchrl.training.agent import build_agent, build_env, build_learner
from gaze_torchrl.training.config import ConfigError, compose_config, config_dir
from tests.training.support import TINY

CHOICES = sorted(
    (group.name, path.stem) for group in config_dir().iterdir() if group.is_dir() for path in group.glob("*.yaml")
)


def belongs(group, name):
    """The overrides a choice needs beside itself."""
    extra = {("gaze", "none"): ["contrast=none"]}.get((group, name), [])
    if group == "task":
        task = OmegaConf.load(config_dir() / "task" / f"{name}.yaml")
        extra = [f"env={task.env}"]
    return [*extra, f"{group}={name}"]


@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_every_yaml_composes_and_every_target_exists(group, name):
    config = compose_config(belongs(group, name))
    for node in (config[key] for key in config if OmegaConf.is_dict(config[key])):
        if node.get("_target_") is not None:
            get_class(node._target_)


@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_every_yaml_says_what_it_is(group, name):
    text = (config_dir() / group / f"{name}.yaml").read_text()
    comments = [line for line in text.splitlines() if line.startswith("# ") and "@package" not in line]
    assert comments, "the first comment is what gaze-list prints"


BUILT = [
    choice for choice in CHOICES if choice[0] in ("encoder", "gaze", "readout", "labels", "miner", "contrast", "loss")
]


@pytest.mark.filterwarnings("ignore:The gaze points into a map")
@pytest.mark.parametrize(("group", "name"), BUILT)
def test_every_component_builds_and_takes_one_update(group, name):
    from gaze_torchrl.training.assemble import assemble
    from gaze_torchrl.training.ppo import estimate_advantage, optimize

    config = compose_config([*TINY, "env.image_size=64", *belongs(group, name)])
    env = build_env(config, config.env.num_envs, 0)
    agent = build_agent(config, env)
    learner = build_learner(config, agent)
    features = [] if learner.triplets is None else ["features"]
    collector = assemble(
        config.collector, "collector", create_env_fn=env, policy=agent.policy(*features), total_frames=128
    )
    before = [parameter.detach().clone() for parameter in learner.loss.parameters()]
    for rollout in collector:
        estimate_advantage(rollout, agent, learner)
        losses = optimize(rollout, learner, config)
    collector.shutdown()
    assert all(value == value for value in losses.values())
    assert any((a != b).any() for a, b in zip(before, learner.loss.parameters(), strict=True))


@pytest.mark.parametrize(
    ("overrides", "match"),
    [
        (["gaze=foveel"], "(?s)foveel.*foveal"),
        (["gaze.num_fovea=2"], r"Unknown key 'gaze\.num_fovea'\. Did you mean 'num_foveae'\? gaze has \["),
        (["foo=1"], r"Unknown key 'foo'.*The configuration has \[.*'seed'"),
        (["+foo=1"], "Unknown key 'foo': nothing reads it"),
        (["+task.goal=1"], r"Unknown key 'task\.goal'"),
        (["task=PushCube-v1"], r"belongs to env=maniskill, but env=clutter was chosen; its tasks are \['easy'"),
        (["env=maniskill", "task=hard"], r"belongs to env=clutter, but env=maniskill.*'PushCube-v1'"),
        (["env.num_envs=0"], r"env\.num_envs must be a positive integer, got 0"),
        (["env.num_envs=-3"], r"env\.num_envs must be a positive integer, got -3"),
        (["total_frames=0"], "total_frames must be a positive integer"),
        (["loss.minibatch=300"], r"loss\.minibatch = 300 must divide collector\.frames_per_batch = 1024"),
        (["collector.frames_per_batch=1000"], r"must be a multiple of env\.num_envs = 32"),
        (["miner.capacity=512"], r"miner\.capacity = 512 is smaller than one rollout"),
        (["seed=abc"], "seed must be an integer >= 0, got 'abc'"),
        (["seed=-1"], "seed must be an integer >= 0, got -1"),
        (["loss.epochs=many"], r"loss\.epochs must be a positive integer, got 'many'"),
        (["total_frames=100"], "less than one rollout"),
        (["gaze=none"], "add contrast=none"),
        (["gaze.rl_gradient=false", "contrast=none"], "leaves the gaze untrained"),
        (["loss.epochs=0.5"], r"loss\.epochs must be a positive integer, got 0\.5"),
        (["contrast.max_grad_norm=0"], r"contrast\.max_grad_norm must be a positive number"),
        (["task.gamma=2", "contrast=none"], r"task\.gamma must be a number in \[0, 1\], got 2"),
    ],
)
def test_what_cannot_be_is_refused(overrides, match):
    with pytest.raises(ConfigError, match=match):
        compose_config(overrides)


@pytest.mark.parametrize(
    ("overrides", "match"),
    [
        (["+gaze.zoom=2"], r"gaze: .*'zoom'.*takes \["),
        (["gaze.num_foveae=0"], r"gaze: gaze\.num_foveae must be positive, got 0"),
        (["gaze=none", "contrast=none", "readout=glimpse"], r"GlimpseReadout reads \[\('gaze', 'foveae'\).*flatten"),
        (["env.image_size=8"], r"env\.image_size"),
        (["env.level=expert"], r"env\.level must be one of easy, medium, hard, shift, got 'expert'"),
        (["contrast.margin=3"], r"contrast\.margin must lie in \[0, 2\]"),
        (["readout.hidden=0"], r"readout\.hidden must be positive, got 0"),
        (["loss.hidden=-1"], r"loss\.hidden must be positive, got -1"),
        (["encoder.channels=[0,8]"], r"encoder\.channels\[0\] must be positive"),
        (["+loss.objective.foo=1"], r"takes no \['foo'\].*clip_epsilon"),
        (["+loss.objective.foo=1", "contrast=none"], r"takes no \['foo'\].*clip_epsilon"),
        (["device=gpu"], "device=gpu cannot be used"),
        (["labels.gamma=2"], r"labels\.gamma must lie in \[0, 1\]"),
        (["miner.min_steps=10000"], r"miner\.min_steps = 10000 exceeds miner\.capacity"),
    ],
)
def test_what_a_component_refuses_names_its_key(overrides, match):
    config = compose_config([*TINY, *overrides])
    with pytest.raises(ValueError, match=match):
        build_learner(config, build_agent(config, build_env(config, 2, 0)))


def test_plain_cnn_is_two_overrides():
    config = compose_config(["gaze=none", "contrast=none"])
    assert config.readout._target_.endswith("FlattenReadout")
    config = compose_config(["env=maniskill"])
    assert config.task.name == "PushCube-v1"


@pytest.mark.parametrize("name", [name for group, name in CHOICES if group == "experiment"])
def test_preset_changes_what_it_says_and_the_command_line_wins(name):
    preset = OmegaConf.load(config_dir() / "experiment" / f"{name}.yaml")
    assert compose_config([f"experiment={name}"]).total_frames == preset.total_frames
    assert compose_config([f"experiment={name}", "total_frames=5000"]).total_frames == 5000
