"""The page of a run: that it needs nothing else, and shows what the run folder holds."""

import csv
import json
import re
import shutil
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from torchrl.checkpoint import CheckpointError

from gaze_torchrl import __version__
from gaze_torchrl.training.explain import ConfigError
from gaze_torchrl.training.run_folder import RunFolder
from gaze_torchrl.viewing.page import view_run
from tests.training.support import command, tiny_run
from tests.viewing.support import Page, words

SECTIONS = ("curves", "episodes", "triplets", "configuration")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return tiny_run(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def page(run) -> Page:
    return Page(view_run(run))


def columns(path):
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in rows] for name in rows[0]}


def charts(page):
    return [json.loads(found["data-chart"]) for found in page.all("figure", "chart")]


def test_needs_nothing_else(page):
    for tag, found in page.elements:
        assert tag not in ("link", "iframe", "object"), tag
        for name in ("src", "href", "srcset", "data", "action"):
            assert (found.get(name) or "#").startswith(("#", "data:image/webp;base64,")), (tag, name)
    styles = re.findall(r"<style>(.*?)</style>", page.source, re.DOTALL)
    assert styles
    assert "url(" not in "".join(styles)
    assert "//" not in re.sub(r"base64,[^\"]*", "", page.source).replace("// ", "")
    # A browser enforces it.
    (policy,) = [found["content"] for found in page.all("meta") if "http-equiv" in found]
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_has_every_section_and_one_link_to_each(page):
    assert [found["id"] for found in page.all("section")] == list(SECTIONS)
    assert [found["href"] for found in page.all("a")] == [f"#{name}" for name in SECTIONS]
    ids = [found["id"] for _, found in page.elements if "id" in found]
    assert len(ids) == len(set(ids))


def test_everything_that_is_not_text_has_a_name(page):
    assert all(found.get("alt") for found in page.all("img"))
    drawn = [found for found in page.all("svg") if "aria-hidden" not in found]
    assert drawn
    assert all(found["role"] == "img" and found["aria-label"] for found in drawn)
    (html,) = page.all("html")
    assert html["lang"] == "en"


def test_header_says_what_run_it_is(page):
    text = words(page.text[""])
    for fact in ("clutter: medium", "gaze multi_foveal", "contrast triplet", "seed 1", "frames 256", __version__):
        assert fact in text
    assert "not complete" not in text


def test_curves_are_those_of_the_csv_files(run, page):
    names = re.findall(r"<code>(\w+)</code>", page.source)
    for file in ("evaluation", "metrics"):
        expected = columns(run / f"{file}.csv")
        frames = expected.pop("frames")
        assert set(expected) <= set(names)
        matching = [chart for chart in charts(page) if chart["x"] == frames and chart["unit"] == "frames"]
        for name, values in expected.items():
            values = [None if value != value else pytest.approx(value, rel=1e-5) for value in values]
            assert any(chart["y"][0] == values for chart in matching), name
    timings = columns(run / "timings.csv")
    (time,) = [chart for chart in charts(page) if len(chart["y"]) == 2]
    assert time["y"] == [pytest.approx(timings[name], rel=1e-5) for name in ("collect", "update")]
    last = columns(run / "evaluation.csv")["return"][-1]
    assert f"<strong>{last:.3g}</strong>" in page.source


def test_configuration_is_there_as_text(run, page):
    shown = page.text["configuration"].partition("Every key of this run")[2].strip()
    assert OmegaConf.create(shown) == OmegaConf.load(run / "config.yaml")


def test_episodes_are_those_of_the_evaluation(run, page):
    episodes = page.all("article", "episode")
    assert len(episodes) == 2
    assert all(json.loads(found["data-steps"]) == list(range(20)) for found in episodes)
    frames = re.findall(r'<script type="application/json" class="frames">(.*?)</script>', page.source)
    assert all(len(set(json.loads(one))) > 10 for one in frames)
    steps = [chart for chart in charts(page) if chart["unit"] == "steps"]
    assert len(steps) == 2 * 3, "reward, distance and attention of each"
    assert all(chart["x"] == list(range(20)) and None not in chart["y"][0] for chart in steps)
    for episode, reward in enumerate((steps[0], steps[3]), 1):
        shown = re.search(rf"Episode {episode} return ([\d.]+) in 20 steps", words(page.text["episodes"]))
        assert float(shown[1]) == pytest.approx(sum(reward["y"][0]), rel=0.01)
    assert Page(view_run(run)).source == page.source, "the same whenever it is looked at"


def test_other_episodes_get_a_page_of_their_own(run, page, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    child = command("view", str(copy), "env.level=shift", "evaluation.video_episodes=1", "checkpoint=best")
    assert child.returncode == 0, child.stderr
    path = Path(child.stdout.strip())
    assert path == copy / "view-best-env.level=shift-evaluation.video_episodes=1.html"
    other = Page(path)
    assert "with checkpoint=best env.level=shift evaluation.video_episodes=1" in words(other.text["episodes"])
    assert len(other.all("article", "episode")) == 1
    assert other.all("img", "video")[0]["src"] != page.all("img", "video")[0]["src"]


def test_long_episodes_are_cut_without_a_word_about_the_run(run, tmp_path, monkeypatch, recwarn):
    monkeypatch.setattr("gaze_torchrl.viewing.page._LONGEST", 4)
    view_run(shutil.copytree(run, tmp_path / "copy"))
    assert not [one for one in recwarn if "had not ended" in str(one.message)]


def test_plain_cnn_says_that_it_has_neither_gaze_nor_triplets(tmp_path):
    page = Page(view_run(tiny_run(tmp_path / "run", "gaze=none", "contrast=none")))
    assert "gaze none" in words(page.text[""])
    assert "It has no gaze to draw" in page.text["episodes"]
    assert "contrast=none reads no triplets" in page.text["triplets"]
    assert not page.all("article", "triplet")
    video = page.all("img", "video")[0]
    assert video["width"] == video["height"], "nothing beside the frame"
    assert [chart["unit"] for chart in charts(page)].count("steps") == 2, "the rewards alone"


def test_curl_has_no_triplets(tmp_path):
    page = Page(view_run(tiny_run(tmp_path / "run", "contrast=curl", "evaluation.video_episodes=0")))
    assert "contrast=curl reads no triplets" in page.text["triplets"]
    assert "evaluation.video_episodes=0" in page.text["episodes"]


def test_sac(tmp_path):
    page = Page(view_run(tiny_run(tmp_path / "run", "loss=sac")))
    assert "loss SACLoss" in words(page.text[""])
    assert len(page.all("article", "triplet")) == 24
    assert {"loss_qvalue", "loss_actor", "alpha"} <= set(re.findall(r"<code>(\w+)</code>", page.source))


class Stopped(Exception):
    """In place of a crash."""


def test_a_stopped_run_is_shown_as_far_as_it_came(tmp_path, monkeypatch):
    save = RunFolder.save_state

    def stop(self, state):
        save(self, state)
        raise Stopped

    monkeypatch.setattr(RunFolder, "save_state", stop)
    with pytest.raises(Stopped):
        tiny_run(tmp_path / "run")
    # As it may be found while a row is being written.
    with (tmp_path / "run" / "metrics.csv").open("a") as file:
        file.write("256,0.1")
    page = Page(view_run(tmp_path / "run"))
    assert "frames 128 of 256, not complete" in words(page.text[""])
    assert len(page.all("article", "episode")) == 2
    assert page.all("article", "triplet")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    page = Page(view_run(tmp_path / "run"))
    assert page.all("figure", "chart")
    for section in ("episodes", "triplets"):
        assert "There is no checkpoint yet" in page.text[section]
    for file in (tmp_path / "run").glob("*.csv"):
        file.unlink()
    page = Page(view_run(tmp_path / "run"))
    assert "not finished a rollout yet" in page.text["curves"]
    assert not page.all("figure")


def test_mistakes_end_with_one_message_and_no_page(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    (copy / "view.html").unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError, match="no run folder"):
        view_run(tmp_path)
    with pytest.raises(ConfigError, match="Did you mean 'level'"):
        view_run(copy, ["env.levl=shift"])
    with pytest.raises(CheckpointError, match="was refused"):
        view_run(copy, ["gaze.num_foveae=2"])
    assert not list(copy.glob("*.html"))
    child = command("view", str(tmp_path / "nothing"))
    assert child.returncode == 2
    assert child.stderr.startswith("error: ")
    assert "no run folder" in child.stderr
    assert "Traceback" not in child.stderr


def test_what_a_run_is_called_cannot_become_markup(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    config = OmegaConf.load(copy / "config.yaml")
    config.task.name = "<script>alert(1)</script>"
    OmegaConf.save(config, copy / "config.yaml")
    shutil.rmtree(copy / "checkpoints")
    page = Page(view_run(copy))
    assert "<script>alert" not in page.source
    assert "<script>alert(1)</script>" in page.text["configuration"]
