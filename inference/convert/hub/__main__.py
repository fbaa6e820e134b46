"""The child process that fetches a repository: arguments in, progress by bytes out, SIGTERM cancels.

The token comes as the first line of standard input.
"""

from __future__ import annotations

import argparse
import fcntl
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2

from inference.checkpoints.model_folder import NotServed, UnsafeModel, check_descriptions
from inference.child_process import first_line, progress, report
from inference.convert.hub import huggingface, modelscope
from inference.convert.hub.snapshot import (
    HubRefused,
    NotAModel,
    NotFound,
    RemoteFile,
    Snapshot,
    TokenRefused,
    Unreachable,
    WrongBytes,
)
from inference.convert.hub.transfer import TIMEOUT, Transfer
from inference.convert.output import CannotWrite, check_disk

KINDS: dict[str, type[huggingface.HuggingFace] | type[modelscope.ModelScope]] = {
    "huggingface": huggingface.HuggingFace,
    "modelscope": modelscope.ModelScope,
}
ENDPOINTS = {"huggingface": huggingface.ENDPOINT, "modelscope": modelscope.ENDPOINT}
SPARE_BYTES = 64 * 2**20
REPORT_SECONDS = 0.3
WAIT_SECONDS = 0.5
CODES: dict[type[Exception], str] = {
    **{kind: kind.code for kind in (TokenRefused, NotFound, Unreachable, NotAModel, WrongBytes, HubRefused)},
    UnsafeModel: "unsafe_model",
    NotServed: "not_served",
    CannotWrite: "cannot_write",
    OSError: "input_output_error",
}


def main(arguments: list[str]) -> int:
    return run(_parser().parse_args(arguments), first_line())


def run(options: argparse.Namespace, token: str) -> int:
    """Downloads and reports the outcome; the exit code."""
    return report(
        lambda: fetch(options, token), with_parent=options.with_parent, codes=CODES, otherwise="cannot_fetch"
    )


def fetch(options: argparse.Namespace, token: str) -> dict[str, Any]:
    """Everything of the repository that a model needs, in a folder of its own under `--folder`."""
    endpoint = (options.endpoint or ENDPOINTS[options.kind]).rstrip("/")
    host = urlsplit(endpoint).netloc
    progress(f"asking {host}", 0.0)
    source = KINDS[options.kind](endpoint, options.repository, token)
    snapshot = source.snapshot(options.revision)
    options.folder.mkdir(parents=True, exist_ok=True)
    folder = options.folder / f"{options.repository.replace('/', '--')}@{snapshot.commit}"
    with _exclusive(folder), httpx2.Client(timeout=TIMEOUT) as client:
        _check_room(folder, snapshot)
        count_bytes = _ByteProgress(
            f"downloading {snapshot.num_bytes / 1e6:,.0f} MB from {host}", snapshot.num_bytes
        )
        transfer = Transfer(client, headers=snapshot.headers, check=source.check, on_bytes=count_bytes)
        is_described = False
        for file in snapshot.files:
            if file.name.endswith(".safetensors") and not is_described:
                check_descriptions(folder)  # a model that is refused costs no gigabytes
                is_described = True
            transfer.download(file, folder)
    return {"folder": str(folder), "commit": snapshot.commit}


class _ByteProgress:
    """Adds up bytes and reports progress every REPORT_SECONDS."""

    def __init__(self, stage: str, total: int) -> None:
        self._stage, self._total = stage, max(1, total)
        self._sum, self._reported_at = 0, 0.0

    def __call__(self, num_bytes: int) -> None:
        self._sum += num_bytes
        now = time.monotonic()
        if now - self._reported_at >= REPORT_SECONDS:
            self._reported_at = now
            progress(self._stage, self._sum / self._total)


@contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    """A lock on the folder, released when the process that holds it ends."""
    with folder.with_name(f".{folder.name}.lock").open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                progress("waiting for another import of the same files", 0.0)
                time.sleep(WAIT_SECONDS)
        folder.mkdir(exist_ok=True)
        yield


def _check_room(folder: Path, snapshot: Snapshot) -> None:
    check_disk(folder, num_bytes=sum(_missing(folder, file) for file in snapshot.files) + SPARE_BYTES)


def _missing(folder: Path, file: RemoteFile) -> int:
    found = [
        path.stat().st_size for path in (folder / file.name, folder / f".{file.name}.part") if path.exists()
    ]
    return max(0, file.size - max(found, default=0))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m inference.convert.hub", description=__doc__)
    parser.add_argument("--kind", choices=KINDS, required=True, help="whose API the endpoint speaks")
    parser.add_argument("--endpoint", default="", help="the hub's address; empty: the kind's own")
    parser.add_argument("--repository", required=True, help="owner/name")
    parser.add_argument("--revision", default="", help="a commit, branch or tag; empty: the main branch")
    parser.add_argument("--folder", type=Path, required=True, help="the folder for downloads")
    parser.add_argument("--with-parent", action="store_true", help="cancel when standard input ends")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
