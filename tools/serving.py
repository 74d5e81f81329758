"""A folder served on this machine, as a browser wants it: modules and WebAssembly need a server."""

import functools
import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Quiet(http.server.SimpleHTTPRequestHandler):
    """It tells nothing of the requests."""

    def log_message(self, *_):
        pass


@contextmanager
def serve(folder: str | Path, handler: type[Quiet] = Quiet) -> Iterator[str]:
    """The address of a folder, which is served within this block."""
    handles = functools.partial(handler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handles) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
