"""Serve the page to this machine alone: from memory, compressed, with headers that let nothing out."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import PurePosixPath

from edgeage.demo.site import content_security_policy
from edgeage.errors import EdgeageError

ADDRESS = "127.0.0.1"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".webmanifest": "application/manifest+json",
    ".wasm": "application/wasm",
    ".tflite": "application/octet-stream",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".txt": "text/plain; charset=utf-8",
}
_COMPRESSED = (".png", ".jpg")


def make_server(site: Mapping[str, bytes], port: int) -> http.server.ThreadingHTTPServer:
    """A server of these files at 127.0.0.1:`port`, 0 for any free one; EdgeageError if the port is taken."""
    headers = {
        "Content-Security-Policy": content_security_policy(site),
        # alone in its process: exact clocks, and no other page can reach in
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Embedder-Policy": "require-corp",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-cache",  # kept, but asked about: a changed bundle shows at once
    }

    @cache
    def compressed(name: str) -> bytes:
        return gzip.compress(site[name], 6)

    @cache
    def tag(name: str) -> str:
        return f'"{hashlib.sha256(site[name]).hexdigest()[:32]}"'

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        server_version = "edgeage"

        def do_GET(self) -> None:
            name = self.path.partition("?")[0].lstrip("/") or "index.html"
            if name not in site:
                self._answer(404, b"not found\n", {"Content-Type": TYPES[".txt"]})
                return
            suffix = PurePosixPath(name).suffix
            about = {"Content-Type": TYPES[suffix], "ETag": tag(name), "Vary": "Accept-Encoding"}
            if self.headers.get("If-None-Match") == tag(name):
                self._answer(304, b"", about)
            elif suffix not in _COMPRESSED and "gzip" in self.headers.get("Accept-Encoding", ""):
                self._answer(200, compressed(name), {**about, "Content-Encoding": "gzip"})
            else:
                self._answer(200, site[name], about)

        do_HEAD = do_GET

        def _answer(self, code: int, content: bytes, about: Mapping[str, str]) -> None:
            self.send_response(code)
            for key, value in {**headers, **about}.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def log_message(self, format: str, *arguments: object) -> None:
            """Quiet: the terminal shows the address."""

    try:
        return _Server((ADDRESS, port), Handler)
    except (OSError, OverflowError) as error:
        raise EdgeageError(f"cannot serve at port {port}: {error}; choose another --port") from None


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A page that is closed while it loads is no error."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]
