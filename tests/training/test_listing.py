"""gaze-list: everything that can be chosen, as a newcomer reads it."""

import signal
import subprocess
import sys

import pytest
from omegaconf import OmegaConf

from gaze_torchrl.training.explain import config_dir
from gaze_torchrl.training.listing import about, overview

FILES = sorted(path for path in config_dir().rglob("*.yaml") if path.parent != config_dir())


def test_the_overview_names_every_choice_and_stars_the_defaults():
    lines = overview().splitlines()
    sections, starred = {}, {}
    for line in lines[:-1]:
        if not line.startswith(" "):
            group = "benchmark" if line == "gaze-bench run" else line.removesuffix("=")
            sections[group] = []
            continue
        name = line[3:].split()[0]
        sections[group].append(name)
        if line[1] == "*":
            assert starred.setdefault(group, name) == name
    for path in FILES:
        assert path.stem in sections[path.parent.relative_to(config_dir()).as_posix()]
    chosen = {}
    for entry in OmegaConf.load(config_dir() / "train.yaml").defaults:
        if not isinstance(entry, str):
            chosen |= {key: name for key, name in entry.items() if name is not None and "/" not in key}
    assert starred == chosen


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_name_shows_its_comment_and_every_field(path):
    text = about(path.stem)
    for line in path.read_text().splitlines():
        if line and not line.startswith("#"):
            assert line in text
    said = next(line for line in path.read_text().splitlines() if line.startswith("# ") and "@package" not in line)
    assert said[2:] in text


def test_a_choice_may_be_named_as_it_is_chosen():
    assert about("gaze=mask") == about("mask")
    assert len(about("contrast=none")) < len(about("none"))


def test_keys_that_are_in_no_group():
    shipped = OmegaConf.create(about("train"))
    assert set(shipped) == set(OmegaConf.load(config_dir() / "train.yaml")) - {"defaults", "hydra"}
    for line in about("train").splitlines():
        assert not line or "#" in line or line.endswith(":") or line.startswith("run_dir"), line


def test_an_unknown_name_is_answered_with_the_groups():
    with pytest.raises(ValueError, match=r"'nothing' is neither a group nor a choice: the groups are \['augment'"):
        about("nothing")
    with pytest.raises(ValueError, match="'gaze=triplet' is neither"):
        about("gaze=triplet")


def test_a_reader_that_has_seen_enough_is_no_error():
    listing = subprocess.Popen(
        [sys.executable, "-c", "from gaze_torchrl.cli import show; show()"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    listing.stdout.close()
    assert listing.stderr.read() == b""
    assert listing.wait(timeout=60) == -signal.SIGPIPE
