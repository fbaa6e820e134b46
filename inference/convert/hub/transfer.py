"""Resumable download of one file, trusted only once its size and checksum match.

huggingface_hub's own transfer begins every file anew after a crash, which for weights is gigabytes.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import httpx2

from inference.convert.hub.destination import pinned
from inference.convert.hub.snapshot import RemoteFile, Unreachable, WrongBytes

TIMEOUT = httpx2.Timeout(30.0, connect=20.0)
MAX_REDIRECTS = 5
NUM_ATTEMPTS = 5  # in a row without a byte
WAIT_SECONDS = 1.0
PIECE_BYTES = 1 << 20
REDIRECTS = (301, 302, 303, 307, 308)


class Transfer:
    """Downloads files into a folder. A file under its own name is complete and checked."""

    def __init__(
        self,
        client: httpx2.Client,
        *,
        headers: dict[str, str],
        check: Callable[[httpx2.Response], None],
        on_bytes: Callable[[int], None],
    ) -> None:
        self._client, self._headers, self._check, self._on_bytes = client, headers, check, on_bytes

    def download(self, file: RemoteFile, folder: Path) -> None:
        """Raises `HubRefused`. `on_bytes` gets every number of bytes, those of an earlier transfer too."""
        path, part = folder / file.name, folder / f".{file.name}.part"
        if path.exists():
            if _matches(path, file):
                self._on_bytes(file.size)
                return
            path.unlink()
        with part.open("ab") as target:
            if target.tell() > file.size:
                target.truncate(0)
            self._on_bytes(target.tell())
            self._fill(file, target)
            target.flush()
            os.fsync(target.fileno())
        if not _matches(part, file):
            part.unlink()
            raise WrongBytes(
                f"{file.name} arrived with another checksum than the hub names, and was deleted: try again"
            )
        part.rename(path)

    def _fill(self, file: RemoteFile, target: BinaryIO) -> None:
        attempts = 0
        while target.seek(0, os.SEEK_END) < file.size:
            before = target.tell()
            try:
                self._read(file, target)
            except (httpx2.TransportError, httpx2.StreamError) as error:
                attempts = 0 if target.tell() > before else attempts + 1
                if attempts >= NUM_ATTEMPTS:
                    raise Unreachable(
                        f"{file.name} could not be fetched: {type(error).__name__} {error}."
                        " What has arrived is kept; try again"
                    ) from error
                time.sleep(WAIT_SECONDS)

    def _read(self, file: RemoteFile, target: BinaryIO) -> None:
        start = target.tell()
        with self._answer(file.url, start) as response:
            if start and not _resumes_at(response, start):  # the server knows no ranges: from the beginning
                target.truncate(0)
                self._on_bytes(-start)
            for piece in response.iter_raw():
                room = file.size - target.tell()
                if len(piece) > room:
                    target.truncate(0)
                    raise WrongBytes(f"{file.name} is longer than the {file.size} bytes that the hub names")
                target.write(piece)
                self._on_bytes(len(piece))
        if target.tell() < file.size:
            raise httpx2.ReadError(f"{file.name} ended early")

    @contextmanager
    def _answer(self, url: str, start: int) -> Iterator[httpx2.Response]:
        """Follows redirects by hand: what identifies us goes to the endpoint's own origin alone."""
        home = httpx2.URL(url)
        place = home
        for _ in range(MAX_REDIRECTS):
            headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
            target, extensions = place, dict[str, Any]()
            if _origin(place) == _origin(home):
                headers |= self._headers
            else:
                target, host, extensions = pinned(place, home)
                headers |= host
            with self._client.stream(
                "GET", target, headers=headers, follow_redirects=False, extensions=extensions
            ) as response:
                if response.status_code not in REDIRECTS:
                    if response.status_code >= 400:
                        response.read()
                    self._check(response)
                    yield response
                    return
                place = place.join(response.headers.get("Location", ""))
            if place.scheme not in ("https", home.scheme):
                raise Unreachable(f"the hub redirects to {place.scheme}://{place.host}: not followed")
        raise Unreachable("the hub redirects in circles")


def _origin(url: httpx2.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def _resumes_at(response: httpx2.Response, start: int) -> bool:
    return response.status_code == 206 and response.headers.get("Content-Range", "").startswith(
        f"bytes {start}-"
    )


def _matches(path: Path, file: RemoteFile) -> bool:
    if path.stat().st_size != file.size:
        return False
    with path.open("rb") as content:
        if file.sha256:
            return hashlib.file_digest(content, "sha256").hexdigest() == file.sha256
        if file.git_sha1:
            digest = hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)  # git's own name of a file
            while piece := content.read(PIECE_BYTES):
                digest.update(piece)
            return digest.hexdigest() == file.git_sha1
    return True
