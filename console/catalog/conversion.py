"""Runs `inference.convert` as a child process without secrets and relays its progress."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import inference
from console.environment import child_variables

Progress = Callable[[str, float], None]  # stage, fraction of the whole (0..1)

PACKAGES = Path(inference.__file__).parent.parent
SECONDS_TO_CANCEL = 20.0
KEPT_LOG_BYTES = 2000


class ConversionFailed(RuntimeError):
    """The child refused or failed; `code` is unsafe_model, cannot_write, cannot_convert or died."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Converted:
    """A checked folder and its manifest: name -> {"sha256", "size"}."""

    folder: Path
    files: dict[str, dict[str, Any]]


def convert(*arguments: str | Path, progress: Progress) -> Converted:
    """Runs the child to its end. Raises `ConversionFailed`; an interruption here cancels the child first."""
    command = [sys.executable, "-m", "inference.convert", "--with-parent", *map(str, arguments)]
    with tempfile.TemporaryFile() as log:
        child = subprocess.Popen(  # noqa: S603 - our own module, no shell
            command,
            stdin=subprocess.PIPE,  # held open: the child cancels itself when it closes
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=PACKAGES,
            env=child_variables(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false"),
            text=True,
        )
        with child:
            try:
                last = _relay(child, progress)
            except BaseException:
                _cancel(child)
                raise
        return _result(last, log)


def _relay(child: subprocess.Popen[str], progress: Progress) -> dict[str, Any]:
    assert child.stdout is not None
    line: dict[str, Any] = {}
    for text in child.stdout:
        line = json.loads(text)
        if line["event"] == "progress":
            progress(line["stage"], line["fraction"])
    return line


def _cancel(child: subprocess.Popen[str]) -> None:
    child.terminate()
    try:
        child.wait(SECONDS_TO_CANCEL)
    except subprocess.TimeoutExpired:
        child.kill()


def _result(last: dict[str, Any], log: IO[bytes]) -> Converted:
    match last.get("event"):
        case "done":
            return Converted(folder=Path(last["folder"]), files=last["files"])
        case "error":
            raise ConversionFailed(last["code"], last["message"])
        case "cancelled":
            raise ConversionFailed("cancelled", "the conversion was cancelled")
    log.seek(max(0, log.seek(0, 2) - KEPT_LOG_BYTES))
    raise ConversionFailed("died", f"the conversion died: {log.read().decode(errors='replace').strip()}")
