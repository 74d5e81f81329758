"""Downloads from a real HTTP server on this machine, which only these tests are allowed to ask."""

import io
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import tracemalloc
from collections import Counter
from email.utils import formatdate
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from notice_lib import NoticeError, __version__
from notice_lib.datasets.downloads import _kind, download_images, is_public

CERTIFICATE = Path(__file__).parent / "reference" / "localhost.pem"


def picture(seed: int, format="JPEG", size=24) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format)
    return file.getvalue()


class Handler(BaseHTTPRequestHandler):
    """`server.answers[path]` is a function of this handler; the rest are 404."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.asked[self.path] += 1
        self.server.seen.append(dict(self.headers))
        self.server.answers.get(self.path, lambda it: it.send(404))(self)

    def send(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in ({"Content_Length": len(body)} | headers).items():
            if value is not None:
                self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        """Clients that go away are what some tests are about."""


@pytest.fixture(autouse=True)
def no_bars(monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")


@pytest.fixture
def server():
    with Server(("127.0.0.1", 0), Handler) as running:
        running.answers, running.asked, running.seen = {}, Counter(), []
        running.url = f"http://127.0.0.1:{running.server_port}"
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield running
        running.shutdown()


def body(content: bytes, status=200, **headers):
    return lambda it: it.send(status, content, **headers)


def to(target: str, status=302):
    return lambda it: it.send(status, Location=target)


def here(address: str) -> bool:
    return address == "127.0.0.1"


fetch = partial(download_images, allow=here, pause=0.01, timeout=5)


def error_of(server, answer, cache, **settings) -> str:
    """What is said of one address that answers like that; nothing may stay in the cache."""
    server.answers["/x"] = answer
    (row,) = fetch([f"{server.url}/x"], cache, **settings).itertuples()
    assert row.path is None
    assert [path.name for path in cache.rglob("*") if path.is_file()] == ["index.jsonl"]
    return row.error


def test_images_are_kept_under_their_hash_and_asked_for_once(server, tmp_path):
    for i, format in enumerate(["JPEG", "PNG", "WEBP"]):
        server.answers[f"/{i}"] = body(picture(i, format))
    server.answers["/again"] = body(picture(0))
    urls = [f"{server.url}/{name}" for name in ("0", "gone", "1", "0", "2", "again")]
    table = fetch(iter(urls), tmp_path)
    assert table.columns.tolist() == ["url", "path", "error"]
    assert table["url"].tolist() == list(dict.fromkeys(urls))
    assert table["error"].tolist() == ["", "404", "", "", ""]
    first, gone, png, webp, again = table["path"]
    assert gone is None and again == first
    assert [path.suffix for path in (first, png, webp)] == [".jpg", ".png", ".webp"]
    assert first.read_bytes() == picture(0)
    assert first.relative_to(tmp_path).parts == (first.stem[:2], first.name)
    assert len(first.stem) == 64
    assert server.seen[0]["User-Agent"].startswith(f"notice-lib/{__version__} ")

    asked = server.asked.copy()
    assert fetch(urls, tmp_path).equals(table)
    assert server.asked == asked
    first.unlink()
    fetch(urls, tmp_path, retry_dead=True)
    assert server.asked["/gone"] == 2 and first.read_bytes() == picture(0)
    assert server.asked["/1"] == 1


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", "unusable: it is not an image of a known kind"),
        (b"<html>gone</html>", "unusable: it is a web page (HTML) instead of an image"),
        (picture(0)[:-200], "unusable: it does not decode"),
        (picture(0, "PNG")[:900], "unusable: it does not decode"),
    ],
    ids=range(4),
)
def test_what_does_not_decode_is_not_kept(server, tmp_path, content, error):
    assert error_of(server, body(content), tmp_path).startswith(error)
    assert server.asked["/x"] == 1


def test_a_length_of_thousands_of_digits_is_too_large(server, tmp_path):
    told = error_of(server, body(b"x", Content_Length="9" * 5000), tmp_path)
    assert told.startswith("too large")


def test_a_large_file_is_cut_off_while_it_comes(server, tmp_path):
    sent = []

    def endless(it):
        it.send(200, Content_Length=None, Connection="close")
        try:
            for _ in range(2000):
                it.wfile.write(bytes(10_000))
                sent.append(10_000)
        except OSError:
            it.close_connection = True

    assert error_of(server, endless, tmp_path, max_bytes=50_000).startswith("too large")
    assert sum(sent) < 15_000_000
    told = body(b"", Content_Length=60_000)
    (tmp_path / "other").mkdir()
    assert error_of(server, told, tmp_path / "other", max_bytes=50_000).startswith("too large")


def test_the_content_of_redirects_and_errors_is_not_read(server, tmp_path):
    """It has no limit: urllib3's own redirects and retries would read it all."""
    sent = Counter()

    def endless(status, **headers):
        def answer(it):
            it.send(status, Content_Length=None, Connection="close", **headers)
            try:
                for _ in range(2000):
                    it.wfile.write(bytes(10_000))
                    sent[status] += 10_000
            except OSError:
                it.close_connection = True

        return answer

    server.answers |= {"/1": endless(302, Location="/2"), "/2": endless(503)}
    assert fetch([f"{server.url}/1"], tmp_path, retries=1)["error"].tolist() == ["503"]
    assert server.asked == {"/1": 2, "/2": 2}
    assert max(sent.values()) < 15_000_000


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_host_in_trouble_is_asked_again(server, tmp_path, status):
    def busy_twice(it):
        ready = server.asked["/x"] > 2
        it.send(200 if ready else status, picture(1) if ready else b"")

    server.answers["/x"] = busy_twice
    assert fetch([f"{server.url}/x"], tmp_path)["error"].tolist() == [""]
    assert server.asked["/x"] == 3


@pytest.mark.parametrize(("status", "times"), [(404, 1), (403, 1), (410, 1), (503, 3)])
def test_how_often_a_dead_link_is_asked(server, tmp_path, status, times):
    assert error_of(server, body(b"", status), tmp_path, retries=2) == str(status)
    assert server.asked["/x"] == times


def test_retry_after_is_heeded_up_to_a_limit(server, tmp_path):
    answers = [body(b"", 429, Retry_After=1), body(picture(1))]
    server.answers["/x"] = lambda it: answers[server.asked["/x"] - 1](it)
    server.answers["/date"] = body(b"", 503, Retry_After=formatdate(time.time() + 9999))
    server.answers["/never"] = body(b"", 429, Retry_After="9" * 400)
    server.answers["/odd"] = body(b"", 503, Retry_After="soon")
    started = time.monotonic()
    names = ("x", "date", "never", "odd")
    table = fetch([f"{server.url}/{name}" for name in names], tmp_path, retries=1)
    assert 1 <= time.monotonic() - started < 3
    assert table["error"].tolist() == ["", "503", "429", "503"]
    assert [server.asked[f"/{name}"] for name in names] == [2, 1, 1, 2]


def test_silence_and_dripping_time_out(server, tmp_path):
    release = threading.Event()

    def drip(it):
        it.send(200, Content_Length=1000)
        while not release.wait(0.05):
            it.wfile.write(b"x")

    server.answers |= {"/silent": lambda it: release.wait(5), "/drip": drip, "/1": body(picture(1))}
    urls = [f"{server.url}/{name}" for name in ("silent", "drip", "1")]
    started = time.monotonic()
    table = fetch(urls, tmp_path, timeout=0.1, retries=0)
    release.set()
    assert table["error"].tolist() == ["timeout", "timeout", ""]
    assert time.monotonic() - started < 3


def test_a_broken_connection_is_tried_again(server, tmp_path):
    def half_once(it):
        it.send(200, picture(1)[:100], Content_Length=len(picture(1)))
        it.close_connection = True

    server.answers["/x"] = lambda it: (half_once if server.asked["/x"] < 2 else body(picture(1)))(
        it
    )
    assert fetch([f"{server.url}/x"], tmp_path)["error"].tolist() == [""]
    assert server.asked["/x"] == 2


def test_redirects_are_followed_not_forever(server, tmp_path):
    server.answers["/far"] = body(picture(1))
    for i in range(5):
        server.answers[f"/hop{i}"] = to(
            f"/hop{i + 1}" if i < 4 else f"{server.url}/far", 301 + i % 3
        )
    server.answers["/ring"] = to("/ring")
    table = fetch([f"{server.url}/{name}" for name in ("hop0", "ring")], tmp_path)
    assert table["error"].tolist() == ["", "too many redirects"]
    assert server.asked["/ring"] == 6


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:image/png;base64,iVBORw0KGgo=", "http://a b/",
     "http://[::1/x", "http://" + "a" * 300 + ".org/"],
)  # fmt: skip
def test_only_http_and_https(server, tmp_path, url):
    """Neither as an address nor as the target of a redirect."""
    server.answers["/x"] = to(url)
    for error in fetch([url, f"{server.url}/x"], tmp_path)["error"]:
        assert _kind(error) in ("not an http(s) address", "unknown host", "broken answer")
    assert set(server.asked) == {"/x"}
    for part in ("", " ", "/x", "x", "http://", "//"):
        assert fetch([part], tmp_path)["error"].tolist() == ["not an http(s) address"]


PRIVATE = (
    "127.0.0.1 10.1.2.3 172.16.0.1 192.168.1.1 169.254.169.254 0.0.0.0 100.64.0.1 224.0.0.1 "
    "255.255.255.255 198.18.0.1 192.0.2.1 ::1 :: fe80::1%eth0 fc00::1 fec0::1 ff02::1 2001:db8::1 "
    "::ffff:127.0.0.1 ::127.0.0.1 2002:7f00:1:: 64:ff9b::7f00:1 64:ff9b:1::1"
)
PUBLIC = "8.8.8.8 93.184.216.34 2606:4700::1111 ::ffff:8.8.8.8 64:ff9b::808:808"


def test_which_addresses_are_public():
    assert not any(map(is_public, PRIVATE.split()))
    assert all(map(is_public, PUBLIC.split()))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::1]"])
def test_this_machine_is_refused(server, tmp_path, host):
    url = f"http://{host}:{server.server_port}/x"
    (error,) = download_images([url], tmp_path, retries=0)["error"]
    assert error.startswith("refused address")
    assert not server.asked


def test_a_redirect_to_a_private_address_is_refused(server, tmp_path):
    server.answers["/x"] = to("http://169.254.169.254/latest/meta-data")
    (error,) = fetch([f"{server.url}/x"], tmp_path)["error"]
    assert error == "refused address: 169.254.169.254 is 169.254.169.254"


def test_a_name_cannot_change_its_address_between_check_and_connection(
    server, tmp_path, monkeypatch
):
    """DNS rebinding: each later lookup would lead elsewhere, so there must be none."""
    looked_up = []
    real = socket.getaddrinfo

    def resolver(host, *args, **settings):
        if host != "rebind.test":
            return real(host, *args, **settings)
        looked_up.append(host)
        return real("127.0.0.1" if len(looked_up) == 1 else "127.0.0.2", *args, **settings)

    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    server.answers["/x"] = body(picture(1))
    table = fetch([f"http://rebind.test:{server.server_port}/x"], tmp_path)
    assert table["error"].tolist() == [""]
    assert len(looked_up) == 1
    assert server.seen[0]["Host"] == f"rebind.test:{server.server_port}"


def test_each_address_of_a_host_is_tried(server, tmp_path, monkeypatch):
    def resolver(host, *args, **settings):
        hosts = ["127.0.0.2", "127.0.0.1"] if host == "two.test" else [host]
        return [found for host in hosts for found in real(host, *args, **settings)]

    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    server.answers["/x"] = body(picture(1))
    url = f"http://two.test:{server.server_port}/x"
    table = fetch([url], tmp_path, retries=0, allow=lambda address: True)
    assert table["error"].tolist() == [""]


def test_https_checks_the_name_though_it_connects_to_an_address(server, tmp_path, monkeypatch):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.answers["/x"] = body(picture(1))
    urls = [f"https://{host}:{server.server_port}/x" for host in ("localhost", "127.0.0.1")]
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    right, wrong = fetch(urls, tmp_path / "trusted", retries=0)["error"]
    assert right == ""
    assert wrong.startswith("TLS: ")
    monkeypatch.delenv("SSL_CERT_FILE")
    (unknown,) = fetch(urls[:1], tmp_path / "untrusted", retries=0)["error"]
    assert unknown.startswith("TLS: ")


def test_a_stand_in_for_many_images_is_none(server, tmp_path):
    gone = [f"{server.url}/gone{i}" for i in range(6)]
    server.answers |= {f"/gone{i}": to("/unavailable.png") for i in range(6)}
    server.answers |= {"/unavailable.png": body(picture(1)), "/x": body(picture(2))}
    table = fetch([*gone, f"{server.url}/x"], tmp_path)
    assert table["path"].isna().tolist() == [True] * 6 + [False]
    assert table["error"][0] == "stand-in: 6 addresses give the same bytes"


def test_without_a_network_nothing_is_remembered_as_dead(server, tmp_path):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # nobody listens, so connections are refused
        dead = f"http://127.0.0.1:{closed.getsockname()[1]}/x"
        assert fetch([dead], tmp_path, retries=0)["error"].tolist() == ["unreachable"]
        assert (tmp_path / "index.jsonl").read_text().strip() == ""
        server.answers["/x"] = body(picture(1))
        fetch([dead, f"{server.url}/x"], tmp_path, retries=0)
        assert "unreachable" in (tmp_path / "index.jsonl").read_text()


def test_a_damaged_index_costs_only_its_lines(server, tmp_path):
    server.answers |= {"/x": body(picture(1)), "/y": body(picture(2))}
    urls = [f"{server.url}/x", f"{server.url}/y"]
    fetch(urls, tmp_path, workers=1)
    first, second = (tmp_path / "index.jsonl").read_text().split("\n")[1:3]
    (tmp_path.parent / "secret.jpg").touch()
    stray = json.dumps({"url": urls[1], "file": "../secret.jpg", "error": ""})
    with open(tmp_path / "index.jsonl", "wb") as file:
        file.write(b'\xff\n[1]\n{"url": [], "file": "", "error": ""}\n' + first.encode() + b"\n")
        file.write(f"{stray}\n{second[:20]}".encode())
    (error, other), paths = (fetch(urls, tmp_path)[name] for name in ("error", "path"))
    assert error == other == ""
    assert server.asked == {"/x": 1, "/y": 2}
    assert all(path.is_relative_to(tmp_path) and path.is_file() for path in paths)
    fetch(urls, tmp_path)
    assert server.asked == {"/x": 1, "/y": 2}


IN_A_PROCESS = """
import sys
from notice_lib.datasets.downloads import download_images
urls = [f"{sys.argv[1]}/{i}" for i in range(60)]
download_images(urls, sys.argv[2], workers=4, allow=lambda address: address == "127.0.0.1")
"""


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT], ids=["killed", "ctrl-c"])
def test_a_stopped_download_goes_on(server, tmp_path, sent):
    """With half of the files there, and none in part. Ctrl-C waits for no pause."""
    half_way = threading.Event()
    for i in range(60):
        server.answers[f"/{i}"] = body(picture(i))

    def slow(it):
        time.sleep(0.3)
        body(picture(30))(it)

    def busy_once(it):
        half_way.set()
        again = server.asked["/31"] > 1
        it.send(200 if again else 503, picture(31) if again else b"", Retry_After=30)

    server.answers |= {"/30": slow, "/31": busy_once}
    command = [sys.executable, "-c", IN_A_PROCESS, server.url, tmp_path]
    root = Path(__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": str(root)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) as process:
        assert half_way.wait(120)
        process.send_signal(sent)
        _, said = process.communicate(timeout=120)
        assert process.returncode != 0
    assert (b"KeyboardInterrupt" in said) == (sent == signal.SIGINT)
    kept = {json.loads(line)["url"] for line in (tmp_path / "index.jsonl").read_text().split("\n")
            if line.endswith("}")}  # fmt: skip
    assert 0 < len(kept) < 60
    before = server.asked.copy()
    table = fetch([f"{server.url}/{i}" for i in range(60)], tmp_path)
    assert not table["error"].any()
    again = {f"{server.url}{path}" for path in server.asked if server.asked[path] > before[path]}
    assert not again & kept
    files = list(tmp_path.rglob("*.jpg"))
    assert len(files) == 60
    for path in files:
        Image.open(path).load()


def test_left_over_parts_are_cleared(tmp_path):
    (tmp_path / "ab").mkdir()
    old, young, image = (
        tmp_path / "ab" / name for name in (".ab1.jpg.7-7", ".ab2.jpg.7-8", "ab3.jpg")
    )
    for part in (old, young, image):
        part.touch()
    for part in (old, image):
        os.utime(part, (0, 0))
    download_images([], tmp_path)
    assert young.exists() and image.exists() and not old.exists()


def test_ten_thousand_addresses_take_little_memory(tmp_path):
    """Only the table and the index grow; tasks are made as they are needed."""

    def peak(n):
        urls = [f"ftp://host{i}.test/" for i in range(n)]
        tracemalloc.start()
        table = download_images(urls, tmp_path / str(n), workers=4)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(table) == n and set(table["error"].map(_kind)) == {"not an http(s) address"}
        return found

    peak(10)
    few, many = peak(1000), peak(10_000)
    assert (many - few) / 9000 < 500  # bytes


def test_what_is_no_address_and_no_folder_is_named(tmp_path):
    for url in (float("nan"), "http://\ud800/"):
        with pytest.raises(NoticeError, match=r"is not a URL\. Leave out the rows"):
            download_images(["http://a.test/", url], tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(NoticeError, match=r"file is not a folder\. Choose another cache"):
        download_images([], tmp_path / "file")
