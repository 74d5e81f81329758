"""The fence around submissions: what runs behind it is limited, and finds only what it is shown."""

import socket
import sys
from pathlib import Path

import pytest

from tools.course import fence
from tools.course.by_hand import LIBRARY
from tools.course.fence import ALLOW, SYSTEM, WORK, Limits, Unfenced, check_fence, run_fenced


@pytest.mark.parametrize(
    "code, limits, end",
    [
        ("pass", Limits(), ""),
        ("raise SystemExit('in the middle')", Limits(), "it ended with status 1: in the middle"),
        ("while True: pass", Limits(1), "it was stopped after 1 seconds of computing"),
        (
            "import time; time.sleep(60)",
            Limits(clock=1),
            "it was stopped after 1 seconds by the clock",
        ),
        ("bytearray(2**28)", Limits(memory=2**27), "it ended with status 1: MemoryError"),
        ("open('result', 'wb').write(bytes(2**21))", Limits(files=2**20), "File too large"),
        (
            "for name in 'abc': open(name, 'wb').write(bytes(2**19))",
            Limits(files=2**20),
            "No space left",
        ),
        ("import subprocess; subprocess.Popen(['sleep', '61.25'])", Limits(), ""),
    ],
    ids=["fine", "fails", "computes", "sleeps", "memory", "a file", "files", "leaves a process"],
)
def test_what_runs_behind_the_fence_is_limited(code, limits, end, tmp_path):
    (tmp_path / "program.py").write_text(code)
    found = run_fenced("program", tmp_path, "result", limits=limits)
    assert found == end or (end and end in found)
    commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline")]
    assert not any(b"61.25" in command for command in commands)


CURIOUS = """
import os, socket, subprocess, sys
from pathlib import Path

seen = sorted({*os.listdir("/"), *os.listdir("/..")})  # "/.." is the old root, if it is still there
there = [path for path in SECRET if os.path.exists(path)]
escapes = [
    "umount /proc", "mount -o remount,rw /", "mount -t tmpfs none /usr", "unshare --user true",
    "touch /written", f"touch {LIBRARY}/written", "echo x > /proc/sys/kernel/core_pattern",
]
there += [line for line in escapes if not subprocess.run(line, shell=True, stderr=-3).returncode]
rights = [line.split()[1] for line in open("/proc/self/status") if line.startswith("Cap")]
there += [right for right in rights if int(right, 16)]
processes = [name for name in os.listdir("/proc") if name.isdigit()]
try:
    there.append(socket.create_connection(ADDRESS, timeout=5))
except OSError:
    pass
for replace in (os.remove, os.rmdir, lambda path: os.rename("program.py", path)):
    try:
        replace("result")
        there.append(replace)
    except OSError:
        pass
with open("result", "a") as result:
    print(seen, there, len(processes), sorted(os.listdir()), file=result)
"""


def test_what_runs_behind_the_fence_finds_only_what_it_is_shown(tmp_path):
    work, home = tmp_path / "work", tmp_path / "home"
    for folder in (work, home / "submitted" / "bob"):
        folder.mkdir(parents=True)
    (home / "seed").touch()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        names = {
            "SECRET": [str(tmp_path), str(LIBRARY.parent / "tests"), "/etc/passwd", "/sys"],
            "LIBRARY": str(LIBRARY),
            "ADDRESS": listening.getsockname(),
        }
        told = "".join(f"{name} = {value!r}\n" for name, value in names.items())
        (work / "program.py").write_text(told + CURIOUS)
        assert run_fenced("program", work, "result", {LIBRARY: LIBRARY}) == ""
    places = {Path(place).parts[1] for place in (LIBRARY, sys.prefix, sys.base_prefix, WORK)}
    places |= {"dev", "proc", *(Path(path).parts[1] for path in SYSTEM if Path(path).exists())}
    line = (work / "result").read_text()
    assert line == f"{sorted(places)} [] 2 {['program.py', 'result']}\n"
    assert not (LIBRARY / "written").exists()


def test_without_a_whole_fence_nothing_runs(monkeypatch):
    check_fence()
    monkeypatch.setattr(fence, "INSIDE", fence.INSIDE.replace("pivot_root", "no_such_tool"))
    with pytest.raises(Unfenced, match="no_such_tool"):
        check_fence()
    monkeypatch.setenv("PATH", "")
    with pytest.raises(Unfenced, match="unshare is missing") as refused:
        check_fence()
    assert ALLOW in str(refused.value)
