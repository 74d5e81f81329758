"""Where numbers come from: the machine, the versions, and the state of the library's code."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch

PACKAGES = (
    "notice-lib",
    "torch",
    "transformers",
    "accelerate",
    "numpy",
    "pandas",
    "pyarrow",
    "pillow",
)


def machine(device: torch.device) -> str:
    """The GPU (if the device is one), the processor, its cores, and the memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    gpu = f"{torch.cuda.get_device_name(device)}, " if device.type == "cuda" else ""
    return f"{gpu}{_processor()}, {os.cpu_count()} cores, {memory:.0f} GiB"


def versions() -> dict[str, str]:
    """The versions of Python, of `PACKAGES`, and of CUDA if torch was built with it."""
    cuda = {"cuda": torch.version.cuda} if torch.version.cuda else {}
    packages = {name: version(name) for name in PACKAGES}
    return {"python": platform.python_version()} | packages | cuda


def commit() -> str | None:
    """The commit of the library's checkout, or None if the library was installed.

    It ends in "-dirty" if the library's code was changed since.
    """
    package = Path(__file__).resolve().parent
    if not (package.parent / ".git").exists():
        return None
    git = ["git", "-C", str(package)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", "."])
    except OSError:
        return None
    if head.returncode:
        return None
    return head.stdout.strip() + ("-dirty" if changed.returncode else "")


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
