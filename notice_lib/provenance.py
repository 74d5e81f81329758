"""Where numbers come from: machine, versions, state of the library's code."""

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
    """The GPU, where the device is one; processor, cores and memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    gpu = f"{torch.cuda.get_device_name(device)}, " if device.type == "cuda" else ""
    return f"{gpu}{_processor()}, {os.cpu_count()} cores, {memory:.0f} GiB"


def versions() -> dict[str, str]:
    """Of Python, of CUDA where torch has it, and of `PACKAGES`."""
    found = {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}
    return found | ({"cuda": torch.version.cuda} if torch.version.cuda else {})


def commit() -> str | None:
    """The commit of the library's checkout, with "-dirty" where its code was changed since; None
    for an installed library."""
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
