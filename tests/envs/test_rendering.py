"""Whether there is a renderer is found out before SAPIEN fails, and the error says what to install."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gaze_torchrl.envs import rendering
from gaze_torchrl.envs.rendering import RenderDevice, RendererNotFound, require_renderer
from tests.envs.maniskill_support import skip_without_maniskill

LAVAPIPE = RenderDevice("llvmpipe", is_cpu=True)
OLD_LAVAPIPE = RenderDevice("llvmpipe", is_cpu=True, missing=("VK_KHR_ray_tracing_pipeline",))
GPU = RenderDevice("NVIDIA H200", is_cpu=False)
INSTALL_SCRIPT = Path(__file__).parents[2] / "scripts" / "install_vulkan.sh"
HOW_TO_INSTALL = (
    "install Mesa >= 24.3, on Debian 12 `sudo bash scripts/install_vulkan.sh` or "
    "`apt-get install -t bookworm-backports mesa-vulkan-drivers`"
)


@pytest.fixture
def machine(monkeypatch):
    """Pretends that the loader finds these devices, one list each time it is asked."""

    def pretend(*answers, manifest=Path("/lvp_icd.json")):
        remaining = list(answers)
        monkeypatch.setattr(rendering, "_devices_in_child_process", lambda: remaining.pop(0))
        monkeypatch.setattr(rendering, "_lavapipe_manifest", lambda: manifest)

    for setting in rendering.DRIVER_SETTINGS:
        monkeypatch.setenv(setting, "")  # restores them afterwards
    return pretend


def require_again():
    return require_renderer.__wrapped__()


def test_gpu_is_preferred_and_drivers_are_left_alone(machine):
    machine([LAVAPIPE, GPU])
    assert require_again() == GPU
    assert not os.environ["VK_ICD_FILENAMES"]


def test_lavapipe_is_selected_without_a_gpu(machine):
    machine([LAVAPIPE])
    assert require_again() == LAVAPIPE
    assert os.environ["VK_ICD_FILENAMES"] == "/lvp_icd.json"


def test_lavapipe_is_tried_alone_if_other_drivers_break_the_loader(machine):
    machine([], [LAVAPIPE])
    assert require_again() == LAVAPIPE
    assert os.environ["VK_ICD_FILENAMES"] == "/lvp_icd.json"


@pytest.mark.parametrize("setting", rendering.DRIVER_SETTINGS)
def test_choice_of_the_user_is_kept(machine, monkeypatch, setting):
    monkeypatch.setenv(setting, "/my.json")
    machine([LAVAPIPE])
    assert require_again() == LAVAPIPE
    assert [os.environ[name] for name in rendering.DRIVER_SETTINGS if os.environ[name]] == ["/my.json"]


def test_no_driver(machine):
    machine([], manifest=None)
    with pytest.raises(RendererNotFound) as error:
        require_again()
    assert str(error.value) == f"No Vulkan device was found: {HOW_TO_INSTALL}."


def test_old_driver(machine):
    machine([OLD_LAVAPIPE])
    with pytest.raises(RendererNotFound) as error:
        require_again()
    problem = "The Vulkan driver is too old for SAPIEN (llvmpipe lacks VK_KHR_ray_tracing_pipeline)"
    assert str(error.value) == f"{problem}: {HOW_TO_INSTALL}."


@pytest.mark.parametrize("setting", rendering.DRIVER_SETTINGS)
@pytest.mark.parametrize("value", ["/nonexistent", "not json"])
def test_broken_setting_in_a_new_process(setting, value, tmp_path):
    if value == "not json":
        (tmp_path / "icd.json").write_text(value)
        value = str(tmp_path / "icd.json")
    folder = str(Path(rendering.__file__).parent)  # on its own: importing the package takes seconds
    code = f"import sys; sys.path.insert(0, {folder!r}); import rendering; rendering.require_renderer()"
    clean = {name: text for name, text in os.environ.items() if name not in rendering.DRIVER_SETTINGS}
    child = subprocess.run([sys.executable, "-c", code], env=clean | {setting: value}, capture_output=True, text=True)
    last = child.stderr.splitlines()[-1]
    assert child.returncode == 1
    assert last.startswith("rendering.RendererNotFound: No Vulkan device was found")
    assert f"{setting}={value} is set: correct it, or unset it" in last
    assert HOW_TO_INSTALL in last


@pytest.mark.maniskill
def test_environment_says_what_is_missing():
    skip_without_maniskill()
    code = "from gaze_torchrl.envs.maniskill import ManiSkillEnv; ManiSkillEnv()"
    child = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"VK_ICD_FILENAMES": "/nonexistent", "VK_DRIVER_FILES": ""},
        capture_output=True,
        text=True,
    )
    assert child.returncode == 1
    assert "RendererNotFound: No Vulkan device was found (VK_ICD_FILENAMES=/nonexistent" in child.stderr


def test_probe_that_crashes_finds_nothing(monkeypatch, tmp_path):
    (tmp_path / "crash.py").write_text("import os; os.abort()")
    monkeypatch.setattr(rendering, "__file__", str(tmp_path / "crash.py"))
    assert rendering._devices_in_child_process() == []


@pytest.fixture
def install(tmp_path):
    """Runs the script on a pretended machine: its apt folder, its user and what is installed are given."""
    commands, apt = tmp_path / "bin", tmp_path / "apt"
    (apt / "sources.list.d").mkdir(parents=True)
    commands.mkdir()
    script = tmp_path / "install.sh"
    script.write_text(INSTALL_SCRIPT.read_text().replace("/etc/apt", str(apt)).replace("/etc/os-release", f"{apt}/os"))
    (apt / "os").write_text("VERSION_CODENAME=bookworm\n")

    def run(user=0, version=None):
        stubs = {
            "id": f"echo {user}",
            "dpkg-query": f"echo installed {version}" if version else "exit 1",
            "apt-get": f'echo "$@" >> {apt}/calls',
            "apt-cache": "true",
        }
        for name, text in stubs.items():
            (commands / name).write_text(f"#!/bin/sh\n{text}\n")
            (commands / name).chmod(0o755)
        path = f"{commands}:{os.environ['PATH']}"
        return subprocess.run(["bash", script], env={"PATH": path}, capture_output=True, text=True)

    run.apt = apt
    return run


needs_debian = pytest.mark.skipif(not shutil.which("dpkg"), reason="needs dpkg, the script is for Debian")


@needs_debian
@pytest.mark.parametrize(("version", "is_good"), [("25.0.7-2~bpo12+1", True), ("24.3.0", True), ("22.3.6", False)])
def test_install_script_does_nothing_with_a_good_driver(install, version, is_good):
    child = install(version=version, user=1000)
    assert (child.returncode == 0) == is_good
    assert not (install.apt / "calls").exists()


def test_install_script_needs_root(install):
    child = install(user=1000)
    assert child.returncode == 1
    assert child.stderr.count("\n") == 1
    assert "run: sudo bash" in child.stderr


def test_install_script_on_another_system(install):
    (install.apt / "os").write_text("VERSION_CODENAME=noble\n")
    child = install()
    assert child.returncode == 1
    assert "not Debian 12" in child.stderr


DEB822 = """\
Types: deb
URIs: mirror://security
Suites: bookworm-security
Components: main

Types: deb
# a comment
URIs: mirror://main
Suites: bookworm bookworm-updates
Components: main
Signed-By: /key.gpg
"""
ONE_LINE = """\
# deb mirror://old bullseye main
deb mirror://security bookworm-security main
deb [arch=amd64 signed-by=/key.gpg] mirror://main bookworm main contrib
"""


@pytest.mark.parametrize(("file", "text"), [("sources.list.d/debian.sources", DEB822), ("sources.list", ONE_LINE)])
def test_install_script_takes_the_archive_from_existing_sources(install, file, text):
    (install.apt / file).write_text(text)
    child = install()
    assert child.returncode == 0, child.stderr
    assert (install.apt / "sources.list.d" / "bookworm-backports.sources").read_text() == (
        "Types: deb\nURIs: mirror://main\nSuites: bookworm-backports\nComponents: main\nSigned-By: /key.gpg\n"
    )
    last_call = (install.apt / "calls").read_text().splitlines()[-1]
    assert last_call == (
        "install -y -qq -t bookworm-backports mesa-vulkan-drivers libvulkan1 libegl1 libopengl0 libgl1-mesa-dri"
    )


def test_install_script_without_any_source(install):
    child = install()
    assert child.returncode == 1
    assert "No apt source for Debian 12" in child.stderr


def test_install_script_names_no_host():
    assert "://" not in INSTALL_SCRIPT.read_text()
