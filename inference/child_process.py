"""What every child process of ours has in common: JSON lines out, an end at SIGTERM or with its parent."""

from __future__ import annotations

import json
import os
import signal
import threading
import traceback
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any


class Cancelled(BaseException):
    """SIGTERM or SIGINT came, or the parent is gone. Not an `Exception`, so that no library swallows it."""


def report(
    work: Callable[[], dict[str, Any]],
    *,
    with_parent: bool,
    codes: Mapping[type[Exception], str],
    otherwise: str,
) -> int:
    """Does the work and says how it ended; the exit code.

    `codes` names what people can mend, the first that fits; anything else is `otherwise`. What a library
    raised stands in standard error, which the parent logs; people get words of ours.
    """
    listen_for_an_end(with_parent=with_parent)
    try:
        return say(event="done", **work())
    except Exception as error:
        for kind, code in codes.items():
            if isinstance(error, kind):
                return say(1, event="error", code=code, message=str(error))
        traceback.print_exc()
        is_ours = type(error).__module__.startswith("inference.")
        return say(1, event="error", code=otherwise, message=str(error) if is_ours else _unforeseen(error))
    except Cancelled:
        return cancelled()


def _unforeseen(error: Exception) -> str:
    return (
        f"a library failed at these files ({type(error).__name__}): they may be damaged, or of a form that it"
        " does not know; the server's log has the details"
    )


def progress(stage: str, fraction: float) -> None:
    say(event="progress", stage=stage, fraction=fraction)


def first_line() -> str:
    """What the parent writes at once: secrets, which belong neither into arguments nor the environment."""
    line = b""
    while not line.endswith(b"\n") and (byte := os.read(0, 1)):
        line += byte
    return line.decode().rstrip("\n")


def listen_for_an_end(*, with_parent: bool) -> None:
    """From now on `Cancelled` is raised in the main thread when this process shall end."""
    signal.signal(signal.SIGTERM, _cancel)
    signal.signal(signal.SIGINT, _cancel)
    if with_parent:
        threading.Thread(target=_cancel_with_parent, daemon=True).start()


def cancelled() -> int:
    """The last line of a child that was told to end."""
    return say(128 + signal.SIGTERM, event="cancelled")


def say(exit_code: int = 0, **line: Any) -> int:
    """Write a line; the exit code is handed through for whoever ends with it."""
    print(json.dumps(line), flush=True)
    return exit_code


def _cancel(signum: int, frame: FrameType | None) -> None:
    raise Cancelled


def _cancel_with_parent() -> None:
    """Standard input is a pipe that the parent holds: it ends when the parent does, however that dies.

    Read without Python's buffer, whose lock a thread would still hold when the interpreter ends.
    """
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
