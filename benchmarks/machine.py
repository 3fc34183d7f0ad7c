"""The machine of the measurements."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

import torch

PACKAGES = (
    "cxrlt",
    "torch",
    "timm",
    "numpy",
    "scipy",
    "pandas",
    "scikit-learn",
    "opencv-python-headless",
    "pillow",
)


def describe_machine() -> dict[str, object]:
    """Return processor, cores, memory, accelerator, system and package versions."""
    results: dict[str, object] = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gb": _memory_gb(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    }
    return results | {"packages": {name: version(name) for name in PACKAGES}}


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory_gb() -> float | None:
    names = os.sysconf_names if hasattr(os, "sysconf_names") else {}
    if "SC_PHYS_PAGES" not in names:
        return None
    return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1)
