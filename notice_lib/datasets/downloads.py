"""Download images by their URLs into a cache on disk.

Data sets such as SVO-Probes publish URLs instead of images, and many of the URLs are dead. A dead
URL is reported with its reason, and nothing ever takes the place of its image.

Only http and https URLs of hosts on the public internet are fetched. Each connection, also after a
redirect, goes to the IP address that was checked, so that a name cannot point elsewhere in between.
What is too large, too slow, or not a usable image (`notice_lib.pairs.images`) is refused. Bytes
that many URLs have in common are refused too, because hosts answer like that for images that are
gone.
Proxies of the environment are not used, because the check would see the proxy and not the host.
Certificates are checked against the list of certifi, or against the file that the environment
variable SSL_CERT_FILE names.

The cache holds each image under the SHA-256 of its bytes, and `index.jsonl` has a line for each URL
that was asked for. Files are stored whole or not at all, so an interrupted download can go on.
"""

import hashlib
import ipaddress
import json
import os
import re
import socket
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing, suppress
from dataclasses import dataclass, field
from io import BytesIO
from itertools import islice
from pathlib import Path
from threading import Event, Lock
from urllib.parse import urljoin

import certifi
import pandas as pd
from urllib3 import BaseHTTPResponse, PoolManager, Retry, exceptions
from urllib3.util import parse_url

from .. import __version__, progress
from ..errors import NoticeError
from ..files import write_atomically
from ..pairs.images import check_image, ending_of

HEADERS = {
    "User-Agent": f"notice-lib/{__version__} (research on vision-language models)",
    "Accept": "image/*",
    "Accept-Encoding": "identity",  # Compressed content could unpack to any size.
}
MAX_REDIRECTS = 5
MAX_PAUSE = 60
"""A host that asks for a longer pause (Retry-After, in seconds) is not asked again."""
MAX_ALIKE = 5
"""If more URLs than this give the same bytes, these are a host's stand-in for missing images."""
_Result = tuple[str, str]  # The name of a file in the cache, or an error; the other is "".
_UNANSWERED = ("unknown host", "unreachable", "timeout")
_MAY_PASS = re.compile(r"unreachable|timeout|broken answer|408|429|5\d\d")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_DECODING = Lock()  # One picture is decoded at a time, so that large ones do not add up in memory.


def is_public(address: str) -> bool:
    """Return whether an IP address belongs to the public internet.

    An IPv6 address that carries an IPv4 address (mapped, 6to4 or NAT64) counts as the latter.
    """
    ip = ipaddress.ip_address(address)
    if ip.version == 6:
        nat64 = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in _NAT64 else None
        ip = ip.ipv4_mapped or ip.sixtofour or nat64 or ip
    special = ip.is_multicast or ip.is_reserved or getattr(ip, "is_site_local", False)
    return ip.is_global and not special


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
    """Download images in parallel and report what became of each URL.

    A second call fetches neither what the cache holds nor what was dead before. If no URL at all
    gets an answer, the network is taken to be down, and no URL is remembered as dead.

    Args:
        urls: each distinct URL is fetched once.
        cache: this folder is created if it does not exist.
        timeout: seconds for a connection and for each silence; a file may take ten times as long.
        workers: number of files that are downloaded at a time.
        retries: number of further tries after a timeout, a broken connection, or 408, 429 and 5xx.
        max_bytes: largest size of a file.
        retry_dead: whether to fetch again what an earlier call did not get.
        pause: seconds before the first further try. Each next pause is twice as long. A host may
            ask for another pause.
        allow: decides which IP addresses may be connected to.

    Returns:
        One row for each distinct URL, in order of first appearance: url; path (Path, or None);
        error, which is "" or its kind, e.g. "404", "timeout" or "unusable", with details after
        a colon.

    Raises:
        NoticeError: a URL is not text, or the cache is not a folder.
    """
    asked = list(dict.fromkeys(urls))
    for url in asked:
        if not isinstance(url, str) or any("\ud800" <= letter <= "\udfff" for letter in url):
            raise NoticeError(f"{url!r} is not a URL. Leave out the rows that have none.")
    cache = _prepare(Path(cache))
    known = _read_index(cache, retry_dead)
    todo = [url for url in asked if url not in known]
    fetcher = _Fetcher(cache, timeout, workers, retries, max_bytes, pause, allow)
    unanswered = []
    with (
        open(cache / "index.jsonl", "a", buffering=1, encoding="utf-8") as index,
        progress.bar(total=len(todo), desc="downloading", unit="image") as shown,
        closing(fetcher.fetch_all(todo)) as results,
    ):
        index.write("\n")  # A killed process may have left half a line.
        for url, (file, error) in results:
            known[url] = (file, error)
            shown.update()
            line = json.dumps({"url": url, "file": file, "error": error}) + "\n"
            if _kind(error) in _UNANSWERED:
                unanswered.append(line)
            else:
                index.write(line)
        if len(unanswered) < len(todo):
            index.writelines(unanswered)
    return _table(asked, known, cache)


class _FailedError(Exception):
    """A URL gave no image, for this reason; the host may ask for a pause before another try."""

    def __init__(self, reason: str, pause: float | None = None):
        super().__init__(reason)
        self.pause = pause


@dataclass
class _Fetcher:
    """Fetches URLs in several threads.

    urllib3's own redirects and retries are not used: they read the content of redirects and errors
    without a limit, do not retry content that breaks off, and Ctrl-C has to wait for their pauses.
    """

    cache: Path
    timeout: float
    workers: int
    retries: int
    max_bytes: int
    pause: float
    allow: Callable[[str], bool]
    stopped: Event = field(default_factory=Event)

    def __post_init__(self):
        trusted = os.environ.get("SSL_CERT_FILE") or certifi.where()
        # Threads that ask the same host keep their connections to it.
        self.pool = PoolManager(
            self.workers,
            maxsize=self.workers,
            ca_certs=trusted,
            timeout=self.timeout,
            retries=False,
        )

    def fetch_all(self, urls: list[str]) -> Generator[tuple[str, _Result], None, None]:
        """Yield each URL with its result as soon as it is there."""
        executor, waiting = ThreadPoolExecutor(self.workers), iter(urls)
        running: dict[Future[_Result], str] = {}
        try:
            while True:
                # Only a few tasks exist at a time, so that memory does not grow with the URLs.
                for url in islice(waiting, 2 * self.workers - len(running)):
                    running[executor.submit(self.fetch, url)] = url
                if not running:
                    return
                for done in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(done), done.result()
        finally:
            self.stopped.set()
            executor.shutdown(cancel_futures=True)

    def fetch(self, url: str) -> _Result:
        """Try until there is an image, or until another try cannot help."""
        for attempt in range(self.retries + 1):
            try:
                return self._attempt(url.strip()), ""
            except (_FailedError, exceptions.HTTPError, ValueError) as error:
                reason, wanted = _reason(error), getattr(error, "pause", None)
            pause = self.pause * 2**attempt if wanted is None else wanted
            last = attempt == self.retries or not _MAY_PASS.fullmatch(_kind(reason))
            if last or pause > MAX_PAUSE or self.stopped.wait(pause):
                break
        return "", reason

    def _attempt(self, url: str) -> str:
        for _ in range(MAX_REDIRECTS + 1):
            with self._request(url) as response:
                target = response.get_redirect_location()
                if not target:
                    return self._store(response)
                url = urljoin(url, target)
        raise _FailedError("too many redirects")

    def _request(self, url: str) -> BaseHTTPResponse:
        """Return the answer to one request, whose content is not yet read."""
        parts = parse_url(url)
        if parts.scheme not in ("http", "https") or not parts.host:
            raise _FailedError("not an http(s) address")
        host = parts.host.strip("[]")
        headers = HEADERS | {"Host": parts.netloc}
        raw = {"redirect": False, "preload_content": False, "decode_content": False}
        for address in self._addresses(host):
            # The connection goes to the checked IP address, but the certificate must be the host's.
            name = {"server_hostname": host}
            pool = self.pool.connection_from_host(address, parts.port, parts.scheme, name)
            try:
                return pool.urlopen("GET", parts.request_uri, headers=headers, **raw)
            except exceptions.HTTPError as error:
                failed = error
        raise failed

    def _addresses(self, host: str) -> list[str]:
        """Return the IP addresses of a host that may be connected to; there is at least one."""
        try:
            found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            no_server = error.errno == socket.EAI_AGAIN
            raise _FailedError("unreachable" if no_server else "unknown host") from None
        addresses = dict.fromkeys(str(info[4][0]) for info in found)
        allowed = [address for address in addresses if self.allow(address)]
        if not allowed:
            raise _FailedError(f"refused address: {host} is {', '.join(addresses)}")
        return allowed

    def _store(self, response: BaseHTTPResponse) -> str:
        """Store the content of an answer if it is an image, and return the file's name."""
        if response.status != 200:
            raise _FailedError(str(response.status), _retry_after(response))
        content = self._read(response)
        digest = hashlib.sha256(content).hexdigest()
        name = f"{digest[:2]}/{digest}{ending_of(BytesIO(content)) or '.bin'}"

        def write(path: Path) -> None:
            path.write_bytes(content)
            with _DECODING:
                if reason := check_image(path):
                    raise _FailedError(f"unusable: it {reason}")

        (self.cache / name).parent.mkdir(exist_ok=True)
        write_atomically(self.cache / name, write)
        return name

    def _read(self, response: BaseHTTPResponse) -> bytes:
        """Return the content, which must come within the limits of size and time."""
        content = bytearray()
        length = response.headers.get("Content-Length", "")
        # int() refuses thousands of digits, and a number of twenty is already too large.
        size = int(length[:20]) if length.isdecimal() else 0
        deadline = time.monotonic() + 10 * self.timeout
        while True:
            if max(size, len(content)) > self.max_bytes:
                raise _FailedError(f"too large: more than {self.max_bytes:,} bytes")
            if time.monotonic() > deadline or self.stopped.is_set():
                raise _FailedError("timeout")
            # read1 returns what has arrived, whereas read would wait as long as a host likes.
            if not (chunk := response.read1(1 << 16)):
                return bytes(content)
            content += chunk


def _reason(error: Exception) -> str:
    """Return the kind of an error, and after a colon its details."""
    match error:
        case _FailedError():
            return str(error)
        case ValueError():  # The URL or the target of a redirect cannot be parsed.
            return f"not an http(s) address: {error}"
        case exceptions.SSLError():
            return f"TLS: {error}"
        case exceptions.NewConnectionError():
            return "unreachable"
        case exceptions.TimeoutError():
            return "timeout"
    return f"broken answer: {error}"


def _retry_after(response: BaseHTTPResponse) -> float | None:
    """Return the seconds that the host asks for, whether as a number or as a date."""
    with suppress(exceptions.InvalidHeader, OverflowError, ValueError):
        return Retry().get_retry_after(response)
    return None


def _kind(error: str) -> str:
    return error.split(":")[0]


def _prepare(cache: Path) -> Path:
    """Create the cache if need be, and remove what killed processes left in it."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise NoticeError(f"{cache} is not a folder. Choose another cache.") from None
    for part in cache.glob("*/.*"):
        if time.time() - part.stat().st_mtime > 3600:  # Another process may use newer ones.
            part.unlink(missing_ok=True)
    return cache


def _read_index(cache: Path, retry_dead: bool) -> dict[str, _Result]:
    """Read which URLs earlier calls have settled, and skip damaged lines."""
    known, index = {}, cache / "index.jsonl"
    index.touch()
    for line in index.read_text(encoding="utf-8", errors="replace").split("\n"):
        with suppress(ValueError, KeyError, TypeError, RecursionError):
            entry = json.loads(line)
            file, error = str(entry["file"]), str(entry["error"])
            # A damaged line must not name a file outside of the cache.
            if error or re.fullmatch(r"[0-9a-f]{2}/[0-9a-f]{64}\.[a-z]+", file):
                known[entry["url"]] = (file, error)
    return {
        url: (file, error)
        for url, (file, error) in known.items()
        if (error and not retry_dead) or (file and (cache / file).is_file())
    }


def _table(asked: list[str], known: dict[str, _Result], cache: Path) -> pd.DataFrame:
    """Make the table of results, in which stand-ins for missing images are errors."""
    uses = Counter(known[url][0] for url in asked)
    rows = []
    for url in asked:
        file, error = known[url]
        if file and uses[file] > MAX_ALIKE:
            error = f"stand-in: {uses[file]} addresses give the same bytes"
        rows.append((url, None if error else cache / file, error))
    return pd.DataFrame(rows, columns=["url", "path", "error"])
