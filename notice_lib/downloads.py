"""Images by their addresses, into a cache on disk.

Data sets such as SVO-Probes publish addresses instead of images, and many of them are dead. A dead
address is reported with its reason; nothing ever stands in for its image.

What is refused: addresses that are not http or https; hosts in a private network, on this machine
or otherwise not public (the address is looked up once, checked, and that one is connected to, at
every redirect, so that a name cannot point elsewhere in between); files that are too large, too
slow, or no image that `notice_lib.images` reads; and bytes that many addresses give, which is how
hosts answer for an image that is gone. Proxies of the environment are not used, since behind one
nobody can check the address. Certificates are checked against certifi's list, or that in the
environment variable SSL_CERT_FILE.

In the cache, an image lies under the SHA-256 of its bytes, and `index.jsonl` has a line for every
address that was asked. Files appear whole or not at all, so a stopped download goes on.
"""

import hashlib
import ipaddress
import json
import os
import re
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from http.client import HTTPException
from itertools import islice
from pathlib import Path
from threading import Event, Lock
from typing import NamedTuple, TextIO
from urllib.parse import urljoin
from uuid import uuid4

import certifi
import pandas as pd
from PIL import Image
from urllib3 import BaseHTTPResponse, PoolManager, Retry, Timeout, exceptions
from urllib3.util import parse_url

from . import __version__, progress
from .errors import NoticeError
from .images import FORMATS, check_image

HEADERS = {
    "User-Agent": f"notice-lib/{__version__} (research on vision-language models)",
    "Accept": "image/*",
    "Accept-Encoding": "identity",  # packed content could unpack to any size
}
MAX_REDIRECTS = 5
MAX_PAUSE = 60
"""Seconds that a host may ask to be left alone (Retry-After); whoever asks for more is given up."""
MAX_ALIKE = 5
"""Addresses that may give the same bytes. More of them are a host's stand-in for what is gone."""
UNANSWERED = ("unknown host", "unreachable", "timeout")
_ENDINGS = {"JPEG": ".jpg", "MPO": ".jpg", "TIFF": ".tif"}  # where they are not the format's name
_PART = ".part-"
_CHUNK = 1 << 16


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the public internet.

    Addresses that carry an IPv4 address (mapped, 6to4, Teredo, NAT64) count as that one.
    """
    ip = ipaddress.ip_address(address)
    if ip.version == 6:
        carried = ip.ipv4_mapped or ip.sixtofour or (ip.teredo and ip.teredo[1])
        if ip in ipaddress.ip_network("64:ff9b::/96"):
            carried = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        ip = carried or ip
    local = ip.is_multicast or ip.is_reserved or getattr(ip, "is_site_local", False)
    return ip.is_global and not local


def download_images(
    urls: Iterable[str],
    cache: str | Path,
    *,
    timeout: float = 20,
    workers: int = 16,
    retries: int = 3,
    max_bytes: int = 20_000_000,
    retry_dead: bool = False,
    pause: float = 1,
    allow: Callable[[str], bool] = is_public,
) -> pd.DataFrame:
    """Fetch images, several at a time, and say of each address what became of it.

    A second call asks for nothing that the cache holds, nor for what was dead. Where not a single
    address answers, there is no network: then nothing is remembered as dead.

    Args:
        urls: addresses; each distinct one is fetched once.
        cache: a folder; it is made.
        timeout: seconds for a connection and for each silence; a whole file may take ten times as
            long.
        workers: files under way at a time.
        retries: further tries after a timeout, a broken connection, or an answer that says to come
            again (408, 429, 5xx).
        max_bytes: of one file.
        retry_dead: ask again where an earlier call found nothing.
        pause: seconds before the first further try; each next one waits twice as long, or as long
            as the host asks for.
        allow: which IP addresses may be connected to.

    Returns:
        One row a distinct address, in order of first appearance: url; path (Path, or None); error,
        "" or its kind, e.g. "404", "timeout" or "not an image", and details behind a colon.

    Raises:
        NoticeError: an address is no text, or the cache is no folder.
    """
    asked = list(dict.fromkeys(urls))
    for url in asked:
        if not isinstance(url, str) or any("\ud800" <= letter <= "\udfff" for letter in url):
            raise NoticeError(f"{url!r} is no address. Leave out rows without one.")
    cache = _folder(Path(cache))
    known = _read_index(cache)
    todo = [url for url in asked if not _settled(known.get(url), cache, retry_dead)]
    fetcher = _Fetcher(cache, timeout, workers, retries, pause, max_bytes, allow)
    unanswered = []
    with (
        open(cache / "index.jsonl", "a", buffering=1, encoding="utf-8") as index,
        progress.bar(total=len(todo), desc="downloading", unit="image") as shown,
        closing(fetcher.fetch_all(todo)) as results,
    ):
        index.write("\n")  # ends a line that was cut off
        for url, found in results:
            known[url] = found
            shown.update()
            if _kind(found.error) in UNANSWERED:
                unanswered.append(url)
            else:
                _write_line(index, url, found)
        if len(unanswered) < len(todo):
            for url in unanswered:
                _write_line(index, url, known[url])
    return _table(asked, known, cache)


def count_reasons(table: pd.DataFrame) -> pd.Series:
    """How many addresses gave an image ("downloaded"), and how many did not, by kind of error."""
    counts = table["error"].map(_kind).value_counts()
    downloaded = int(counts.pop("")) if "" in counts else 0
    return pd.concat([pd.Series({"downloaded": downloaded}), counts]).rename("addresses")


class _Found(NamedTuple):
    """What became of an address: a file in the cache, or an error."""

    file: str
    error: str


class _FailedError(Exception):
    """Why there is no image; `again` says that another try may help, after `after` seconds."""

    def __init__(self, reason: str, again: bool = False, after: float | None = None):
        super().__init__(reason)
        self.again, self.after = again, after


class _Fetcher:
    """Fetches single addresses; used by several threads at a time."""

    def __init__(self, cache, timeout, workers, retries, pause, max_bytes, allow):
        self.cache, self.timeout, self.workers, self.retries = cache, timeout, workers, retries
        self.pause, self.max_bytes, self.allow = pause, max_bytes, allow
        self.stopped = Event()
        self.decoding = Lock()  # one picture at a time, so that large ones do not add up
        # Threads that ask one host each keep their connection to it.
        trusted = os.environ.get("SSL_CERT_FILE") or certifi.where()
        self.pool = PoolManager(num_pools=workers, maxsize=workers, ca_certs=trusted)

    def fetch_all(self, urls: Iterable[str]) -> Iterator[tuple[str, _Found]]:
        """Addresses and what became of them, as they come."""
        executor = ThreadPoolExecutor(self.workers)
        waiting, running = iter(urls), {}
        try:
            while True:
                # Few are handed over at a time: memory does not grow with their number.
                for url in islice(waiting, 2 * self.workers - len(running)):
                    running[executor.submit(self.fetch, url)] = url
                if not running:
                    return
                for done in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(done), done.result()
        finally:
            self.stopped.set()
            executor.shutdown(cancel_futures=True)

    def fetch(self, url: str) -> _Found:
        for attempt in range(self.retries + 1):
            try:
                return _Found(self._attempt(url.strip()), "")
            except _FailedError as error:
                failed = error
            seconds = self.pause * 2**attempt if failed.after is None else failed.after
            last = attempt == self.retries or not failed.again or seconds > MAX_PAUSE
            if last or self.stopped.wait(seconds):
                break
        return _Found("", str(failed))

    def _attempt(self, url: str) -> str:
        for _ in range(MAX_REDIRECTS + 1):
            with self._get(url) as response:
                target = response.get_redirect_location()
                if not target:
                    return self._keep(response)
                try:
                    url = urljoin(url, target)
                except ValueError:
                    raise _FailedError(f"broken answer: a redirect to {target!r}") from None
        raise _FailedError("too many redirects")

    def _get(self, url: str) -> BaseHTTPResponse:
        """The answer to one request, its content not yet read."""
        try:
            parts = parse_url(url)
        except (exceptions.LocationParseError, ValueError):
            raise _FailedError("not an http(s) address") from None
        if parts.scheme not in ("http", "https") or not parts.host:
            raise _FailedError("not an http(s) address")
        host = parts.host.strip("[]")
        # The connection goes to the checked address; the certificate must be the host's.
        names = {"server_hostname": host, "assert_hostname": host}
        for address in self._addresses(host):
            pool = self.pool.connection_from_host(
                address, parts.port, parts.scheme, names if parts.scheme == "https" else None
            )
            try:
                with _as_failures():
                    return pool.urlopen(
                        "GET",
                        parts.request_uri,
                        headers=HEADERS | {"Host": parts.netloc},
                        timeout=Timeout(self.timeout),
                        retries=False,
                        redirect=False,
                        assert_same_host=False,
                        preload_content=False,
                        decode_content=False,
                    )
            except _FailedError as error:
                failed = error
        raise failed

    def _addresses(self, host: str) -> list[str]:
        """The allowed IP addresses of a host; there is at least one."""
        try:
            found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            raise _FailedError("unknown host", again=error.errno == socket.EAI_AGAIN) from None
        except UnicodeError:
            raise _FailedError("not an http(s) address") from None
        addresses = dict.fromkeys(str(info[4][0]) for info in found)
        allowed = [address for address in addresses if self.allow(address)]
        if not allowed:
            raise _FailedError(f"refused address: {host} is {', '.join(addresses)}")
        return allowed

    def _keep(self, response: BaseHTTPResponse) -> str:
        """Store the content of an answer, if it is an image; returns the file's name."""
        if response.status != 200:
            again = response.status in (408, 429) or response.status >= 500
            raise _FailedError(f"{response.status}", again, _retry_after(response))
        part = self.cache / f"{_PART}{uuid4().hex}"
        digest = hashlib.sha256()
        try:
            with open(part, "xb") as file:
                for chunk in self._chunks(response):
                    file.write(chunk)
                    digest.update(chunk)
            with self.decoding:
                if reason := check_image(part):
                    raise _FailedError(f"not an image: it {reason}")
                with Image.open(part, formats=FORMATS) as image:
                    ending = _ENDINGS.get(image.format, f".{image.format.lower()}")
            name = f"{digest.hexdigest()[:2]}/{digest.hexdigest()}{ending}"
            (self.cache / name).parent.mkdir(exist_ok=True)
            os.replace(part, self.cache / name)
            return name
        finally:
            part.unlink(missing_ok=True)

    def _chunks(self, response: BaseHTTPResponse) -> Iterator[bytes]:
        length = response.headers.get("Content-Length", "")
        # As long as no image is: int() of thousands of digits is an error.
        size = int(length[:20]) if length.isdecimal() else 0
        deadline = time.monotonic() + 10 * self.timeout
        received = 0
        while True:
            if max(size, received) > self.max_bytes:
                raise _FailedError(f"too large: more than {self.max_bytes:,} bytes")
            if time.monotonic() > deadline or self.stopped.is_set():
                raise _FailedError("timeout", again=True)
            with _as_failures():
                # read1 returns what has come; read would wait for as long as a host likes.
                chunk = response.read1(_CHUNK, decode_content=False)
            if not chunk:
                return
            received += len(chunk)
            yield chunk


@contextmanager
def _as_failures() -> Iterator[None]:
    """What can go wrong with a connection, as a `_FailedError`."""
    try:
        yield
    except exceptions.SSLError as error:
        raise _FailedError(f"TLS: {error}") from None
    except exceptions.NewConnectionError:
        raise _FailedError("unreachable", again=True) from None
    except (exceptions.TimeoutError, TimeoutError):
        raise _FailedError("timeout", again=True) from None
    except (exceptions.HTTPError, HTTPException, OSError, ValueError) as error:
        raise _FailedError(f"broken answer: {error}", again=True) from None


def _retry_after(response: BaseHTTPResponse) -> float | None:
    """Seconds that the host asks for, in whichever of its two forms."""
    try:
        return Retry().get_retry_after(response)
    except (exceptions.InvalidHeader, OverflowError, ValueError):
        return None


def _folder(cache: Path) -> Path:
    """The cache, made if need be, without what stopped downloads left behind."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise NoticeError(f"{cache} is no folder. Name another cache.") from None
    for part in cache.glob(f"{_PART}*"):
        if time.time() - part.stat().st_mtime > 3600:  # else another process may be writing it
            part.unlink(missing_ok=True)
    return cache


def _kind(error: str) -> str:
    return error.split(":")[0]


def _settled(found: _Found | None, cache: Path, retry_dead: bool) -> bool:
    if found is None:
        return False
    return not retry_dead if found.error else (cache / found.file).is_file()


def _write_line(index: TextIO, url: str, found: _Found) -> None:
    index.write(json.dumps({"url": url, **found._asdict()}) + "\n")


def _read_index(cache: Path) -> dict[str, _Found]:
    """What is known of addresses; lines that are none, as a killed process leaves, do not count."""
    path, known = cache / "index.jsonl", {}
    if not path.exists():
        return known
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                entry = json.loads(line)
                url, found = entry["url"], _Found(str(entry["file"]), str(entry["error"]))
                # A file's name must not lead out of the cache.
                if found.error or re.fullmatch(r"[0-9a-f]{2}/[0-9a-f]{64}\.[a-z]+", found.file):
                    known[url] = found
            except (ValueError, KeyError, TypeError, RecursionError):
                continue
    return known


def _table(asked: list[str], known: dict[str, _Found], cache: Path) -> pd.DataFrame:
    uses = Counter(known[url].file for url in asked)
    rows = []
    for url in asked:
        file, error = known[url]
        if file and uses[file] > MAX_ALIKE:
            error = f"stand-in: {uses[file]} addresses give the same bytes"
        rows.append((url, None if error else cache / file, error))
    return pd.DataFrame(rows, columns=["url", "path", "error"])
