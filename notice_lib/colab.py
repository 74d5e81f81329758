"""What a fresh runtime is good for: `python -m notice_lib.colab`, the last step of the set-up cell.

It changes nothing. The chapters run on a CPU by default, so a runtime without a GPU is told what
that means, and one with a GPU how to use it.
"""

import os
import shutil
import sys
from importlib.metadata import version

GIB = 2**30
ON_THE_CPU = (
    "With the models that travel with the book every chapter runs on the CPU, in minutes: go on. "
    "A model from the hub wants a GPU: Runtime > Change runtime type > T4 GPU, then run this again."
)
ON_THE_GPU = (
    "Chapters still run on the CPU, which is enough for the models that travel with the book. "
    'For a model from the hub set device = "cuda" in the parameters.'
)
UNUSABLE = (
    "This runtime has a GPU, but the installed torch cannot use it, so the CPU is used. Something "
    "has replaced Colab's own torch: Runtime > Disconnect and delete runtime gives it back."
)


def gpu() -> tuple[str, int] | None:
    """Name and bytes of the first GPU that torch can use; None without one."""
    import torch

    if not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(0)
    return properties.name, properties.total_memory


def advice(device: tuple[str, int] | None, has_driver: bool) -> str:
    """What to make of the GPU that there is, or is not.

    Args:
        device: name and bytes of the GPU that torch can use.
        has_driver: the machine has a GPU, whether or not torch can use it.
    """
    if device:
        name, size = device
        return f"GPU: {name}, {size / GIB:.0f} GiB. {ON_THE_GPU}"
    return UNUSABLE if has_driver else f"No GPU. {ON_THE_CPU}"


def report() -> str:
    """Versions, cores and memory of this runtime, and the advice."""
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
