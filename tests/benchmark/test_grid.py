"""Benchmarks: composed, checked whole before anything runs, refused with what exists."""

import re

import pytest
from omegaconf import OmegaConf

from gaze_torchrl.benchmark.grid import cell_overrides, check_cells, compose_benchmark
from gaze_torchrl.benchmark.spec import Cell, as_benchmark, load_benchmark
from gaze_torchrl.training.agent import build_agent, build_env
from gaze_torchrl.training.config import compose_config
from gaze_torchrl.training.explain import ConfigError, config_dir
from tests.benchmark.support import SETTING, yaml
from tests.training.support import TINY, one_update

SHIPPED = sorted(path.stem for path in (config_dir() / "benchmark").glob("*.yaml"))


@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.thorough)])
@pytest.mark.parametrize("name", SHIPPED)
def test_every_cell_of_every_shipped_benchmark_composes(name, whole):
    """Every variant in the first setting, and the first variant in every setting; or all of them in all."""
    benchmark, cells = compose_benchmark(name)
    assert len(cells) == len(benchmark.settings) * len(benchmark.variants) * len(benchmark.seeds)
    first = cells[0]
    some = [cell for cell in cells if cell.seed == first.seed]  # the others differ in that alone
    if not whole:
        some = [cell for cell in some if cell.setting == first.setting or cell.variant == first.variant]
    frames = check_cells(benchmark, some)
    assert list(frames) == some
    settings, variants = len(benchmark.settings), len(benchmark.variants)
    assert len(some) == (settings * variants if whole else settings + variants - 1)
    assert all(count > 0 for count in frames.values())
    said = re.search(r"([\d,]+) runs", (config_dir() / "benchmark" / f"{name}.yaml").read_text())
    assert said is None or int(said[1].replace(",", "")) == len(cells), "the comment counts the runs"
    # Two variants of one configuration would be one variant counted twice.
    setting = next(iter(benchmark.settings))
    configs = [compose_config(cell_overrides(benchmark, Cell(setting, one, 1))) for one in benchmark.variants]
    assert len({str({**config, "run_dir": ""}) for config in configs}) == len(configs)


@pytest.mark.filterwarnings("ignore:The gaze points into a map")
@pytest.mark.parametrize("variant", compose_benchmark("clutter_ppo")[0].variants)
def test_every_variant_on_clutter_takes_an_update(variant):
    benchmark, _ = compose_benchmark("clutter_ppo")
    tiny = [one for one in TINY if not one.startswith("env.image_size")]
    before, after, losses = one_update(compose_config([*tiny, *benchmark.variants[variant]]))
    assert all(value == value for value in losses.values())
    assert any((a != b).any() for a, b in zip(before, after, strict=True))


def test_sac_has_variants_of_ppo():
    ppo, sac = (compose_benchmark(name)[0].variants for name in ("clutter_ppo", "clutter_sac"))
    assert sac.items() <= ppo.items()


@pytest.mark.parametrize("variant", ["plain_cnn_small", "full"])
def test_the_small_plain_cnn_has_as_many_parameters_as_the_glimpse_readout(variant):
    benchmark, _ = compose_benchmark("clutter_ppo")
    config = compose_config([*benchmark.variants[variant], "env.num_envs=1"])
    env = build_env(config, 1, 0)
    readout = build_agent(config, env).trunk.readout
    assert sum(one.numel() for one in readout.parameters()) == pytest.approx(32_900, rel=0.01)


def test_cells_go_seed_by_seed_and_a_part_can_be_taken():
    benchmark, cells = compose_benchmark("clutter_ppo", ["seeds=[1,4]", "variants=[full,plain_cnn]", "settings=[hard]"])
    assert [str(cell) for cell in cells] == [
        *("hard/full/seed1", "hard/plain_cnn/seed1", "hard/full/seed4", "hard/plain_cnn/seed4")
    ]
    assert len(benchmark.variants) > 2, "the benchmark itself is whole"
    assert benchmark.folder(cells[0]).as_posix() == "runs/bench/clutter_ppo/hard/full/seed1"


def test_the_file_of_a_benchmark_is_the_benchmark():
    assert compose_benchmark("demo.yaml") == compose_benchmark("demo")


def test_overrides_of_a_cell():
    benchmark, _ = compose_benchmark("maniskill_sac")
    overrides = cell_overrides(benchmark, Cell("pushcube_clutter", "plain_cnn", 2))
    assert overrides[:5] == [
        *("experiment=sac_maniskill", "task=PushCube-v1", "evaluation.episodes=32", "compile=true", "env.distractors=8")
    ]
    assert overrides[5:] == [
        *("gaze=none", "contrast=none", "total_frames=100000", "seed=2", "threads=1", "evaluation.video_episodes=0")
    ]


@pytest.mark.parametrize(
    ("name", "overrides", "match"),
    [
        ("dmo", [], "(?s)Could not find 'benchmark/dmo'. Did you mean 'demo'.*clutter_ppo"),
        ("demo", ["sead=[1]"], r"Unknown key 'sead'. Did you mean 'seeds'\? The configuration has \['baseline'"),
        ("demo", ["threshold.lvl=3"], r"Unknown key 'threshold.lvl'. Did you mean 'level'\?"),
        ("demo", ["+foo=1"], r"Unknown key 'foo' of a benchmark: nothing reads it. The configuration has \['baseline'"),
        ("demo", ["variants=[ful]"], r"variants: there is no 'ful'. Did you mean 'full'\? There are \['full', 'plain_"),
        ("demo", ["variants=[]"], r"variants must be a list of different names, got \[\]; without it, all are taken"),
        ("demo", ["settings=[easy,easy]"], r"settings must be a list of different names, got \['easy', 'easy'\]"),
        (
            "demo",
            ["score=gaze_distance"],
            r"score: there is no 'gaze_distance'.* \['gaze_on_target', 'return'",
        ),
        ("demo", ["settings=[hard]"], r"settings: there is no 'hard'. There are \['easy'\]"),
        ("demo", ["variants.full=3"], r"variants must hold names with lists of overrides, got \{'full': 3"),
        ("demo", ["+variants.full=[[1]]"], "variants must hold names with lists of overrides"),
        ("demo", ["+variants={a/b: []}"], r"names are those of folders: letters, digits, _ . -; got 'a/b'"),
        ("demo", ["seeds=[1,1]"], r"seeds must be a list of different integers >= 0, such as \[1,2,3\], got \[1, 1\]"),
        ("demo", ["seeds=3"], r"seeds must be a list of different integers"),
        ("demo", ["seeds=[-1]"], r"seeds must be a list of different integers"),
        ("demo", ["frames=0"], "frames must be a positive integer, or one for each setting, got 0"),
        ("demo", ["frames={hard: 9}"], r"frames: there is no 'hard'"),
        ("demo", ["baseline=plain_cn"], r"baseline: there is no 'plain_cn'. Did you mean 'plain_cnn'\?"),
        ("demo", ["pairs=[[full, plain_cn]]"], r"pairs: there is no 'plain_cn'. Did you mean 'plain_cnn'\?"),
        ("demo", ["pairs=[full]"], r"pairs must be pairs of variants.*, got \['full'\]"),
        ("demo", ["pairs=[[full, full]]"], "pairs must be pairs of variants"),
        ("demo", ["score=success"], r"score: there is no 'success'.*'success_at_end'"),
        ("demo", ["threshold.metric=x"], r"threshold.metric: there is no 'x'"),
        ("demo", ["threshold.level=best"], "threshold.level must be baseline or a number, got 'best'"),
        ("demo", ["suites=clutter_levels"], r"suites must be a list, such as \[clutter_levels\]"),
    ],
)
def test_what_cannot_be_is_refused(name, overrides, match):
    with pytest.raises(ConfigError, match=match):
        compose_benchmark(name, overrides)


@pytest.mark.parametrize(
    ("overrides", "match"),
    [
        (
            ['+variants.mine=["gaze=foveel"]'],
            "easy/mine/seed1 cannot be run: gaze-train .*gaze=foveel.*Did you mean 'fov",
        ),
        (['+variants.mine=["loss.minibatch=300"]'], "easy/mine/seed1 cannot be run.*must divide"),
        (["frames=100"], "easy/full/seed1 cannot be run.*less than one rollout"),
        (["suites=[clutter_level]"], r"suites: there is no 'clutter_level'. Did you mean 'clutter_levels'\?"),
        (["suites=[maniskill_shift]"], "easy/full/seed1 cannot be run.*shift"),
    ],
)
def test_a_cell_that_cannot_be_is_named_before_any_runs(overrides, match):
    with pytest.raises(ConfigError, match=match):
        check_cells(*compose_benchmark("demo", overrides))


def test_a_benchmark_of_ones_own(tmp_path):
    search = yaml(tmp_path, "{plain_cnn: [gaze=none, contrast=none]}", 256)
    benchmark, cells = compose_benchmark("tiny", [search])
    assert benchmark.settings == {"easy": SETTING}
    assert check_cells(benchmark, cells) == {Cell("easy", "plain_cnn", 1): 256}


def test_what_is_written_beside_results_is_the_benchmark(tmp_path):
    benchmark, _ = compose_benchmark("maniskill_sac")
    (tmp_path / "benchmark.yaml").write_text(benchmark.yaml())
    assert load_benchmark(tmp_path / "benchmark.yaml") == benchmark


def test_results_of_an_older_version_have_no_pairs(tmp_path):
    benchmark, _ = compose_benchmark("demo")
    lines = benchmark.yaml().splitlines(keepends=True)
    (tmp_path / "benchmark.yaml").write_text("".join(line for line in lines if not line.startswith("pairs")))
    assert load_benchmark(tmp_path / "benchmark.yaml") == benchmark


def test_results_of_what_means_something_else_cannot_join():
    old, _ = compose_benchmark("demo", ['+variants.mine=["gaze=patch"]', "seeds=[7]", "pairs=[[mine, full]]"])
    new, _ = compose_benchmark("demo", ['+variants.other=["gaze=mask"]', "pairs=[[other, full]]"])
    joined = new.joined(old)
    assert list(joined.variants) == ["full", "plain_cnn", "other", "mine"]
    assert joined.seeds == [1, 2, 7]
    assert joined.pairs == [["other", "full"], ["mine", "full"]]
    assert joined.frames == new.frames
    for overrides, match in [
        (['variants.plain_cnn=["gaze=mask"]'], r"variants.plain_cnn = \['gaze=none', 'contrast=none'\], now it is"),
        (["frames=4096"], r"frames of easy = 8192, now it is 4096"),
        (["suites=[clutter_levels]"], "suites = "),
    ]:
        changed, _ = compose_benchmark("demo", overrides)
        with pytest.raises(ConfigError, match=match):
            changed.joined(old)


def test_a_setting_that_only_the_older_had_keeps_its_frames():
    old, _ = compose_benchmark("demo", ['+settings.long=["task=easy"]', "frames={easy: 8192, long: 99}"])
    new, _ = compose_benchmark("demo")
    assert new.joined(old).frames == {"easy": 8192, "long": 99}
    same, _ = compose_benchmark("demo", ['+settings.long=["task=easy"]', "frames={easy: 8192, long: 8192}"])
    apart, _ = compose_benchmark("demo", ["frames={easy: 8192}"])
    joined = apart.joined(same)
    assert as_benchmark(OmegaConf.create(joined.yaml())) == joined, "what is written can be read"
