"""What holds for the whole project: no pickles, no code from elsewhere, nothing out of its folder.

The limits of single modules are tested with them: test_images, test_downloads, test_pairs.
"""

import ast
import builtins
import json
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from safetensors.torch import load_file

from benchmarks import costs
from notice_lib import NoticeError, data_dir, load_inpainter, load_model

ROOT = Path(__file__).parents[1]
FOLDERS = ("notice_lib", "tools", "benchmarks", "tests", "book")

PICKLES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
"""Modules whose files run code when they are read."""
READERS = {
    "torch.load",
    "torch.save",
    "torch.jit.load",
    "torch.hub.load",
    "yaml.load",
    "eval",
    "exec",
}
METHODS = {"read_pickle", "to_pickle", "unsafe_load", "full_load"}
ARGUMENTS = {
    "allow_pickle": "False",
    "trust_remote_code": "False",
    "shell": "False",
    "use_safetensors": "True",
}
"""The only value with which an argument may be given."""
WEIGHTLESS = re.compile(r"(Config|Processor|Tokenizer|Scheduler)$")


def sources() -> dict[str, str]:
    """{file: Python} of all modules, and of the cells of all chapters."""
    found = {}
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*.py"):
            found[path.relative_to(ROOT).as_posix()] = path.read_text(encoding="utf-8")
    for path in (ROOT / "book").glob("*.md"):
        text = path.read_text(encoding="utf-8")
        cells = re.findall(r"^```{code-cell}.*?$(.*?)^```$", text, re.DOTALL | re.MULTILINE)
        cells = [
            re.sub(r"\A\s*(---\n.*?---\n|(:.*\n)+)", "", cell, flags=re.DOTALL) for cell in cells
        ]
        # Lines that only IPython understands are commands of the shell and magics.
        code = re.sub(r"^(\s*)[%!].*$", r"\1pass", "\n".join(cells), flags=re.MULTILINE)
        found[path.relative_to(ROOT).as_posix()] = code
    return found


def dangers(code: str) -> list[str]:
    """Uses of pickles, of code from elsewhere, and of weights that are not safetensors."""
    found = []
    for node in ast.walk(ast.parse(code)):
        match node:
            case ast.Import(names=names):
                found += [name.name for name in names if name.name.split(".")[0] in PICKLES]
            case ast.ImportFrom(module=module) if module and module.split(".")[0] in PICKLES:
                found.append(module)
            case ast.Call(func=function, keywords=keywords):
                called = ast.unparse(function)
                if called in READERS or called.split(".")[-1] in METHODS:
                    found.append(called)
                given = {word.arg: ast.unparse(word.value) for word in keywords}
                found += [f"{a}={b}" for a, b in given.items() if b != ARGUMENTS.get(a, b)]
                model = called.removesuffix(".from_pretrained")
                safe = WEIGHTLESS.search(model) or "use_safetensors" in given
                if model != called and not safe:
                    found.append(f"{called} without use_safetensors")
    return found


def test_no_source_reads_pickles_or_runs_what_it_reads():
    found = {file: dangers(code) for file, code in sources().items()}
    assert len(found) > 150
    assert {file: named for file, named in found.items() if named} == {}


@pytest.mark.parametrize(
    "code",
    [
        "import pickle", "from joblib import load", "import dill as d", "torch.load(path)",
        "torch.save(x, path)", "pd.read_pickle(path)", "np.load(path, allow_pickle=True)",
        "AutoConfig.from_pretrained(x, trust_remote_code=yes)", "subprocess.run(x, shell=True)",
        "BlipModel.from_pretrained(x)", "Model.from_pretrained(x, use_safetensors=None)",
        "eval(text)", "yaml.load(text)",
    ],
)  # fmt: skip
def test_the_search_finds_what_it_is_for(code):
    assert dangers(code)


def test_no_stored_file_is_a_pickle():
    """By content: a zip of tensors, a pickle's first bytes, an array of objects."""
    tracked = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT).decode().split("\0")
    for name in filter(None, tracked):
        path = ROOT / name
        if path.is_file():
            assert path.suffix not in (".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt"), name
            with open(path, "rb") as file:
                start = file.read(2)
            assert not re.fullmatch(rb"\x80[\x02-\x05]", start), name
            assert start != b"PK" or path.suffix == ".npz", name
    for path in (data_dir() / "checkpoints").glob("*/*.safetensors"):
        assert load_file(path)


def bomb(marker: Path) -> bytes:
    """A pickle that touches a file when it is read."""
    return f"cos\nsystem\n(S'touch {marker}'\ntR.".encode()


def test_a_pickled_checkpoint_is_refused(tmp_path):
    marker = tmp_path / "read"
    read = f"import pickle; pickle.loads({bomb(marker)!r})"
    subprocess.run([sys.executable, "-c", read], check=True)
    assert marker.exists(), "the bomb works"
    marker.unlink()
    for name, weights in (
        ("blip-mini", "pytorch_model.bin"),
        ("inpaint-mini", "diffusion_pytorch_model.bin"),
    ):
        folder = tmp_path / name
        shutil.copytree(data_dir() / "checkpoints" / name, folder)
        for path in folder.glob("*.safetensors"):
            path.unlink()
        (folder / weights).write_bytes(bomb(marker))
    with pytest.raises(NoticeError, match=r"a pickle|is no checkpoint"):
        load_model(tmp_path / "blip-mini")
    with pytest.raises((NoticeError, OSError), match="safetensors"):
        load_inpainter(tmp_path / "inpaint-mini")
    assert not marker.exists()


def edited(path: Path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


BLIP = "BlipForQuestionAnswering"


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("config.json", {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil"}}),
        ("config.json", {"auto_map": {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"}}),
        (
            "config.json",
            {
                "architectures": ["EvilForAnswers"],
                "auto_map": {"AutoModelForImageTextToText": "evil.Evil"},
            },
        ),
        (
            "processor_config.json",
            {"processor_class": "Evil", "auto_map": {"AutoProcessor": "evil.Evil"}},
        ),
        (
            "tokenizer_config.json",
            {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}},
        ),
    ],
)
def test_code_in_a_checkpoint_is_never_run(tmp_path, monkeypatch, file, changes):
    """Not even where transformers would ask and the user said yes."""
    asked = []
    monkeypatch.setattr(builtins, "input", lambda question="": asked.append(question) or "y")
    folder, marker = tmp_path / "evil", tmp_path / "run"
    shutil.copytree(data_dir() / "checkpoints" / "blip-mini", folder)
    (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w')\nclass Evil: pass\n")
    edited(folder / file, **changes)
    try:
        model = load_model(folder)
    except NoticeError:
        pass
    else:
        assert type(model.model).__name__ == BLIP
    with suppress(NoticeError):
        costs.read_config(folder)
    assert not asked
    assert not marker.exists()
