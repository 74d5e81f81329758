"""Checkpoints that come from a release: what a host or a disk may do to them."""

import functools
import http.server
import socket
import threading
from contextlib import contextmanager

import pytest
from huggingface_hub.utils import _cache_assets

from notice_lib import NoticeError, released
from notice_lib.files import sha256

FILES = {"config.json": b"{}", "weights.bin": b"numbers" * 1000}


@contextmanager
def serving(folder, monkeypatch):
    """A release whose files are those of a folder."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(released, "release_url", lambda: url)
        yield
        server.shutdown()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The folder in which the checkpoint "some" is kept; there is none yet."""
    monkeypatch.setattr(_cache_assets, "HF_ASSETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache" / "notice-lib" / "checkpoints" / "some"


@pytest.fixture
def release(tmp_path, cache):
    """The folder of a release's files, and their hashes."""
    folder = tmp_path / "release"
    folder.mkdir()
    for file, content in FILES.items():
        (folder / released.asset("some", file)).write_bytes(content)
    return folder, {file: sha256(folder / released.asset("some", file)) for file in FILES}


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("damage", [b"", b"numbers" * 999 + b"Numbers", None])
def test_a_damaged_file_in_the_cache_is_downloaded_again_and_others_are_not(
    release, cache, damage, monkeypatch
):
    served, digests = release
    with serving(served, monkeypatch):
        assert released.fetch("some", digests) == cache and contents(cache) == FILES
        (served / "some.config.json").unlink()
        (cache / "weights.bin").unlink()
        if damage is not None:
            (cache / "weights.bin").write_bytes(damage)
        released.fetch("some", digests)
        assert contents(cache) == FILES
        (served / "some.weights.bin").unlink()
        released.fetch("some", digests)
        assert contents(cache) == FILES


@pytest.mark.parametrize("sent", [b"numbers", b"numbers" * 1000 + b"!"])
def test_other_bytes_than_those_of_the_release_are_not_kept(release, cache, sent, monkeypatch):
    served, digests = release
    (served / "some.weights.bin").write_bytes(sent)
    told = r"weights\.bin could not be .*its SHA-256 is"
    with serving(served, monkeypatch), pytest.raises(NoticeError, match=told):
        released.fetch("some", digests)
    assert contents(cache) == {"config.json": b"{}"}


def test_a_host_that_says_nothing_is_given_up(release, monkeypatch):
    monkeypatch.setattr(released, "TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setattr(released, "release_url", lambda: url)
        with pytest.raises(NoticeError, match=r"config\.json could not be .*timed out.*Try again"):
            released.fetch("some", release[1])


def test_a_host_that_speaks_no_http_is_told(release, monkeypatch):
    def answer():
        connection, _ = listening.accept()
        connection.sendall(b"SSH-2.0-server\r\n\r\n")
        connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=answer, daemon=True).start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        monkeypatch.setattr(released, "release_url", lambda: url)
        with pytest.raises(NoticeError, match=r"config\.json could not be downloaded .*SSH-2"):
            released.fetch("some", release[1])


@pytest.mark.parametrize("text", [None, "{", ""])
def test_a_list_of_checkpoints_that_cannot_be_read_is_told(tmp_path, text):
    if text is not None:
        (tmp_path / "released.json").write_text(text)
    with pytest.raises(NoticeError, match=r"released\.json, the list .* Reinstall the package"):
        released.read_manifest(tmp_path)
