"""What a benchmark is: its fields, what they may be, and which runs they make."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from gaze_torchrl.benchmark.results import HIGHER_IS_BETTER
from gaze_torchrl.training.explain import ConfigError, listing

__all__ = ["Benchmark", "Cell", "as_benchmark", "check_name", "load_benchmark"]


@dataclass(frozen=True)
class Cell:
    """One run of a benchmark.

    Args:
        setting, variant: names in the benchmark.
        seed: of the run, >= 0.
    """

    setting: str
    variant: str
    seed: int

    def __str__(self) -> str:
        return f"{self.setting}/{self.variant}/seed{self.seed}"


@dataclass(frozen=True)
class Benchmark:
    """What is compared, where, how often and by what; see configs/bench.yaml.

    Args:
        name: of the benchmark.
        settings, variants: overrides of ``gaze-train`` by name.
        baseline: the variant that others are compared with.
        pairs: variants that are also compared, the first with the second.
        seeds: one run of every variant in every setting for each.
        frames: ``total_frames`` by setting, or for all settings; None for what the settings say.
        score: evaluation metric by which variants are compared, one of which more is better.
        threshold: ``metric`` and ``level`` (a number or "baseline") of the frames that are counted.
        suites: of conditions that every trained agent meets.
        runs, results: folders.
    """

    name: str
    settings: dict[str, list[str]]
    variants: dict[str, list[str]]
    baseline: str
    pairs: list[list[str]]
    seeds: list[int]
    frames: int | dict[str, int | None] | None
    score: str
    threshold: dict[str, Any]
    suites: list[str]
    runs: str
    results: str

    def cells(self, settings: Sequence[str] | None = None, variants: Sequence[str] | None = None) -> list[Cell]:
        """The runs, seed by seed, so that an unfinished benchmark compares its variants on equal seeds.

        Args:
            settings, variants: names of those to take; None for all.
        """
        taken = self.settings if settings is None else settings
        names = [(one, other) for one in taken for other in (self.variants if variants is None else variants)]
        return [Cell(setting, variant, seed) for seed in self.seeds for setting, variant in names]

    def folder(self, cell: Cell) -> Path:
        """The run folder of a cell.

        Args:
            cell: one of the benchmark's.
        """
        return Path(self.runs) / str(cell)

    def frames_in(self, setting: str) -> int | None:
        """``total_frames`` of a setting's runs; None for what its overrides say.

        Args:
            setting: a name.
        """
        return self.frames.get(setting) if isinstance(self.frames, dict) else self.frames

    def joined(self, older: Benchmark) -> Benchmark:
        """This benchmark with what only an older state of it had, so that results of both can stand in one table.

        Args:
            older: as it was when its results were made.

        Raises:
            ConfigError: if a setting, a variant or what all runs share now means something else.
        """
        for key in ("settings", "variants"):
            mine, its = getattr(self, key), getattr(older, key)
            for name in mine.keys() & its.keys():
                _check_same(f"{key}.{name}", its[name], mine[name], self)
        for setting in self.settings.keys() & older.settings.keys():
            _check_same(f"frames of {setting}", older.frames_in(setting), self.frames_in(setting), self)
        _check_same("suites", older.suites, self.suites, self)
        settings, variants = ({**getattr(self, key), **getattr(older, key)} for key in ("settings", "variants"))
        known = {setting: (self if setting in self.settings else older).frames_in(setting) for setting in settings}
        frames = known if isinstance(self.frames, dict) or len(set(known.values())) > 1 else self.frames
        seeds = sorted({*self.seeds, *older.seeds})
        pairs = [*self.pairs, *(pair for pair in older.pairs if pair not in self.pairs)]
        return replace(self, settings=settings, variants=variants, frames=frames, seeds=seeds, pairs=pairs)

    def yaml(self) -> str:
        """The benchmark as YAML, as it is written beside its results."""
        return OmegaConf.to_yaml(OmegaConf.create(self.__dict__))


def load_benchmark(path: Path) -> Benchmark:
    """Read a benchmark that `Benchmark.yaml` wrote.

    Args:
        path: ``benchmark.yaml`` of a folder of results.

    Raises:
        ConfigError: for keys or values that cannot be.
        FileNotFoundError: if there is none.
    """
    # Results of older versions say nothing of pairs.
    return as_benchmark(cast(DictConfig, OmegaConf.merge({"pairs": []}, OmegaConf.load(path))))


def as_benchmark(config: DictConfig) -> Benchmark:
    """A benchmark from its configuration.

    Args:
        config: with every field of `Benchmark`, resolved.

    Raises:
        ConfigError: for an unknown or a missing key, or a value that cannot be.
    """
    known = set(Benchmark.__dataclass_fields__)
    if strangers := sorted({str(key) for key in config} - known):
        raise ConfigError(f"Unknown key {strangers[0]!r} of a benchmark: nothing reads it. {listing(known, '')}")
    fields = cast(dict[str, Any], OmegaConf.to_container(config))
    if missing := sorted(known - set(fields)):
        raise ConfigError(f"A benchmark needs {missing[0]}: see configs/bench.yaml.")
    _check(fields)
    return Benchmark(**fields)


def _check(fields: dict[str, Any]) -> None:
    for key in ("settings", "variants"):
        named = fields[key] if isinstance(fields[key], dict) else {}
        lists = [one if isinstance(one, list) else [None] for one in named.values()]
        if not lists or not all(isinstance(line, str) for one in lists for line in one):
            raise ConfigError(f"{key} must hold names with lists of overrides, got {fields[key]!r}.")
        for name in named:
            if not re.fullmatch(r"\w[\w.-]*", str(name)):
                raise ConfigError(f"{key}: names are those of folders: letters, digits, _ . -; got {name!r}.")
    seeds = fields["seeds"]
    fine = isinstance(seeds, list) and seeds and len(set(map(str, seeds))) == len(seeds)
    if not fine or not all(type(seed) is int and seed >= 0 for seed in seeds):
        raise ConfigError(f"seeds must be a list of different integers >= 0, such as [1,2,3], got {seeds!r}.")
    frames = fields["frames"]
    if isinstance(frames, dict):
        for setting in [*frames, *(one for one in fields["settings"] if one not in frames)]:
            check_name("frames", setting, set(frames) & set(fields["settings"]))
    for value in frames.values() if isinstance(frames, dict) else [frames]:
        if value is not None and (type(value) is not int or value <= 0):
            raise ConfigError(f"frames must be a positive integer, or one for each setting, got {value!r}.")
    check_name("baseline", fields["baseline"], fields["variants"])
    for pair in fields["pairs"] if isinstance(fields["pairs"], list) else [None]:
        if not isinstance(pair, list) or len(pair) != 2 or pair[0] == pair[1]:
            raise ConfigError(
                f"pairs must be pairs of variants, such as [[full, no_contrast]], got {fields['pairs']!r}."
            )
        for one in pair:
            check_name("pairs", one, fields["variants"])
    check_name("score", fields["score"], HIGHER_IS_BETTER)
    threshold = fields["threshold"]
    if not isinstance(threshold, dict) or set(threshold) != {"metric", "level"}:
        raise ConfigError(f"threshold must have metric and level, got {threshold!r}.")
    check_name("threshold.metric", threshold["metric"], HIGHER_IS_BETTER)
    if threshold["level"] != "baseline" and type(threshold["level"]) not in (int, float):
        raise ConfigError(f"threshold.level must be baseline or a number, got {threshold['level']!r}.")
    if not isinstance(fields["suites"], list):
        raise ConfigError(f"suites must be a list, such as [clutter_levels], got {fields['suites']!r}.")


def _check_same(key: str, old: object, new: object, benchmark: Benchmark) -> None:
    if old != new:
        raise ConfigError(
            f"{benchmark.results} was made with {key} = {old}, now it is {new}: one table cannot hold both. Give the "
            "new benchmark a name of its own, choose results=... and runs=..., or move the old folders away."
        )


def check_name(key: str, name: object, names: Any) -> None:
    """Refuse a name that does not exist.

    Args:
        key: where it was given.
        name: what was given.
        names: what exists.

    Raises:
        ConfigError: with what exists.
    """
    if name not in names:
        close = difflib.get_close_matches(str(name), [str(one) for one in names], n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ConfigError(f"{key}: there is no {name!r}.{hint} There are {sorted(str(one) for one in names)}.")
