"""A fence around a program of somebody else's: it sees little, changes nothing, and is limited.

Linux namespaces make it, by util-linux's `unshare`, which needs no privileges where the system
allows user namespaces. Its file system is a new one, in memory: the system's programs, Python and
what it is shown, all of it read-only, and a folder of its own. Nothing else is there, neither
other people's files nor sockets. It has no network and no privileges, sees no other process, and
nothing that it starts outlives it. One file comes out.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile

ROOT = Path(__file__).parents[2]
FENCE = (
    "unshare", "--user", "--map-root-user", "--net", "--ipc", "--uts", "--pid", "--mount", "--fork",
    "--kill-child",
)  # fmt: skip
SYSTEM = (
    "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64",
    "/etc/ld.so.cache", "/etc/alternatives", "/etc/fonts", "/etc/localtime",
)  # fmt: skip
PYTHON = (sys.prefix, sys.base_prefix, str(Path(sys.executable).resolve().parents[1]))
WORK = "/submission"
"""The folder in which the program starts, and its home. It is in memory, and so are its files."""
# All that is mounted is made read-only together, since --rbind brings along what is mounted below.
# A file system of its own for the work folder limits what all its files take, and the one file that
# comes out is mounted there, so no link, pipe or folder can take its place. The shell stays, since
# the first process of a namespace is not killed when it has used up its seconds.
INSIDE = """
set -e
root=$1 work=$2 given=$3 result=$4 room=$5; shift 5
mount -t tmpfs -o size=1m none "$root"
mkdir -p "$root/proc" "$root/dev/shm" "$root$work"
mount -t proc none "$root/proc"
echo 0 > "$root/proc/sys/user/max_user_namespaces"
for name in null zero full random urandom; do
    touch "$root/dev/$name"; mount --bind "/dev/$name" "$root/dev/$name"
done
while [ "$1" != -- ]; do
    at=$root$1
    if [ -d "$2" ]; then mkdir -p "$at"
    elif [ ! -e "$at" ]; then mkdir -p "$(dirname "$at")"; touch "$at"; fi
    mount --rbind "$2" "$at"; shift 2
done; shift
mounted=$(cat /proc/self/mountinfo)
while read -r _ _ _ _ at _; do
    at=$(printf %b "$at")
    case $at in "$root" | "$root"/*) mount -o remount,bind,ro "$at" ;; esac
done <<MOUNTED
$mounted
MOUNTED
mount -t tmpfs -o size=64m none "$root/dev/shm"
mount -t tmpfs -o "size=$room,nr_inodes=10k" none "$root$work"
cp -R "$given/." "$root$work"
mount --bind "$given/$result" "$root$work/$result"
cd "$root"
pivot_root . .
umount -l .
cd "$work"
setpriv --no-new-privs --bounding-set=-all --inh-caps=-all prlimit "$@" || exit $?
"""
KILLED = 128 + signal.SIGKILL
"""How a program ends that has used up its seconds."""
SAID = 10_000
"""How many of the last bytes that a program printed are looked at."""


ALLOW = "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
"""What lets ordinary users make a fence on Ubuntu 24.04, whose AppArmor refuses it by default."""


class Unfenced(RuntimeError):
    """No fence can be made here."""


@dataclass(frozen=True)
class Limits:
    """What a program may use: seconds of computing and by the clock (the machine may be busy), and
    bytes of memory and of files, which its folder holds in memory, too."""

    seconds: int = 120
    clock: int = 600
    memory: int = 3 * 2**30
    files: int = 100 * 2**20


LIMITS = Limits()


def check_fence() -> None:
    """Raise `Unfenced` where there is no fence: without it, submissions are not run."""
    with TemporaryDirectory() as name:
        (Path(name) / "nothing.py").touch()
        missing = [tool for tool in ("unshare", "setpriv", "prlimit") if not shutil.which(tool)]
        why = f"{missing[0]} is missing" if missing else run_fenced("nothing", Path(name), "said")
    if why:
        raise Unfenced(
            "Submissions run behind a fence of Linux namespaces, which this system does not allow "
            f"({why}). Grade on a Linux that has util-linux and unprivileged user namespaces. "
            f"Ubuntu refuses these until you run `{ALLOW}`; or grade as root."
        )


def is_shown(path: Path, shown: Mapping[Path, Path]) -> bool:
    """Whether a program would see a file or folder."""
    sources = [Path(source).resolve() for source in (*SYSTEM, *PYTHON, *shown.values())]
    return any(path.resolve().is_relative_to(source) for source in sources)


def run_fenced(
    module: str,
    folder: Path,
    result: str,
    shown: Mapping[Path, Path] | None = None,
    limits: Limits = LIMITS,
) -> str:
    """Run `python -m module` behind the fence, where it starts in a copy of a folder.

    Args:
        result: name of a file in the folder. What the program writes there is all that comes back.
        shown: files and folders that it sees, by the place where it sees them. Modules are found
            below `ROOT`.

    Returns:
        "" if it came to its end, otherwise why not, in words.
    """
    (folder / result).touch()
    seen = {Path(place): Path(place) for place in (*SYSTEM, *PYTHON)} | dict(shown or {})
    seen = {place: source for place, source in seen.items() if source.exists()}
    with TemporaryDirectory() as root, TemporaryFile() as said:
        command = [
            *FENCE, "sh", "-c", INSIDE, "sh", root, WORK, folder, result, limits.files,
            *(part for pair in seen.items() for part in pair), "--",
            f"--cpu={limits.seconds}", f"--data={limits.memory}", f"--fsize={limits.files}",
            sys.executable, "-m", module,
        ]  # fmt: skip
        process = subprocess.Popen(
            [str(part) for part in command],
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
        )
        try:
            status = process.wait(limits.clock)
        except subprocess.TimeoutExpired:
            process.kill()  # --kill-child ends all that is inside
            process.wait()
            return f"it was stopped after {limits.clock} seconds by the clock"
        said.seek(max(0, said.seek(0, os.SEEK_END) - SAID))
        last = said.read().decode(errors="replace").strip().splitlines()[-1:]
    if status == KILLED:
        return f"it was stopped after {limits.seconds} seconds of computing"
    return f"it ended with status {status}: {' '.join(last)}" if status else ""


def _environment() -> dict[str, str]:
    """Nothing of the teacher's environment, but for where programs are."""
    return {
        "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin",
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": WORK,
        "TMPDIR": WORK,
        "USER": "student",
        "MPLBACKEND": "agg",
        "OMP_NUM_THREADS": "1",
        "TQDM_DISABLE": "1",
        "HF_HUB_OFFLINE": "1",
    }
