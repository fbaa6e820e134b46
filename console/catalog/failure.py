"""Why a revision could not be loaded, as a class that callers may know: no paths, no names of files."""

from __future__ import annotations

from enum import StrEnum

from console.catalog.files import FilesChanged
from inference.protocol.errors import Refusal

UNFORESEEN = (
    "the engine failed while it was loaded ({kind}); the server's log has the details. Load it again; if it"
    " fails again, import the model anew or choose other engine settings"
)


class Failure(StrEnum):
    KIND = "kind"
    FILES = "files"
    MEMORY = "memory"
    SETTINGS = "settings"
    ERROR = "error"


BY_CODE = {  # of the engine's refusals
    "kind_not_served": Failure.KIND,
    "unsafe_model": Failure.FILES,
    "too_little_memory": Failure.MEMORY,
    "model_cannot_load": Failure.SETTINGS,
}
NEVER = (Failure.KIND, Failure.FILES)  # no other try, and no other settings, will load it
TOLD = {
    Failure.KIND: "its model is of a kind that is not served here",
    Failure.FILES: "its files are refused, or have changed since they were imported",
    Failure.MEMORY: "there is too little memory for it",
    Failure.SETTINGS: "its files and its engine settings do not go together",
    Failure.ERROR: "the engine failed while it was loaded",
}


def failure_of(error: BaseException) -> Failure:
    if isinstance(error, FilesChanged):
        return Failure.FILES
    return BY_CODE.get(error.code, Failure.SETTINGS) if isinstance(error, Refusal) else Failure.ERROR


def reason_of(error: BaseException) -> str:
    """For operators: what was wrong and what to do. What a library says stays in the log."""
    if isinstance(error, Refusal | FilesChanged):
        return str(error)
    return UNFORESEEN.format(kind=type(error).__name__)


def told(failure: str) -> str:
    """For callers, in English as all that the API says."""
    return TOLD[Failure(failure)] if failure else TOLD[Failure.ERROR]
