"""Every YAML composes and builds; what cannot be is refused before the first environment step."""

import re

import pytest
from hydra.utils import get_class
from omegaconf import OmegaConf

from gaze_torchrl.training.config import compose_config
from gaze_torchrl.training.explain import ConfigError, config_dir, groups
from tests.training.support import TINY, TINY_SAC, one_rollout, one_update

CHOICES = sorted((group, path.stem) for group in groups() for path in (config_dir() / group).glob("*.yaml"))
# What a choice needs beside itself.
NEEDS = {
    ("gaze", "none"): ["contrast=none"],
    ("gaze", "global_pool"): ["contrast=none"],
    ("gaze", "fixed_center"): ["contrast=none"],
    ("readout", "keypoints"): ["gaze=spatial_softmax"],
    ("regularizer", "gaze"): ["regularizer.spread=0.1", "regularizer.drift=0.1", "regularizer.entropy=0.1"],
    ("loss", "discrete_sac"): ["env=ale"],
    **{("env", env): [f"task={task}"] for env, task in {"gym": "CarRacing-v3", "ale": "Pong"}.items()},
}


def belongs(group, name):
    """The overrides of a choice, with what it needs beside itself."""
    if group == "task":
        task = OmegaConf.load(config_dir() / "task" / f"{name}.yaml")
        return [f"env={task.env}", f"task={name}"]
    return [f"{group}={name}", *NEEDS.get((group, name), [])]


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


BUILT = [choice for choice in CHOICES if choice[0] not in ("env", "task", "experiment", "logger")]
BUILT.remove(("loss", "discrete_sac"))  # tests/envs/test_ale.py has discrete actions
for name in ("process", "ray"):
    BUILT.remove(("collector", name))  # test_collecting.py trains with them


@pytest.mark.filterwarnings("ignore:The gaze points into a map", "ignore:encoder=pretrained")
@pytest.mark.parametrize(("group", "name"), BUILT)
def test_every_component_builds_and_takes_one_update(group, name):
    if (group, name) == ("encoder", "pretrained"):
        pytest.importorskip("torchvision")
    if (group, name) == ("contrast", "metric_learning"):
        pytest.importorskip("pytorch_metric_learning")
    tiny = TINY_SAC if group == "loss" and name in ("sac", "redq", "crossq") else TINY
    config = compose_config(
        [*tiny, "env.image_size=64", "loss.warmup=0" if tiny is TINY_SAC else "seed=1", *belongs(group, name)]
    )
    before, after, losses = one_update(config)
    assert all(value == value for value in losses.values())
    assert any((a != b).any() for a, b in zip(before, after, strict=True))


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
        (["bank.capacity=512"], r"bank\.capacity = 512 is smaller than one rollout"),
        (["bank.mine_every=0"], r"bank\.mine_every must be a positive integer, got 0"),
        (["loss=sac", "loss.replay.capacity=512"], r"loss\.replay\.capacity = 512 is smaller than one rollout"),
        (["bank.min_steps=8000", "total_frames=4000"], r"bank\.min_steps = 8000 exceeds total_frames = 3072 in whole"),
        (["loss.hidden=-1"], r"loss\.hidden must be a positive integer, got -1"),
        (["loss=sac", "loss.warmup=200000"], r"loss\.warmup = 200000 exceeds loss\.replay\.capacity = 100000"),
        (["loss=sac", "collector.frames_per_batch=64"], r"loss\.replay\.spare = 0\.25 is too little.*above 0\.5"),
        (["loss=sac", "loss.tau=0"], r"loss\.tau must be a number in \(0, 1\], got 0"),
        (["evaluation.video_episodes=-1"], r"evaluation\.video_episodes must be an integer >= 0, got -1"),
        (["gaze.condition=no"], r"gaze\.condition must be true or false, got 'no'"),
        (["gaze.rl_gradient=null"], r"gaze\.rl_gradient must be true or false, got None"),
        (["compile=1"], r"compile must be true, false or reduce-overhead, got 1"),
        (["gaze.rl_gradient=false", "contrast.target=encoder"], "leaves the gaze untrained"),
        (["gaze.rl_gradient=false", "contrast=curl"], "leaves the gaze untrained"),
        (["gaze.rl_gradient=false", "readout=keypoints"], "leaves the encoder untrained"),
        (["gaze.rl_gradient=false", "regularizer=gaze"], "keeps the regulariser from the gaze"),
        (["regularizer=gaze", "regularizer.drift=1", "augment=random_shift"], "it needs augment=none"),
        (["contrast.reduction=none"], "choose mean or sum"),
        (["loss.policy=deterministic"], "cannot be learnt on policy"),
        (["loss.learning_rate=inf"], r"loss\.learning_rate must be a positive number, got inf"),
        (["+bank.capacty=3"], r"Unknown key 'bank\.capacty': nothing reads it.*'capacity'"),
        (["+loss.learning_rat=3"], r"Unknown key 'loss\.learning_rat'.*'learning_rate'"),
        (["loss=sac", "loss.updates_per_frame=0"], r"loss\.updates_per_frame must be a positive number, got 0"),
        (["seed=abc"], "seed must be an integer >= 0, got 'abc'"),
        (["seed=-1"], "seed must be an integer >= 0, got -1"),
        (["loss.epochs=many"], r"loss\.epochs must be a positive integer, got 'many'"),
        (["total_frames=100"], "less than one rollout"),
        (["gaze.rl_gradient=false", "contrast=none"], "leaves the gaze untrained"),
        (["loss.epochs=0.5"], r"loss\.epochs must be a positive integer, got 0\.5"),
        (["contrast.max_grad_norm=0"], r"contrast\.max_grad_norm must be a positive number"),
        (["contrast.anneal_frames=1024", "bank.min_steps=1000"], "over before the contrast begins, after 1024 frames"),
        (["contrast=curl", "contrast.anneal_frames=1000"], "over before the contrast begins, after 1024 frames"),
        (["loss=sac", "loss.warmup=1000", "contrast=curl", "contrast.anneal_frames=1024"], "begins, after 1024 frames"),
        (["bank.min_steps=3000", "total_frames=3050"], r"bank\.min_steps = 3000 exceeds total_frames = 2048 in whole"),
        (
            ["loss=sac", "loss.warmup=1100", "total_frames=1100"],
            r"loss\.warmup = 1100 exceeds total_frames = 1024 in whole",
        ),
        (["bank.min_steps=10000"], r"bank\.min_steps = 10000 exceeds bank\.capacity = 8192"),
        (["contrast.anneal_frames=5000", "gaze.rl_gradient=false"], "leaves the gaze untrained in the end"),
        (["contrast.anneal_frames=5000", "contrast.own_learning_rate=1e-3"], "set one of the two to null"),
        (["contrast.own_learning_rate=0"], r"contrast\.own_learning_rate must be a positive number"),
        (["contrast.pretrain_frames=-1"], r"contrast\.pretrain_frames must be an integer >= 0, got -1"),
        (["contrast.pretrain_frames=8192", "contrast.anneal_frames=8192"], "nothing would learn in between"),
        (["contrast.pretrain_frames=4096", "loss=kl_ppo"], "would fall to zero while the policy waits"),
        (["bank=null"], "bank=null sets no key"),
        (["+collector.split_trajs=true"], r"collector\.split_trajs is not for gaze-train: the padding"),
        (["+collector.total_frames=64"], r"collector\.total_frames is not for gaze-train: set total_frames"),
        (["+loss.objective.reduction=none"], r"loss\.objective\.reduction must be mean"),
        (["contrast.pretrain_frames=1024"], "at least the 2048 frames after which the contrast begins"),
        (["contrast.pretrain_frames=4096", "total_frames=5000"], "less than total_frames = 4096 in whole"),
        (["gaze.head=mlp"], r"gaze\.head=mlp chooses nothing: a head is chosen with a slash, gaze/head=mlp"),
        (["gaze/heads=mlp"], r"Unknown key 'gaze/heads'\. Did you mean 'gaze/head'"),
        (
            ["loss.gae=3"],
            r"loss\.gae=3 sets no key\. loss\.gae has \['gamma', 'lmbda'\]",
        ),
        (["bank=foo"], r"bank='foo' sets no key\. bank has \['capacity'"),
        (["contrast.anneal_frames=0"], r"contrast\.anneal_frames must be a positive number"),
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
        (["gaze.num_foveae=0"], r"gaze\.num_foveae must be positive, got 0"),
        (["gaze=none", "contrast=none", "readout=glimpse"], r"GlimpseReadout reads \[\('gaze', 'foveae'\).*flatten"),
        (["env.image_size=8"], r"env\.image_size"),
        (["env.level=expert"], r"env\.level must be one of easy, medium, hard, shift, got 'expert'"),
        (["task=pair", "env.objects=3"], r"env\.objects must be 1 or 2, got 3"),
        (["contrast.margin=3"], r"contrast\.margin must lie in \[0, 2\]"),
        (["readout.hidden=0"], r"readout\.hidden must be positive, got 0"),
        (["encoder.channels=[0,8]"], r"encoder\.channels\[0\] must be positive"),
        (["+loss.objective.foo=1"], r"takes no \['foo'\].*clip_epsilon"),
        (["+loss.objective.foo=1", "contrast=none"], r"takes no \['foo'\].*clip_epsilon"),
        (["device=gpu"], "device=gpu cannot be used"),
        (["labels.gamma=2"], r"labels\.gamma must lie in \[0, 1\]"),
        (["gaze=none"], "nothing to train.*contrast=none"),
        (["gaze=patch", "readout=glimpse"], r"PatchGaze does not write.*readout=pool"),
        (["gaze/head=mlp", "gaze.head.hidden=0"], r"gaze\.head\.hidden must be positive, got 0"),
        (["regularizer=gaze"], "regularizer=gaze has no term"),
        (
            ["regularizer=gaze", "regularizer.spread=1", "gaze=patch", "contrast=none"],
            "PatchGaze, a gaze without a place",
        ),
        (["regularizer=gaze", "regularizer.entropy=1", "gaze=none", "contrast=none"], "NoGaze has nothing for the reg"),
        (["gaze.condition=true", "gaze=fixed_center", "contrast=none"], r"gaze\.condition=true does nothing"),
        (["loss=discrete_sac", "loss.warmup=0"], "has continuous actions: choose loss=sac"),
        (["loss=sac", "loss.warmup=0", "loss.policy=normal"], r"loss\.policy must be 'tanh_normal'"),
        (["+contrast.max_grad_nrm=1"], "max_grad_nrm"),
        (["key.grid=0"], r"key\.grid must be at least 1, got 0"),
        (["loss.policy=tanh"], "policy must be 'normal', 'tanh_normal' or 'deterministic', got 'tanh'"),
    ],
)
def test_what_a_component_refuses_names_its_key(overrides, match):
    tiny = [one for one in TINY if "epochs" not in one or not any("sac" in override for override in overrides)]
    config = compose_config([*tiny, *overrides])
    with pytest.raises(ValueError, match=match):
        one_update(config)


@pytest.mark.parametrize(
    ("override", "match"),
    [
        ("gaze=fovael", "Could not find 'gaze/fovael'. Did you mean 'foveal'"),
        ("miner=of_my_own", "Could not find 'miner/of_my_own'. One of your own is found if its module"),
        ("#", "A comment (#) was taken for an argument: in zsh, first `setopt interactivecomments`"),
        ("gaze.num_fovae=2", "Unknown key 'gaze.num_fovae'. Did you mean 'num_foveae'"),
        ("head=mlp", "Unknown key 'head'. Did you mean 'gaze/head'"),
        ("learning_rate=1e-4", "Unknown key 'learning_rate'. Did you mean 'loss.learning_rate'"),
        ("loss.capacity=10", "Unknown key 'loss.capacity'. Did you mean 'bank.capacity'"),
    ],
)
def test_typos_are_met_with_what_was_meant(override, match):
    with pytest.raises(ConfigError, match=re.escape(match)):
        compose_config([override])


@pytest.mark.parametrize("gaze", ["global_pool", "attention_pool", "none", "spatial_softmax", "multi_foveal"])
def test_a_preset_leaves_a_gaze_the_readout_that_it_brings(gaze):
    brought = {"global_pool": "Pool", "attention_pool": "Pool", "none": "Flatten"}
    for preset, otherwise in {"ppo_clutter": "Glimpse", "ppo_maniskill": "Flatten", "sac_maniskill": "Flatten"}.items():
        config = compose_config([f"experiment={preset}", f"gaze={gaze}", "contrast=none"])
        assert config.readout._target_.endswith(f".{brought.get(gaze, otherwise)}Readout"), preset
    config = compose_config([f"experiment={preset}", f"gaze={gaze}", "contrast=none", "readout=pool"])
    assert config.readout._target_.endswith(".PoolReadout"), "what is said is done"


@pytest.mark.parametrize("readout", ["glimpse", "keypoints"])
@pytest.mark.parametrize("option", ["gaze.periphery=0.5", "gaze.normalize=sum"])
def test_options_of_the_map_are_refused_where_nothing_reads_it(readout, option):
    with pytest.raises(ConfigError, match=rf"{option} changes the map, which \w+ does not read: choose"):
        one_update(compose_config([*TINY, f"readout={readout}", option]))


def test_the_weight_of_the_entropy_may_be_small():
    """TorchRL's REDQ would clamp it to [0.1, 10], where its SAC does not."""
    _, learner, _ = one_rollout(compose_config([*TINY_SAC, "loss=redq", "loss.objective.alpha_init=0.05"]))
    assert learner.loss.alpha.item() == pytest.approx(0.05)


def test_a_part_that_the_choice_does_not_have():
    with pytest.raises(ConfigError, match="There is no gaze/head to choose: gaze=patch has no head"):
        compose_config(["gaze=patch", "gaze/head=mlp"])


def test_a_benchmark_is_no_part_of_a_run():
    with pytest.raises(ConfigError, match="A benchmark is no part of a run: gaze-bench run NAME takes one"):
        compose_config(["benchmark=demo"])


def test_a_key_may_be_set_with_pluses():
    assert compose_config(["++seed=3", "++bank.capacity=4096"]).bank.capacity == 4096


def test_run_dir_is_kept():
    assert compose_config(["run_dir=/tmp/elsewhere"]).run_dir == "/tmp/elsewhere"


@pytest.mark.parametrize(
    ("overrides", "level", "objects"),
    [
        (["task=hard"], "hard", 1),
        (["task=pair"], "medium", 2),
        (["task=pair_hard"], "hard", 2),
        (["task=easy", "env.objects=2"], "easy", 2),
    ],
)
def test_a_task_of_clutter_is_a_level_and_a_number_of_objects(overrides, level, objects):
    env = compose_config(overrides).env
    assert (env.level, env.objects) == (level, objects)


def test_old_names_still_work():
    with pytest.warns(FutureWarning, match="gaze=foveal_mlp is now gaze=foveal gaze/head=mlp"):
        config = compose_config(["gaze=foveal_mlp"])
    assert config.gaze.head._target_.endswith("MLPHead")


def test_plain_cnn_is_two_overrides():
    config = compose_config(["gaze=none", "contrast=none"])
    assert config.readout._target_.endswith("FlattenReadout")


def test_an_environment_brings_its_task_and_evaluation():
    config = compose_config(["env=maniskill"])
    assert config.task.name == "PushCube-v1"
    assert config.evaluation.episodes == 16
    assert compose_config(["env=maniskill", "evaluation.episodes=3"]).evaluation.episodes == 3


@pytest.mark.parametrize("name", [name for group, name in CHOICES if group == "experiment"])
def test_preset_composes_and_the_command_line_wins(name):
    config = compose_config([f"experiment={name}"])
    assert config.loss.loop == ("sac" if "sac" in name else "ppo")
    assert config.task.env == ("maniskill" if "maniskill" in name else "clutter")
    assert config.gaze._target_.endswith("NoGaze" if "baseline" in name else "FovealGaze")
    assert (config.contrast._target_ is None) == ("baseline" in name)
    assert compose_config([f"experiment={name}", "total_frames=5000"]).total_frames == 5000
    seeded = compose_config([f"experiment={name}", "task=PickCube-v1" if "maniskill" in name else "task=hard"])
    assert seeded.task.name in ("PickCube-v1", "hard")


@pytest.mark.parametrize("name", ["ppo_clutter", "sac_clutter", "ppo_maniskill", "sac_maniskill"])
def test_baseline_differs_in_gaze_and_contrast_alone(name):
    ours, plain = compose_config([f"experiment={name}"]), compose_config([f"experiment={name}_baseline"])
    # On clutter the gaze also brings a readout that a plain CNN cannot have.
    readout = {"readout"} if "clutter" in name else set()
    assert {key for key in ours if ours[key] != plain[key]} == {"gaze", "contrast", "run_dir"} | readout
