"""Every registered component has its YAML, and the YAML says what the signature says."""

import inspect
import re
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from gaze_torchrl import registry
from gaze_torchrl.modules import GazeModule
from gaze_torchrl.training.explain import config_dir
from tests.contract_entries import every

registry.load()
ENTRIES = {f"{entry.group}={entry.name}": entry for entry in registry.entries()}
EVERY_ENTRY = pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES.keys())


def node(entry) -> DictConfig:
    config = OmegaConf.load(config_dir() / entry.group / f"{entry.name}.yaml")
    return config.get(entry.group, config)


def test_groups_are_folders():
    assert {entry.group for entry in ENTRIES.values()} == set(registry.FACTS)
    assert all((config_dir() / group).is_dir() for group in registry.FACTS)


@EVERY_ENTRY
def test_yaml_names_the_component(entry):
    module, _, name = node(entry)._target_.rpartition(".")
    assert getattr(__import__(module, fromlist=[name]), name) is entry.target


@EVERY_ENTRY
def test_yaml_and_signature_agree(entry):
    """The default of an option is written once in the signature; what the YAML shows is proved equal."""
    written = {str(key): value for key, value in OmegaConf.to_container(node(entry), resolve=False).items()}
    expected = entry.node
    facts = {*registry.FACTS[entry.group], "_target_", "defaults"}
    required = {key for key, one in entry.parameters.items() if one.default is one.empty}
    assert set(written) - facts == (set(expected) | required) - facts
    for key, value in written.items():
        if key in facts or str(value).startswith("${"):
            continue
        assert key in expected, f"{key} has no default in the signature"
        default = expected[key]
        assert value == (list(default) if isinstance(default, tuple) else default), key


def test_switches_of_the_builder_have_the_gaze_modules_defaults():
    signature = inspect.signature(GazeModule.__init__).parameters
    assert registry.BUILDER_KEYS["gaze"] == {"rl_gradient": signature["rl_gradient"].default, "condition": False}
    assert signature["film"].default is None


@EVERY_ENTRY
def test_docstring_says_what_it_is(entry):
    assert entry.summary.endswith(".")
    assert len(entry.summary) < 120


@pytest.mark.parametrize("folder", sorted(config_dir().rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_field_has_a_comment(folder):
    for line in folder.read_text().splitlines():
        key, _, value = line.partition(":")
        plain = value and not line.lstrip().startswith(("#", "-")) and key.strip() not in ("_target_", "defaults")
        if plain and value.partition("#")[0].strip():
            own = "#" in value or folder.parent.name in ("experiment", "task") or folder.stem == "train"
            assert own or "hydra" in key or "override" in line, line


def test_a_taken_name_is_an_error():
    with pytest.raises(ValueError, match=r"gaze=foveal is gaze_torchrl\.modules\..*register .* under another name"):

        @registry.register("gaze", "foveal")
        class Other:
            """Another gaze."""


def test_an_unknown_group_is_an_error():
    with pytest.raises(ValueError, match=r"Unknown group 'eyes'.*'gaze'"):
        registry.register("eyes", "left")(object)


def test_options_are_the_components_own():
    with pytest.raises(ValueError, match=r"takes no \['zoom'\]"):
        registry.register("miner", "zoomed", zoom=2)(ENTRIES["miner=quantile"].target)


def test_lookup_lists_what_there_is():
    assert registry.lookup("gaze", "foveal").name == "foveal"
    with pytest.raises(KeyError, match=r"No gaze=foveel.*'foveal'"):
        registry.lookup("gaze", "foveel")


@every("env")
def test_an_environment_has_a_test_of_its_specs(entry):
    """They need packages and seconds to start: tests/envs does it once for each."""
    name = entry.target.__module__.rpartition(".")[-1]
    text = (Path(__file__).parent / "envs" / f"test_{name}.py").read_text()
    assert re.search(r"check_(env_specs|contract)\(env", text)
