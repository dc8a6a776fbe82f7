"""The report of results whose numbers are known."""

import html
import json
import math
import re

import numpy as np
import pytest
from PIL import Image

from gaze_torchrl.benchmark import figures
from gaze_torchrl.benchmark.comparisons import pair_table, reach_table
from gaze_torchrl.benchmark.figures import _against, profiles
from gaze_torchrl.benchmark.report import write_report
from gaze_torchrl.benchmark.statistics import Estimate
from gaze_torchrl.benchmark.study import read_study
from gaze_torchrl.benchmark.table import Table, text
from gaze_torchrl.benchmark.tables import cost_table, gaze_table, overall_table, setting_table, shift_tables
from gaze_torchrl.training.explain import ConfigError
from tests.benchmark.support import bench, synthetic
from tests.viewing.support import Page, words

# Evaluations after 1000, 2000, 3000 and 4000 frames; five seeds alike, so that every interval is a point.
SLOW, FAST, NEVER = [0.0, 0.1, 0.2, 0.5], [0.5, 0.9, 1.0, 1.0], [0.0, 0.0, 0.0, 0.1]
KNOWN = {
    ("one", "base"): [SLOW] * 5,
    ("one", "fast"): [FAST] * 5,
    ("one", "never"): [NEVER] * 5,
    ("two", "base"): [FAST] * 5,
    ("two", "fast"): [FAST] * 5,
}
SHIFTED = {
    ("one", variant, condition): [score] * 5
    for variant, scores in {"base": (0.5, 0.4, 0.1), "fast": (1.0, 1.0, 0.8)}.items()
    for condition, score in zip(("as trained", "easy", "shift"), scores, strict=True)
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    pairs = [["fast", "never"]]
    return synthetic(tmp_path_factory.mktemp("results"), KNOWN, shifts=SHIFTED, pairs=pairs)


@pytest.fixture(scope="module")
def study(folder):
    return read_study(folder)


@pytest.fixture(scope="module")
def report(folder):
    write_report(folder)
    return (folder / "report.md").read_text()


def cells(table: Table) -> dict[str, list[str]]:
    return {row[0]: [text(cell) for cell in row[1:]] for row in table.rows}


def test_the_commands_that_made_the_numbers(tmp_path):
    """Of results that are older than their record, the plain one."""
    folder = synthetic(tmp_path, KNOWN)
    made = {
        "commit": "abc",
        "python": "3.11",
        "packages": {"torch": "2"},
        "machine": "m",
        "cpu": "c",
        "cores": 2,
        "jobs": 1,
    }
    entries = [made, *({**made, "command": f"gaze-bench run synthetic {one}"} for one in ("frames=9", "'seeds=[1]'"))]
    expected = ["gaze-bench run synthetic", "gaze-bench run synthetic frames=9", "gaze-bench run synthetic 'seeds=[1]'"]
    for known, commands in ((None, expected[:1]), (entries[:1], expected[:1]), (entries, expected)):
        if known is not None:
            (folder / "versions.json").write_text(json.dumps(known))
        assert read_study(folder).commands == commands
    write_report(folder)
    text, page = ((folder / name).read_text() for name in ("report.md", "report.html"))
    assert re.findall(r"Command: `(.+)`", text) == expected
    assert [html.unescape(one) for one in re.findall("<code>(gaze-bench run.+?)</code>", page)] == expected


def test_scores_ratios_and_chances(study):
    table = setting_table(study, "one")
    assert table.note == "Last evaluation, after 4,000 frames. Level: return 5, the best base reaches."
    assert cells(table) == {
        "base": ["5", "0.5 [0.5, 0.5]", "5 [5, 5]", "4000 (5 of 5)", "-", "-"],
        "fast": ["5", "1 [1, 1]", "10 [10, 10]", "1000 (5 of 5)", "4 [4, 4]", "1 [1, 1]"],
        "never": ["5", "0.1 [0.1, 0.1]", "1 [1, 1]", "> 4000 (0 of 5)", "< 1 [0, 1]", "0 [0, 0]"],
    }
    assert cells(setting_table(study, "two"))["fast"][-2:] == ["1 [1, 1]", "0.5 [0.5, 0.5]"], "equal ones tie"


def test_how_soon_each_comes_to_shares_of_the_best(study):
    """The best is 10, of fast: 5 after 4000 and 1000 frames, 8 of fast alone after 2000."""
    table = reach_table(study, "one")
    assert table.note.startswith("Best return of any variant: 10.")
    assert cells(table) == {
        "base": ["4000 (5 of 5)", "-", "> 4000 (0 of 5)", "-"],
        "fast": ["1000 (5 of 5)", "4 [4, 4]", "2000 (5 of 5)", "> 2 [2, ∞)"],
        "never": ["> 4000 (0 of 5)", "< 1 [0, 1]", "> 4000 (0 of 5)", "-"],
    }


def test_a_best_that_is_not_positive_has_no_half(tmp_path):
    study = read_study(synthetic(tmp_path, {("one", "base"): [[-2.0, -1.0]] * 5}, pairs=[]))
    assert reach_table(study, "one") is None


def test_pairs(study):
    """Never's best is a return of 1, after 4000 frames, where fast is after 1000."""
    assert cells(pair_table(study, "one")) == {"fast over never": ["> 4 [4, ∞)", "> 2 [2, ∞)", "4 [4, 4]", "1 [1, 1]"]}
    assert pair_table(study, "two") is None, "where one of them was not run"


def test_one_metric_is_shown_once(tmp_path, monkeypatch):
    """Without goals the return is both what is compared and what is to be reached."""
    study = read_study(synthetic(tmp_path, KNOWN, score="return"))
    table = setting_table(study, "one")
    assert table.columns.count("return") == 1
    assert {len(row) for row in table.rows} == {len(table.columns)}
    assert cells(table)["fast"] == ["5", "10 [10, 10]", "1000 (5 of 5)", "4 [4, 4]", "1 [1, 1]"]
    drawn = []
    monkeypatch.setattr(figures, "_intervals", lambda columns, title, reference: drawn.append(columns))
    figures.draw_figures(study, tmp_path)
    assert text(drawn[1]["one"]["fast"]) == "4 [4, 4]", "the ratio, not the chance"


def test_over_all_settings(study):
    table = overall_table(study)
    # The middle half of five times 0.5 and five times 1; one sure win and one tie.
    assert cells(table) == {
        "base": ["10", f"0.75 [{text(table.rows[0][2]).partition('[')[2]}", "-"],
        "fast": ["10", "1 [1, 1]", "0.75 [0.75, 0.75]"],
    }
    assert table.note == "Not yet run in every setting, and so left out: never."


def test_the_gaze(study):
    table = gaze_table(study, "one")
    assert cells(table)["base"] == ["-", "0.02 [0.02, 0.02]", "1 [1, 1]", "-", "-", "-"]
    distance, on_target, times, *others, near = cells(table)["fast"]
    assert distance.startswith("0.3 "), "the middle three of 0.1, 0.2, 0.3, 0.4, 0.5"
    assert (on_target, times) == ("0.05 [0.05, 0.05]", "2.5 [2.5, 2.5]")
    assert others == ["-", "-"]
    assert near == "1 of 5", "0.2 is not under 0.2"


def test_costs(study):
    assert cells(cost_table(study, "one")) == {name: ["300", "1.00", "40 s"] for name in ("base", "fast", "never")}


def test_what_a_shift_costs(study):
    tables = shift_tables(study, "one")
    assert list(tables) == ["clutter_levels"]
    assert tables["clutter_levels"].columns == ["condition", "base", "fast"]
    assert cells(tables["clutter_levels"]) == {
        "as trained": ["0.5 [0.5, 0.5]", "1 [1, 1]"],
        "lost: easy": ["0.1 [0.1, 0.1]", "0 [0, 0]"],
        "lost: shift": ["0.4 [0.4, 0.4]", "0.2 [0.2, 0.2]"],
        "lost: mean": ["0.25 [0.25, 0.25]", "0.1 [0.1, 0.1]"],
    }
    assert shift_tables(study, "two") == {}


def test_a_shift_that_does_not_apply_is_no_part_of_the_mean(tmp_path):
    shifted = {key: [math.nan] * 5 if key[2] == "easy" else scores for key, scores in SHIFTED.items()}
    study = read_study(synthetic(tmp_path, KNOWN, shifts=shifted))
    found = cells(shift_tables(study, "one")["clutter_levels"])
    assert found["lost: easy"] == ["-", "-"]
    assert found["lost: mean"] == found["lost: shift"] == ["0.4 [0.4, 0.4]", "0.2 [0.2, 0.2]"]


def test_profiles(study):
    found = profiles(study)
    assert list(found) == ["base", "fast"]
    base = dict(zip(np.round(found["base"].x, 2), found["base"].center, strict=True))
    assert [base[level] for level in (0.0, 0.49, 0.5, 0.99, 1.0)] == [1, 1, 0.5, 0.5, 0]


@pytest.mark.parametrize(
    ("level", "fast", "never"),
    [(2.0, "3 [3, 3]", "< 0.75 [0, 0.75]"), (8.0, "> 2 [2, ∞)", "-"), (11.0, "-", "-")],
)
def test_a_configured_level_may_be_out_of_reach(tmp_path, level, fast, never):
    """The baseline reaches a return of 2 after 3000 frames, and never 8; fast reaches 8 after 2000 of 4000."""
    folder = synthetic(tmp_path, KNOWN, threshold={"metric": "return", "level": level})
    table = setting_table(read_study(folder), "one")
    assert cells(table)["fast"][4] == fast
    assert cells(table)["never"][4] == never
    assert f"Level: return {level:g}, as configured." in table.note


def test_half_of_the_seeds_are_not_more_than_half(tmp_path):
    curves = {("one", "base"): [SLOW] * 2, ("one", "half"): [FAST, NEVER], ("one", "most"): [FAST, FAST, NEVER]}
    found = cells(setting_table(read_study(synthetic(tmp_path, curves)), "one"))
    assert found["half"][3] == "> 4000 (1 of 2)"
    assert found["most"][3] == "1000 (2 of 3)"


@pytest.mark.parametrize(
    ("seeds", "said"),
    [(1, "A pilot: some variant has one seed."), (3, "Few seeds: some variant has 3."), (5, None)],
)
def test_few_seeds_are_said_to_be_few(tmp_path, seeds, said):
    folder = synthetic(tmp_path, {("one", "base"): [SLOW] * 6, ("one", "fast"): [FAST] * seeds})
    write_report(folder)
    for name in ("report.md", "report.html"):
        page = (folder / name).read_text()
        assert (said in page) if said else ("Few seeds" not in page and "pilot" not in page)
    found = cells(setting_table(read_study(folder), "one"))["fast"]
    assert found[1] == ("1" if seeds == 1 else "1 [1, 1]"), "one seed has no interval"
    assert found[4:] == (["4", "1"] if seeds == 1 else ["4 [4, 4]", "1 [1, 1]"]), "nor has what it is compared with"


def test_without_the_baseline_nothing_is_compared(tmp_path):
    folder = synthetic(tmp_path, {("one", "fast"): [FAST] * 2}, variants={"fast": [], "base": []})
    assert cells(setting_table(read_study(folder), "one"))["fast"][3:] == ["-", "-", "-"]
    write_report(folder)


def test_results_that_do_not_belong_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no results: gaze-bench run NAME writes"):
        read_study(tmp_path)
    synthetic(tmp_path, KNOWN, settings={"one": []}, frames=None)
    with pytest.raises(ConfigError, match=r"results of two/base, which its benchmark\.yaml does not name"):
        read_study(tmp_path)


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (Estimate(0.98412, 0.96, 1.0), "0.984 [0.96, 1]"),
        (Estimate(2.0, 1.5, math.inf, ">"), "> 2 [1.5, ∞)"),
        (Estimate(0.5, math.nan, math.nan), "0.5"),
        (Estimate(math.nan, 0.0, math.inf), "-"),
        ("full", "full"),
    ],
)
def test_cells_as_text(cell, expected):
    assert text(cell) == expected


def test_markdown_holds_every_table_and_picture(study, folder, report):
    for setting in ("one", "two"):
        assert f"## {setting}\n" in report
        for row in setting_table(study, setting).rows:
            assert f"| {' | '.join(text(cell) for cell in row)} |" in report
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", report)
    assert sorted(pictures) == sorted(path.name for path in folder.glob("*.png"))
    assert set(pictures) == {"curves-one.png", "curves-two.png", "scores.png", "efficiency.png", "profiles.png"}
    # A table needs an empty line before it, and as many cells in each row as in its head.
    for block in re.findall(r"(?<=\n\n)(?:\|.*\n)+", report):
        assert len({line.count(" | ") for line in block.splitlines() if "---" not in line}) == 1
    assert "commit abc" in report


def test_pictures_show_something(folder, report):
    for path in folder.glob("*.png"):
        picture = np.asarray(Image.open(path).convert("L"))
        assert picture.std() > 5, path


def test_html_is_well_formed_and_needs_nothing_else(folder, report):
    page = Page(folder / "report.html")
    for tag, found in page.elements:
        assert tag not in ("link", "iframe", "object"), tag
        for name in ("src", "href", "srcset", "data", "action"):
            assert (found.get(name) or "#").startswith("#"), (tag, name)
    assert "url(" not in page.source
    assert "//" not in page.source.replace("// ", "")
    (policy,) = [found["content"] for found in page.all("meta") if "http-equiv" in found]
    assert policy.startswith("default-src 'none'")
    ids = [found["id"] for _, found in page.elements if "id" in found]
    assert len(ids) == len(set(ids))
    assert {found["href"][1:] for found in page.all("a")} == {found["id"] for found in page.all("section")}


def test_html_draws_each_variant_beside_the_baseline(folder, study, report):
    page = Page(folder / "report.html")
    charts = [json.loads(found["data-chart"]) for found in page.all("figure", "chart")]
    first = charts[0]
    assert first["x"] == [1000, 2000, 3000, 4000]
    assert first["y"] == [FAST, SLOW]
    bands = [found["d"] for found in page.all("path", "band")]
    assert all(band.startswith("M") and band.endswith("z") for band in bands)
    shown = words(page.text[""])
    for row in setting_table(study, "one").rows:
        assert " ".join(text(cell) for cell in row) in shown


@pytest.mark.parametrize("was_run", [True, False])
def test_nothing_is_said_to_stand_beside_a_baseline_that_was_not_run(was_run, tmp_path):
    table = synthetic(tmp_path, KNOWN) / "results.csv"
    if not was_run:
        table.write_text("".join(row for row in table.read_text().splitlines(True) if ",base," not in row))
    study = read_study(tmp_path)
    figure = _against(profiles(study), study.benchmark.baseline, "", "")
    found = figure.axes[0].get_legend()
    assert (found and [one.get_text() for one in found.get_texts()]) == (["base"] if was_run else None)
    write_report(tmp_path)
    for page in ("report.md", "report.html"):
        assert ("each variant beside base" in (tmp_path / page).read_text()) == was_run


def test_the_command_writes_the_same_twice(folder, report, tmp_path):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    done = bench(tmp_path, "report", str(folder))
    assert done.returncode == 0, done.stderr
    assert str(folder / "report.html") in done.stdout
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
