"""The command gaze-bench."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
from pathlib import Path

from gaze_torchrl.benchmark.grid import compose_benchmark
from gaze_torchrl.training.explain import ConfigError

__all__ = ["bench"]


def bench() -> None:
    """``gaze-bench run NAME [key=value] ...``: train every variant of a benchmark in every setting with every seed.
    ``gaze-bench report NAME``: what came of it."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # of the runs: where cores are shared, spinning threads cost
    parser = argparse.ArgumentParser(prog="gaze-bench", description=bench.__doc__)
    commands = parser.add_subparsers(required=True)
    run = commands.add_parser("run", help="run what is missing; go on with what was stopped")
    run.add_argument("name", help="a file of configs/benchmark, such as demo; gaze-list benchmark shows all")
    run.add_argument(
        "overrides", nargs="*", help="such as seeds=[1,2] variants=[full,plain_cnn]; see configs/bench.yaml"
    )
    run.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at the same time; default: one per core")
    run.set_defaults(command=_run)
    report = commands.add_parser("report", help="write report.md, report.html and figures beside the results")
    report.add_argument("name", help="of the benchmark, or a folder of results")
    report.set_defaults(command=_report)
    arguments, rest = parser.parse_known_args()
    # argparse takes overrides that follow an option for foreign.
    if foreign := [one for one in rest if arguments.command is not _run or one.startswith("-") or "=" not in one]:
        parser.error(f"unrecognized arguments: {' '.join(foreign)}")
    if rest:
        arguments.overrides += rest
    try:
        arguments.command(arguments)
    except (ValueError, FileNotFoundError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def _run(arguments: argparse.Namespace) -> None:
    if arguments.jobs < 1:
        raise ConfigError(f"--jobs must be at least 1, got {arguments.jobs}.")
    benchmark, cells = compose_benchmark(arguments.name, arguments.overrides)
    from gaze_torchrl.benchmark.runner import run_grid

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as batch systems stop it: its runs end with it, too
    command = shlex.join(["gaze-bench", *sys.argv[1:]])
    try:
        failures = run_grid(benchmark, cells, arguments.jobs, command)
    except KeyboardInterrupt:
        print(f"\nStopped. The same command goes on: {command}", file=sys.stderr)
        sys.exit(130)
    for cell, message in failures.items():
        print(f"failed: {cell}: {message}", file=sys.stderr)
    print(f"{len(cells) - len(failures)} of {len(cells)} runs are in {Path(benchmark.results) / 'results.csv'}")
    print(f"Next: gaze-bench report {benchmark.results}")
    if failures:
        sys.exit(1)


def _report(arguments: argparse.Namespace) -> None:
    from gaze_torchrl.benchmark.report import write_report

    named = Path(arguments.name)
    given = named.parent != Path(".") or (named / "benchmark.yaml").exists()
    folder = named if given else Path("benchmarks/results") / named
    for path in write_report(folder):
        print(path)
