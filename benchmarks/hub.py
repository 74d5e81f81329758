"""Measure what one student needs of a JupyterHub: a server, and the kernel of the worksheet.

The server is JupyterLab's, which a hub's single-user server adds its log-in to. It starts the
kernel, as it does when a student opens a notebook, and the cells run there one after the other.
"""

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.error import URLError
from urllib.request import Request, urlopen

import nbformat
import pandas as pd
from jupyter_client import BlockingKernelClient

from notice_lib import NoticeError

from .peers import environment
from .report import Report

WORKSHEET = Path(__file__).resolve().parents[1] / "book" / "course" / "worksheet.ipynb"
START = 3
"""The first code cells, which set up, import and load."""
PATIENCE = 120
"""Seconds to wait for the server, and for a cell."""
TOKEN = "no secret"
KERNEL = "ours"
"""The server has a kernel of its own environment, python3, which lacks the library."""


def run(tiny: bool = False) -> Report:
    """Measure memory and core-seconds of both processes, on one thread."""
    cells = [cell.source for cell in nbformat.read(WORKSHEET, 4).cells if cell.cell_type == "code"]
    with TemporaryDirectory() as name, _server(Path(name)) as (server, address):
        kernel, client = _kernel(Path(name), address)
        _execute(client, cells[:START])
        started = _measured("kernel, when it has started", kernel)
        _execute(client, [] if tiny else cells[START:])
        ended = _measured("kernel, after the worksheet", kernel)
        client.stop_channels()
        rows = [_measured("server", server), started, ended]
    table = pd.DataFrame(rows)
    both = table.iloc[[0, 2]]
    closing = {
        "peak_mib": both["peak MiB"].sum(),
        "own_mib": both["own MiB"].sum(),
        "core_seconds": ended["core-seconds"],
        "core_seconds_to_start": started["core-seconds"],
    }
    notes = [
        "One student: JupyterLab's server, and the kernel that has run the worksheet and its "
        "solutions, on one thread. `peak MiB` is the most resident memory of a process so far, "
        "`own MiB` what it shares with no other process now, since libraries are in memory once "
        "for all kernels of a machine. The closing line has the sums of server and kernel, and "
        "the core-seconds of the kernel.",
    ]
    return Report("hub", table, closing, notes)


@contextmanager
def _server(home: Path) -> Iterator[tuple[int, str]]:
    """Start JupyterLab in a folder. Returns its process and its address."""
    python = environment("jupyterlab")
    kernel = home / "data" / "kernels" / KERNEL
    kernel.mkdir(parents=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    described = {"argv": argv, "display_name": "Python 3", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(described))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = {
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_TOKEN": TOKEN,
        "OMP_NUM_THREADS": "1",
    }
    command = [python, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}"]
    process = subprocess.Popen(
        command, cwd=home, env=os.environ | settings, stderr=subprocess.DEVNULL
    )
    try:
        yield process.pid, f"http://127.0.0.1:{port}"
    finally:
        process.terminate()  # It ends its kernels.
        process.wait()


def _kernel(home: Path, address: str) -> tuple[int, BlockingKernelClient]:
    """Open JupyterLab's page as a browser does, and start a kernel. Returns its process."""
    _wait_for(f"{address}/lab")
    made = json.loads(_ask(f"{address}/api/kernels", json.dumps({"name": KERNEL}).encode()))
    client = BlockingKernelClient()
    client.load_connection_file(str(home / "runtime" / f"kernel-{made['id']}.json"))
    client.start_channels()
    client.wait_for_ready(PATIENCE)
    asked = client.execute("import os", user_expressions={"pid": "os.getpid()"}, reply=True)
    pid = asked["content"]["user_expressions"]["pid"]["data"]["text/plain"]
    return int(pid), client


def _wait_for(address: str) -> None:
    for _ in range(PATIENCE):
        try:
            _ask(address)
            return
        except URLError:
            time.sleep(1)
    raise NoticeError(f"JupyterLab has not answered at {address} for {PATIENCE} seconds.")


def _ask(address: str, data: bytes | None = None) -> bytes:
    request = Request(address, data, {"Authorization": f"token {TOKEN}"})
    with urlopen(request, timeout=PATIENCE) as answer:
        return answer.read()


def _execute(client: BlockingKernelClient, cells: list[str]) -> None:
    for number, source in enumerate(cells, 1):
        said = client.execute(source, reply=True, timeout=PATIENCE)["content"]
        if said["status"] != "ok":
            raise NoticeError(f"Cell {number} of {WORKSHEET.name} failed: {said['evalue']}")


def _measured(what: str, pid: int) -> dict[str, str | float]:
    """Memory and core-seconds of a process. Linux only."""
    process = Path(f"/proc/{pid}")
    peak = re.search(r"VmHWM:\s+(\d+)", (process / "status").read_text())
    private = re.findall(r"Private_\w+:\s+(\d+)", (process / "smaps_rollup").read_text())
    times = (process / "stat").read_text().rpartition(")")[2].split()[11:13]
    return {
        "process": what,
        "peak MiB": int(peak[1]) / 1024,
        "own MiB": sum(map(int, private)) / 1024,
        "core-seconds": sum(map(int, times)) / os.sysconf("SC_CLK_TCK"),
    }
