"""The report of a benchmark (table, machine, closing line), and functions that measure time."""

import os
import platform
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import TypeVar

import pandas as pd
import torch

Found = TypeVar("Found")
RESULTS = Path(__file__).parent / "results"


@dataclass
class Report:
    """The result of one benchmark.

    Attributes:
        name: the benchmark's name, as in `./run bench NAME`.
        table: the measurements, one per row.
        closing: the numbers in the closing line.
        notes: paragraphs that say what was measured, what was extrapolated and what others report.
    """

    name: str
    table: pd.DataFrame
    closing: dict[str, float]
    notes: list[str] = field(default_factory=list)

    def line(self) -> str:
        """The closing line, `name: figure=value ...`."""
        return f"{self.name}: " + " ".join(f"{k}={v:.4g}" for k, v in self.closing.items())

    def write(self, folder: str | Path = RESULTS) -> None:
        """Write NAME.csv with all measurements, and NAME.md to read."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.table.to_csv(folder / f"{self.name}.csv", index=False)
        table = self.table.to_string(index=False, float_format=lambda x: f"{x:.4g}")
        parts = [f"# {self.name}", machine(), *self.notes, f"```\n{table}\n```", f"`{self.line()}`"]
        (folder / f"{self.name}.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def machine() -> str:
    """One line with processor, cores, memory and versions."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    gpu = f"{torch.cuda.get_device_name()}, " if torch.cuda.is_available() else ""
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "numpy"))
    return (
        f"{gpu}{_processor()}, {os.cpu_count()} cores, {memory:.0f} GiB; "
        f"Python {platform.python_version()}, {versions}, notice-lib {version('notice-lib')}."
    )


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def timed(work: Callable[[], Found]) -> tuple[float, Found]:
    """The seconds that a call takes (on a GPU, until its kernels have finished) and its result."""
    started = perf_counter()
    found = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return perf_counter() - started, found


def matmul_peak(device: str = "cpu", dtype: torch.dtype = torch.float32, side: int = 2048) -> float:
    """FLOP/s of a product of two square matrices, the fastest of several."""
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    fastest = min(timed(lambda: a @ b)[0] for _ in range(8))
    return 2 * side**3 / fastest
