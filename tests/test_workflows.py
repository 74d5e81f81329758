"""The workflows: actionlint and the published schemas find nothing, and what they call exists."""

import functools
import http.server
import json
import os
import re
import ssl
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import pytest
import yaml

from tools.course.fence import ALLOW
from tools.prepare_notebooks import notebooks

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / ".github" / "workflows"
WORKFLOWS = {path.stem: yaml.safe_load(path.read_text()) for path in FOLDER.glob("*.yml")}
RUN = (ROOT / "run").read_text()
TOOLS = Path(sys.executable).parent


def jobs():
    return [
        pytest.param(job, id=f"{name}-{key}")
        for name, workflow in sorted(WORKFLOWS.items())
        for key, job in workflow["jobs"].items()
    ]


def scripts(job):
    """The shell scripts of a job, the lines of each joined as YAML and bash do."""
    return [step["run"].replace("\\\n", " ") for step in job["steps"] if "run" in step]


def test_actionlint_finds_nothing():
    command = [TOOLS / "actionlint", "-shellcheck=", "-pyflakes=", *sorted(FOLDER.glob("*.yml"))]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.parametrize(
    ("schema", "files"),
    [
        ("vendor.github-workflows", ".github/workflows/*.yml"),
        ("custom.github-workflows-require-timeout", ".github/workflows/*.yml"),
        ("vendor.dependabot", ".github/dependabot.yml"),
    ],
)
def test_files_keep_to_the_published_schemas(schema, files):
    paths = sorted(ROOT.glob(files))
    assert paths
    command = [TOOLS / "check-jsonschema", "--builtin-schema", schema, *paths]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr


def test_a_mistake_is_found(tmp_path):
    text = (FOLDER / "ci.yml").read_text().replace("matrix.python", "matrix.pythn")
    (tmp_path / "ci.yml").write_text(text)
    command = [TOOLS / "actionlint", "-shellcheck=", "-pyflakes=", tmp_path / "ci.yml"]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 1 and "pythn" in found.stdout


@pytest.mark.parametrize("name", WORKFLOWS)
def test_nothing_may_be_written_by_default(name):
    assert WORKFLOWS[name]["permissions"] == {"contents": "read"}
    assert WORKFLOWS[name]["concurrency"]["group"]


@pytest.mark.parametrize("job", jobs())
def test_actions_are_pinned_and_keep_no_credentials(job):
    for step in job["steps"]:
        if "uses" in step:
            assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", step["uses"]), step["uses"]
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


def test_an_action_has_one_pin():
    """Dependabot moves the commit and the comment together."""
    uses = {
        match
        for path in FOLDER.glob("*.yml")
        for match in re.findall(r"uses: ([\w/-]+)@(\w+) # (v[\d.]+)$", path.read_text(), re.M)
    }
    assert len(uses) == len({action for action, _, _ in uses})
    total = sum(path.read_text().count("uses:") for path in FOLDER.glob("*.yml"))
    steps = [step for job in jobs() for step in job.values[0]["steps"] if "uses" in step]
    assert total == len(steps)


@pytest.mark.parametrize("job", jobs())
def test_scripts_read_no_expressions(job):
    """What a person can set, or a secret, reaches a shell as a variable and is never its text."""
    for script in scripts(job):
        assert "${{" not in script, script
        assert "set -x" not in script


@pytest.mark.parametrize("job", jobs())
def test_commands_exist(job):
    for script in scripts(job):
        for command in re.findall(r"\./run (\w+)", script):
            assert re.search(rf"^{command}\)$", RUN, re.MULTILINE), command
        for path in re.findall(r"\btools/[\w./]+", script):
            assert (ROOT / path).is_file(), path


def test_ubuntu_allows_the_fence_before_its_tests_run_and_the_page_says_how():
    fenced = [r"\./run test\b", r"\./run unit\b", r"\./run versions\b"]
    seen = 0
    for job in jobs():
        ran = scripts(job.values[0])
        tests = [i for i, script in enumerate(ran) if re.search("|".join(fenced), script)]
        seen += len(tests)
        assert all(ALLOW in ran[:at] for at in tests), job.id
    assert seen == 4
    assert f"`{ALLOW}`" in (ROOT / "book" / "course" / "graded_week.md").read_text()


def test_every_supported_python_is_tested():
    supported = re.search(r"for name in .*?((?:python3\.\d+ )+)", RUN)[1].split()
    matrix = WORKFLOWS["ci"]["jobs"]["unit"]["strategy"]["matrix"]["python"]
    assert sorted(f"python{version}" for version in matrix) == sorted(supported)


@pytest.mark.parametrize(
    ("chapters", "expected"),
    [
        ("", [path.stem for path in notebooks()]),
        ("03 04_modules_heads", ["03_first_patch", "04_modules_heads"]),
    ],
)
def test_the_gpu_matrix_is_every_chapter(chapters, expected, tmp_path):
    """The plan job's own script, with the tool that it calls."""
    (script,) = [s for s in scripts(WORKFLOWS["notebooks-gpu"]["jobs"]["plan"]) if "--list" in s]
    environment = os.environ | {
        "PATH": f"{TOOLS}{os.pathsep}{os.environ['PATH']}",
        "GITHUB_OUTPUT": str(tmp_path / "output"),
        "CHAPTERS": chapters,
    }
    shell = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script]
    subprocess.run(shell, check=True, env=environment, cwd=ROOT)
    assert (tmp_path / "output").read_text() == f"chapters={json.dumps(expected)}\n"


def test_the_book_takes_up_any_earlier_execution_of_the_same_python():
    """`./run book` checks each chapter's record; the key only decides whether to save."""
    steps = WORKFLOWS["book"]["jobs"]["build"]["steps"]
    (cache,) = [step["with"] for step in steps if "/cache@" in step.get("uses", "")]
    assert cache["path"].split() == ["_build/.jupyter_cache", "_build/chapters"]
    assert cache["key"].startswith(cache["restore-keys"])
    for used in ("book/*.md", "notice_lib/**", "data/**", "constraints.txt"):
        assert f"'{used}'" in cache["key"]


def get_data(folder, **settings):
    command = [ROOT / "tools" / "get_data.sh", folder]
    environment = {"PATH": os.environ["PATH"], **settings}
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_data_is_a_folder_or_embedded(tmp_path):
    assert get_data(tmp_path).stdout == "embedded\n"
    assert get_data(tmp_path, DATA=str(tmp_path)).stdout == f"{tmp_path}\n"
    missing = get_data(tmp_path, DATA=str(tmp_path / "none"))
    assert missing.returncode == 1 and "there is no folder" in missing.stderr


@pytest.fixture
def archive(tmp_path):
    """A .tar.gz with a set's folder in it."""
    (tmp_path / "svo").mkdir()
    (tmp_path / "svo" / "pairs.csv").write_text("pair_id\n")
    with tarfile.open(tmp_path / "secret-name.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "svo", "svo")
    return tmp_path / "secret-name.tar.gz"


@pytest.fixture
def https(archive):
    """The port of a server of the archive's folder, with the certificate in cert.pem there."""
    certificate = archive.with_name("cert.pem")
    named = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *named]
    both = ["-keyout", certificate, "-out", certificate]
    subprocess.run([*made, *both], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=archive.parent)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def test_data_is_fetched_and_unpacked(archive, https, tmp_path):
    settings = {"CURL_CA_BUNDLE": str(archive.with_name("cert.pem")), "NO_PROXY": "localhost"}
    url = f"https://localhost:{https}/{archive.name}"
    answer = get_data(tmp_path / "data", DATA_URL=url, **settings)
    assert answer.stdout == f"{tmp_path / 'data'}\n", answer.stderr
    assert [path.name for path in (tmp_path / "data").rglob("*")] == ["svo", "pairs.csv"]


def test_data_comes_by_https_only_and_its_address_stays_secret(archive, tmp_path):
    answer = get_data(tmp_path / "data", DATA_URL=f"file://{archive}")
    assert answer.returncode == 1 and answer.stdout == ""
    assert archive.name not in answer.stderr
    assert not list((tmp_path / "data").iterdir())
