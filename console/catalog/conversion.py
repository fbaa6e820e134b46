"""Runs children of `inference.convert` without secrets and relays their progress."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import IO, Any

import inference
from console.environment import child_variables

logger = logging.getLogger(__name__)

Progress = Callable[[str, float], None]  # stage, fraction of the whole (0..1)

PACKAGES = Path(inference.__file__).parent.parent
OFFLINE = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
SECONDS_TO_CANCEL = 20.0
LISTEN_SECONDS = 1.0
KEPT_LOG_BYTES = 2000


class ConversionFailed(RuntimeError):
    """The child refused or failed; `code` is unsafe_model, cannot_write, cannot_convert or died."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Converted:
    """A checked folder, its manifest (name -> {"sha256", "size"}) and what it says of itself."""

    folder: Path
    files: dict[str, dict[str, Any]]
    facts: dict[str, Any] = field(default_factory=dict)


def convert(*arguments: str | Path, progress: Progress) -> Converted:
    """Check, convert or quantize. Raises `ConversionFailed`."""
    done = run_child("inference.convert", *arguments, progress=progress)
    return Converted(folder=Path(done["folder"]), files=done["files"], facts=done["facts"])


def run_child(
    module: str,
    *arguments: str | Path,
    progress: Progress,
    first_line: str | None = None,
    variables: Mapping[str, str] = OFFLINE,
) -> dict[str, Any]:
    """Runs a child to its end; what it said last. Raises `ConversionFailed`.

    `first_line` goes to its standard input, where no list of processes shows it. `progress` is called
    every `LISTEN_SECONDS` at least; what it raises cancels the child first.
    """
    command = [sys.executable, "-m", module, "--with-parent", *map(str, arguments)]
    with tempfile.TemporaryFile() as log:
        child = subprocess.Popen(  # noqa: S603 - our own module, no shell
            command,
            stdin=subprocess.PIPE,  # held open: the child cancels itself when it closes
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=PACKAGES,
            env=child_variables(**variables),
            text=True,
        )
        with child:
            try:
                if first_line is not None and child.stdin is not None:
                    child.stdin.write(f"{first_line}\n")
                    child.stdin.flush()
                last = _relay(child, progress)
            except BaseException:
                _cancel(child)
                raise
        return _result(last, log)


def _relay(child: subprocess.Popen[str], progress: Progress) -> dict[str, Any]:
    lines: SimpleQueue[str | None] = SimpleQueue()
    threading.Thread(target=_listen, args=(child, lines), name="child", daemon=True).start()
    last: dict[str, Any] = {}
    stage, fraction = "", 0.0
    while True:
        try:
            text = lines.get(timeout=LISTEN_SECONDS)
        except Empty:  # a long silence: still ask whether anybody wants the result
            if stage:
                progress(stage, fraction)
            continue
        if text is None:
            return last
        last = json.loads(text)
        if last["event"] == "progress":
            stage, fraction = last["stage"], last["fraction"]
            progress(stage, fraction)


def _listen(child: subprocess.Popen[str], lines: SimpleQueue[str | None]) -> None:
    assert child.stdout is not None
    for text in child.stdout:
        lines.put(text)
    lines.put(None)


def _cancel(child: subprocess.Popen[str]) -> None:
    child.terminate()
    try:
        child.wait(SECONDS_TO_CANCEL)
    except subprocess.TimeoutExpired:
        child.kill()


def _result(last: dict[str, Any], log: IO[bytes]) -> dict[str, Any]:
    log.seek(max(0, log.seek(0, 2) - KEPT_LOG_BYTES))
    words = log.read().decode(errors="replace").strip()
    match last.get("event"):
        case "done":
            return last
        case "error":
            if words:  # what a library said, of which people get our words
                logger.warning("a child process ended with %s: %s", last["code"], words)
            raise ConversionFailed(last["code"], last["message"])
        case "cancelled":
            raise ConversionFailed("cancelled", "the conversion was cancelled")
    raise ConversionFailed("died", f"the conversion died: {words}")
