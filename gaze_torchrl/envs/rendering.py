"""Finds out whether this machine can render, before SAPIEN tries to.

ManiSkill draws its pictures through Vulkan: with a GPU's driver, or with Mesa's software renderer (lavapipe)
on a machine without one. `require_renderer` asks the Vulkan loader which devices there are, and says what to
install if none of them will do.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

__all__ = ["RenderDevice", "RendererNotFound", "require_renderer"]

REQUIRED_EXTENSIONS = {"VK_EXT_extended_dynamic_state", "VK_EXT_descriptor_indexing"}
# SAPIEN ranks devices by being NVIDIA's, discrete and able to trace rays, and refuses one with none of these,
# although it never traces a ray here. Lavapipe is able to since Mesa 24.3 (Debian 12 ships 22.3, Ubuntu 22.04
# 23.2).
RANKING_EXTENSION = "VK_KHR_ray_tracing_pipeline"
DISCRETE_GPU, CPU = 2, 4  # values of VkPhysicalDeviceType
NVIDIA = 0x10DE

# The names of the loader's setting; older loaders know only the second.
DRIVER_SETTINGS = ("VK_DRIVER_FILES", "VK_ICD_FILENAMES")
HOW_TO_INSTALL = (
    "install Mesa >= 24.3, on Debian 12 `sudo bash scripts/install_vulkan.sh` or "
    "`apt-get install -t bookworm-backports mesa-vulkan-drivers`"
)


class RendererNotFound(RuntimeError):
    """No Vulkan device of this machine can draw ManiSkill's pictures."""


@dataclass(frozen=True)
class RenderDevice:
    """A Vulkan device.

    Args:
        name: As its driver calls it, for example `"llvmpipe (LLVM 15.0.6, 256 bits)"`.
        is_cpu: Whether it is a software renderer.
        missing: The Vulkan extensions that SAPIEN needs and the driver lacks; empty if the device is usable.
    """

    name: str
    is_cpu: bool
    missing: tuple[str, ...] = ()


@functools.cache
def require_renderer() -> RenderDevice:
    """Return a Vulkan device that can render, a GPU if there is one.

    If there is only a software renderer, and the user has set neither `VK_DRIVER_FILES` nor
    `VK_ICD_FILENAMES`, the latter is set to lavapipe's manifest for this process and its children, so that
    the loader leaves the drivers of absent GPUs alone. Hence this is to be called before SAPIEN renders for
    the first time. The loader is asked in a child process: a broken driver cannot take this one down.

    Raises:
        RendererNotFound: If there is no Vulkan device, or only such with drivers that are too old.
    """
    chosen_by_user = any(os.environ.get(setting) for setting in DRIVER_SETTINGS)
    devices = _devices_in_child_process()
    if not chosen_by_user and all(device.is_cpu for device in devices) and (manifest := _lavapipe_manifest()):
        os.environ["VK_ICD_FILENAMES"] = str(manifest)
        # Without devices the loader may have stumbled over another driver.
        devices = devices or _devices_in_child_process()
    usable = [device for device in devices if not device.missing]
    if not usable:
        raise RendererNotFound(_explain(devices))
    return min(usable, key=lambda device: device.is_cpu)


def _explain(devices: list[RenderDevice]) -> str:
    if devices:
        found = "; ".join(f"{device.name} lacks {', '.join(device.missing)}" for device in devices)
        return f"The Vulkan driver is too old for SAPIEN ({found}): {HOW_TO_INSTALL}."
    settings = [f"{name}={os.environ[name]}" for name in DRIVER_SETTINGS if os.environ.get(name)]
    hint = f" ({', '.join(settings)} is set: correct it, or unset it)" if settings else ""
    return f"No Vulkan device was found{hint}: {HOW_TO_INSTALL}."


def _lavapipe_manifest() -> Path | None:
    data_folders = os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share"
    manifests = (
        manifest
        for folder in ["/etc", *data_folders.split(":")]
        for manifest in sorted(Path(folder, "vulkan", "icd.d").glob("lvp_icd*.json"))
    )
    return next(manifests, None)


def _devices_in_child_process() -> list[RenderDevice]:
    command = [sys.executable, "-I", __file__]
    try:
        child = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except subprocess.SubprocessError:
        return []
    found = json.loads(child.stdout.splitlines()[-1])
    return [RenderDevice(device["name"], device["is_cpu"], tuple(device["missing"])) for device in found]


def _load_vulkan() -> ctypes.CDLL | None:
    # SAPIEN brings a loader of its own for machines without one.
    sapien = importlib.util.find_spec("sapien")
    folders = (sapien.submodule_search_locations if sapien else None) or []
    bundled = [file for folder in folders for file in Path(folder, "vulkan_library").glob("libvulkan.so*")]
    for library in ["libvulkan.so.1", *map(str, bundled)]:
        try:
            return ctypes.CDLL(library)
        except OSError:
            continue
    return None


def _devices() -> list[RenderDevice]:
    """Ask the Vulkan loader. Numbers are offsets in Vulkan's C structures, which are the same everywhere."""
    vulkan = _load_vulkan()
    instance = ctypes.c_void_p()
    create_info = (ctypes.c_uint64 * 8)(1)  # VkInstanceCreateInfo: its type is 1, everything else is left out
    if vulkan is None or vulkan.vkCreateInstance(create_info, None, ctypes.byref(instance)) != 0:
        return []
    count = ctypes.c_uint32()
    vulkan.vkEnumeratePhysicalDevices(instance, ctypes.byref(count), None)
    handles = (ctypes.c_void_p * count.value)()
    vulkan.vkEnumeratePhysicalDevices(instance, ctypes.byref(count), handles)
    return [_describe(vulkan, ctypes.c_void_p(handle)) for handle in handles[: count.value]]


def _describe(vulkan: ctypes.CDLL, device: ctypes.c_void_p) -> RenderDevice:
    properties = ctypes.create_string_buffer(2048)  # VkPhysicalDeviceProperties
    vulkan.vkGetPhysicalDeviceProperties(device, properties)
    _, _, vendor, _, kind = (ctypes.c_uint32 * 5).from_buffer(properties)
    name = ctypes.string_at(ctypes.addressof(properties) + 20).decode()

    count = ctypes.c_uint32()
    vulkan.vkEnumerateDeviceExtensionProperties(device, None, ctypes.byref(count), None)
    size = 260  # VkExtensionProperties: a name of 256 bytes and a version of 4
    table = ctypes.create_string_buffer(size * count.value)
    vulkan.vkEnumerateDeviceExtensionProperties(device, None, ctypes.byref(count), table)
    extensions = {ctypes.string_at(ctypes.addressof(table) + size * i).decode() for i in range(count.value)}

    is_ranked = kind == DISCRETE_GPU or vendor == NVIDIA
    required = REQUIRED_EXTENSIONS if is_ranked else REQUIRED_EXTENSIONS | {RANKING_EXTENSION}
    return RenderDevice(name, is_cpu=kind == CPU, missing=tuple(sorted(required - extensions)))


if __name__ == "__main__":
    print(json.dumps([asdict(device) for device in _devices()]))
