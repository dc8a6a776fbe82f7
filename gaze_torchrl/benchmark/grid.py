"""The grid of a benchmark, composed by Hydra, and every run's configuration checked before the first one begins."""

from __future__ import annotations

from collections.abc import Sequence

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gaze_torchrl.benchmark.spec import Benchmark, Cell, as_benchmark, check_name
from gaze_torchrl.training.config import add_plugins, compose_config
from gaze_torchrl.training.explain import ConfigError, config_dir, explain

__all__ = ["cell_overrides", "check_cells", "compose_benchmark"]


def compose_benchmark(name: str, overrides: Sequence[str] = ()) -> tuple[Benchmark, list[Cell]]:
    """Compose ``configs/benchmark/NAME.yaml`` on top of ``configs/bench.yaml``.

    Args:
        name: of the file.
        overrides: ``key=value``; a list of names for ``settings`` or ``variants`` takes a part of the benchmark.

    Returns:
        The benchmark, whole, and those of its cells that were asked for.

    Raises:
        ConfigError: for an unknown benchmark, key or name, or a value that cannot be.

    Example:
        >>> benchmark, cells = compose_benchmark("demo", ["seeds=[3]", "variants=[full]"])
        >>> [str(cell) for cell in cells], sorted(benchmark.variants)
        (['easy/full/seed3'], ['full', 'plain_cnn'])
    """
    add_plugins()
    name = name.removesuffix(".yaml")
    try:
        parts, rest = _parts([f"benchmark={name}", f"name={name}", *overrides])
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            config = compose("bench", rest)
        OmegaConf.resolve(config)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error, [f"benchmark={name}", *overrides], "bench")) from error
    benchmark = as_benchmark(config)
    for key, names in parts.items():
        if not names or len(set(names)) < len(names):
            raise ConfigError(f"{key} must be a list of different names, got {names}; without it, all are taken.")
        for one in names:
            check_name(key, one, getattr(benchmark, key))
    return benchmark, benchmark.cells(**parts)


def cell_overrides(benchmark: Benchmark, cell: Cell) -> list[str]:
    """Overrides of ``gaze-train`` for a cell, all but ``run_dir``.

    Args:
        benchmark: to which it belongs.
        cell: one of its.
    """
    frames = benchmark.frames_in(cell.setting)
    return [
        *benchmark.settings[cell.setting],
        *benchmark.variants[cell.variant],
        *([] if frames is None else [f"total_frames={frames}"]),
        f"seed={cell.seed}",
        "threads=1",  # a process per core; the numbers depend on it
        "evaluation.video_episodes=0",
    ]


def check_cells(benchmark: Benchmark, cells: Sequence[Cell]) -> dict[Cell, int]:
    """Compose and validate the configuration of every cell, and of every condition that its agent will meet.

    Args:
        benchmark: to which they belong.
        cells: what is to be run.

    Returns:
        The frames of each cell.

    Raises:
        ConfigError: naming the setting and the variant whose configuration cannot be.
    """
    from gaze_torchrl.training.suites import SUITES

    for suite in benchmark.suites:
        check_name("suites", suite, SUITES)
    frames: dict[tuple[str, str], int] = {}
    for cell in cells:
        # Seeds differ in nothing that could be refused.
        if (pair := (cell.setting, cell.variant)) in frames:
            continue
        overrides = cell_overrides(benchmark, cell)
        try:
            config = compose_config(overrides)
            if cell.setting not in {setting for setting, _ in frames}:
                for suite in benchmark.suites:
                    for changes in SUITES[suite].values():
                        compose_config([*overrides, *changes])
        except ConfigError as error:
            raise ConfigError(f"{cell} cannot be run: gaze-train {' '.join(overrides)}: {error}") from error
        frames[pair] = config.total_frames // config.collector.frames_per_batch * config.collector.frames_per_batch
    return {cell: frames[cell.setting, cell.variant] for cell in cells}


def _parts(overrides: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """The lists of names that take a part, and the overrides that are left for Hydra."""
    parts: dict[str, list[str]] = {}
    rest = []
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        value = override.value()
        if override.key_or_group in ("settings", "variants") and isinstance(value, list):
            parts[override.key_or_group] = [str(one) for one in value]
        else:
            rest.append(override.input_line or "")
    return parts, rest
