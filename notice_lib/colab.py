"""Describes a fresh runtime: `python -m notice_lib.colab`, the last step of the set-up cell.

It changes nothing. Chapters run on the CPU by default, so it says what that means on a runtime
without a GPU, and how to use a GPU if there is one.
"""

import os
import shutil
import sys
from importlib.metadata import version

GIB = 2**30
ON_THE_CPU = (
    "Every chapter runs on the CPU in minutes with the book's own models, so you can go on. "
    "A model from the hub needs a GPU: Runtime > Change runtime type > T4 GPU, then run this again."
)
ON_THE_GPU = (
    "Chapters still run on the CPU, which is enough for the book's own models. "
    'For a model from the hub, set device = "cuda" in the parameters.'
)
UNUSABLE = (
    "This runtime has a GPU, but the installed torch cannot use it, so chapters run on the CPU. "
    "Something has replaced Colab's own torch: Runtime > Disconnect and delete runtime restores it."
)


def gpu() -> tuple[str, int] | None:
    """Return name and memory in bytes of the first GPU that torch can use, or None."""
    import torch

    if not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(0)
    return properties.name, properties.total_memory


def advice(device: tuple[str, int] | None, has_driver: bool) -> str:
    """Say what the GPU, or its absence, means for the chapters.

    Args:
        device: name and memory in bytes of the GPU that torch can use, or None.
        has_driver: whether the machine has a GPU, even if torch cannot use it.
    """
    if device:
        name, size = device
        return f"GPU: {name}, {size / GIB:.0f} GiB. {ON_THE_GPU}"
    return UNUSABLE if has_driver else f"No GPU. {ON_THE_CPU}"


def report() -> str:
    """Return versions, cores and memory of this runtime, and the advice."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    python = ".".join(map(str, sys.version_info[:3]))
    versions = [f"{name} {version(name)}" for name in ("notice-lib", "torch", "transformers")]
    machine = f"{os.cpu_count()} CPU cores, {memory / GIB:.0f} GiB of memory"
    has_driver = shutil.which("nvidia-smi") is not None
    return "\n".join(
        [", ".join([*versions, f"Python {python}", machine]), advice(gpu(), has_driver)]
    )


if __name__ == "__main__":
    print(report())
