"""A local server that speaks the Hugging Face hub's protocol for one repository: lists its files and sends them.

Small files are identified by git's blob id, large ones by their SHA-256, as on the hub. Faults are switched on by
attributes, and every request is written down.
"""

import contextlib
import hashlib
import json
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote, urlsplit

COMMIT = "65584967c3f22ff7723e5370c65e0e76791e6055"
LARGE = (".safetensors", ".onnx", ".bin", ".onnx.data")


class Hub:
    """Serves `folder` as repository `name` on a free port inside its `with` block."""

    def __init__(self, folder: Path, name: str = "acme/tone") -> None:
        self.folder, self.name = folder, name
        self.gated = False
        """Files are sent only to who has `token`."""
        self.token = "hf_right"
        self.cut: str | None = None
        """Name of a file whose first transfer ends halfway."""
        self.flip: str | None = None
        """Name of a file of which one byte is changed on the way."""
        self.down = False
        """Every request is answered with status 503."""
        self.requests: list[tuple[str, str, str | None]] = []
        """Method, path and Range header."""
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub._answer(self)

            do_HEAD = do_GET

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def files_sent(self) -> set[str]:
        """Names of the files whose content was asked for."""
        start = f"/{self.name}/resolve/"
        return {
            path[len(start) :].split("/", 1)[1]
            for method, path, _ in self.requests
            if method == "GET" and path.startswith(start)
        }

    def _paths(self) -> list[Path]:
        return sorted(path for path in self.folder.rglob("*") if path.is_file())

    def _entry(self, path: Path) -> dict[str, Any]:
        content = path.read_bytes()
        size = len(content)
        blob = hashlib.sha1(b"blob %d\0" % size + content).hexdigest()
        entry = {"type": "file", "oid": blob, "size": size, "path": path.relative_to(self.folder).as_posix()}
        if path.name.endswith(LARGE):
            entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": size, "pointerSize": 134}
        return entry

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        path = unquote(urlsplit(request.path).path)
        self.requests.append((request.command, path, request.headers.get("Range")))
        if self.down:
            return self._error(request, 503, "", "down for maintenance")
        api, resolve = f"/api/models/{self.name}", f"/{self.name}/resolve/"
        if path == api or path.startswith(f"{api}/revision/"):
            revision = path.removeprefix(f"{api}/revision/") if "/revision/" in path else "main"
            if revision not in ("main", COMMIT):
                return self._error(request, 404, "RevisionNotFound", "Revision Not Found")
            siblings = [{"rfilename": path.relative_to(self.folder).as_posix()} for path in self._paths()]
            return self._json(request, {"id": self.name, "sha": COMMIT, "siblings": siblings, "gated": self.gated})
        if path.startswith(f"{api}/tree/"):
            if path.removeprefix(f"{api}/tree/") != COMMIT:
                return self._error(request, 404, "RevisionNotFound", "Revision Not Found")
            return self._json(request, [self._entry(path) for path in self._paths()])
        if path.startswith(resolve):
            revision, name = path[len(resolve) :].split("/", 1)
            file = self.folder / name
            if revision not in ("main", COMMIT):
                return self._error(request, 404, "RevisionNotFound", "Revision Not Found")
            if not file.is_file():
                return self._error(request, 404, "EntryNotFound", "Entry not found")
            if self.gated and request.headers.get("Authorization") != f"Bearer {self.token}":
                return self._error(request, 401, "GatedRepo", "Access to this model is restricted")
            return self._file(request, file, name)
        return self._error(request, 401, "RepoNotFound", "Repository not found")

    def _file(self, request: BaseHTTPRequestHandler, file: Path, name: str) -> None:
        content = file.read_bytes()
        entry = self._entry(file)
        etag = entry["lfs"]["oid"] if "lfs" in entry else entry["oid"]
        if name == self.flip:
            content = content[:-1] + bytes([content[-1] ^ 1])
        start = 0
        if request.headers.get("Range"):
            start = int(request.headers["Range"].removeprefix("bytes=").split("-")[0])
        request.send_response(206 if start else 200)
        request.send_header("ETag", f'"{etag}"')
        request.send_header("X-Repo-Commit", COMMIT)
        request.send_header("Accept-Ranges", "bytes")
        request.send_header("Content-Type", "application/octet-stream")
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        request.send_header("Content-Length", str(len(content) - start))
        request.end_headers()
        if request.command == "GET":
            if name == self.cut:
                self.cut = None
                request.wfile.write(content[: len(content) // 2])
                request.close_connection = True
                return
            with contextlib.suppress(BrokenPipeError):
                request.wfile.write(content[start:])

    def _json(self, request: BaseHTTPRequestHandler, content: object) -> None:
        self._send(request, 200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _error(self, request: BaseHTTPRequestHandler, status: int, code: str, message: str) -> None:
        headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {})}
        self._send(request, status, json.dumps({"error": message}).encode(), headers)

    def _send(self, request: BaseHTTPRequestHandler, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(body)
