"""A hub on a socket: the parts of Hugging Face's and of ModelScope's HTTP APIs that an import uses."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = 10_000  # from here on a file is "LFS": named by SHA-256 and kept by the CDN


@dataclass
class Repository:
    """Files at one commit that the branches point at."""

    files: dict[str, bytes]
    commit: str = COMMIT
    branches: tuple[str, ...] = ("main", "master", "v1.0")
    is_gated: bool = False  # needs the token of the hub
    listed: dict[str, bytes] | None = None  # what the listing describes, where that is a lie


@dataclass(frozen=True)
class Asked:
    """A request as it came in."""

    host: str  # "hub" or "cdn"
    path: str
    headers: dict[str, str]


@dataclass
class Hub:
    """What the servers have, how they behave, what they were asked."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    token: str = "hub-token-of-the-test"
    endpoint: str = ""
    cdn: str = ""
    piece_bytes: int = 65_536
    piece_seconds: float = 0.0  # between two pieces of a large file
    cut_after: int | None = None  # bytes of a large file, once
    knows_ranges: bool = True
    asked: list[Asked] = field(default_factory=list)

    def add(self, name: str, folder: Path, **more: Any) -> Repository:
        files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        self.repositories[name] = Repository(files, **more)
        return self.repositories[name]


def sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub
    role = "hub"

    def log_message(self, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.hub.asked.append(Asked(self.role, self.path, {k.lower(): v for k, v in self.headers.items()}))
        url = urlsplit(self.path)
        path = unquote(url.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        if self.role == "cdn":
            repository, _, name = path.removeprefix("/").rpartition("/")
            return self._send(self.hub.repositories[repository].files[name], {}, is_large=True)
        for pattern, answer in (
            (r"/api/v1/models/([^/]+/[^/]+)/(commits|repo/files|repo)", self._modelscope),
            (r"/api/models/([^/]+/[^/]+)/revision/(.+)", self._info),
            (r"/api/models/([^/]+/[^/]+)()", self._info),
            (r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", self._tree),
            (r"/([^/]+/[^/]+)/resolve/([^/]+/.+)", self._resolve),
        ):
            if match := re.fullmatch(pattern, path):
                repository = self.hub.repositories.get(match.group(1))
                return answer(match.group(1), repository, match.group(2), query)
        return self._error(404, "EntryNotFound")

    # Hugging Face

    def _info(self, name: str, repository: Repository | None, revision: str, query: dict[str, str]) -> None:
        if repository is None:
            return self._error(401 if not self._has_token() else 404, "RepoNotFound")
        if revision and revision != repository.commit and revision not in repository.branches:
            return self._error(404, "RevisionNotFound")
        self._json({"id": name, "modelId": name, "sha": repository.commit, "siblings": [], "tags": []})

    def _tree(self, name: str, repository: Repository | None, revision: str, query: dict[str, str]) -> None:
        assert repository is not None and revision == repository.commit
        entries: list[dict[str, Any]] = [
            {"type": "directory", "oid": "1" * 40, "size": 0, "path": "original"}
        ]
        for file, content in (repository.listed or repository.files).items():
            entry = {"type": "file", "oid": sha1(content), "size": len(content), "path": file}
            if len(content) >= LARGE:
                entry["lfs"] = {"oid": sha256(content), "size": len(content), "pointerSize": 130}
            entries.append(entry)
        self._json(entries)

    def _resolve(self, name: str, repository: Repository | None, rest: str, query: dict[str, str]) -> None:
        assert repository is not None
        commit, _, file = rest.partition("/")
        assert commit == repository.commit, "files are asked for at the pinned commit alone"
        if repository.is_gated and not self._has_token():
            return self._error(401, "GatedRepo")
        content = repository.files[file]
        headers = {"X-Repo-Commit": commit, "ETag": f'"{sha1(content)}"'}
        if len(content) < LARGE:
            return self._send(content, headers)
        headers |= {"X-Linked-Size": str(len(content)), "X-Linked-ETag": f'"{sha256(content)}"'}
        self._send(b"", headers | {"Location": f"{self.hub.cdn}/{name}/{file}"}, status=302)

    # ModelScope

    def _modelscope(self, name: str, repository: Repository | None, what: str, query: dict[str, str]) -> None:
        if repository is None:
            return self._json({"Code": 10010205001, "Message": "record not found", "Success": False}, 404)
        if repository.is_gated and not self._has_token():
            return self._json({"Code": 10010202001, "Message": "no permission", "Success": False}, 403)
        if what == "commits":
            is_known = query["Ref"] in repository.branches
            commits = [{"Id": repository.commit}] if is_known else None
            return self._data({"Commit": commits, "TotalCount": int(is_known)})
        assert query["Revision"] == repository.commit, "files are asked for at the pinned commit alone"
        if what == "repo/files":
            listed = (repository.listed or repository.files).items()
            return self._data({"Files": [
                {"Path": file, "Name": file, "Type": "blob", "Size": len(content), "Sha256": sha256(content)}
                for file, content in listed
            ]})  # fmt: skip
        return self._send(repository.files[query["FilePath"]], {}, is_large=True)

    def _has_token(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {self.hub.token}"

    def _data(self, data: dict[str, Any]) -> None:
        self._json({"Code": 200, "Data": data, "Success": True})

    def _json(self, content: Any, status: int = 200) -> None:
        self._send(json.dumps(content).encode(), {"Content-Type": "application/json"}, status=status)

    def _error(self, status: int, code: str) -> None:
        self._send(b"{}", {"X-Error-Code": code, "X-Error-Message": code}, status=status)

    def _send(
        self, content: bytes, headers: dict[str, str], *, status: int = 200, is_large: bool = False
    ) -> None:
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if match and self.hub.knows_ranges and status == 200:
            start, status = int(match.group(1)), 206
            headers = headers | {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
            content = content[start:]
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if is_large and self.hub.cut_after is not None and len(content) > self.hub.cut_after:
            content, self.hub.cut_after, self.close_connection = content[: self.hub.cut_after], None, True
        for start in range(0, len(content), self.hub.piece_bytes):
            piece = content[start : start + self.hub.piece_bytes]
            try:
                self.wfile.write(piece)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True
                return
            if is_large and self.hub.piece_seconds:
                time.sleep(self.hub.piece_seconds)


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub and its CDN, each on a port of its own."""
    hub = Hub()
    servers = []
    for role in ("hub", "cdn"):
        handler = type(f"_{role}", (_Handler,), {"hub": hub, "role": role})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        servers.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    hub.endpoint, hub.cdn = (f"http://127.0.0.1:{server.server_address[1]}" for server in servers)
    try:
        yield hub
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()
