"""A repository at one commit: which of its files a model needs, and what may be believed of them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from inference.checkpoints.model_folder import CONVERT, check_quantization
from inference.checkpoints.model_kinds import why_not_served
from inference.checkpoints.serving_files import INDEX, WHOLE, is_description

COMMIT = re.compile(r"[0-9a-f]{40}")
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,250}")
WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors")  # no second set beside them
FOR_PEOPLE = re.compile(r"README\.md|LICEN[CS]E(\.md|\.txt)?")
MAX_FILES = 2000


class HubRefused(Exception):
    """The hub refused; the message says what to do."""

    code = "hub_refused"


class TokenRefused(HubRefused):
    code = "hub_token"


class NotFound(HubRefused):
    code = "hub_not_found"


class Unreachable(HubRefused):
    code = "hub_unreachable"


class NotAModel(HubRefused):
    code = "unsafe_model"


class WrongBytes(HubRefused):
    code = "hub_checksum"


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file as the hub describes it; a download must match its size and, where given, its hash."""

    name: str
    url: str
    size: int
    sha256: str = ""
    git_sha1: str = ""  # of small files, which git itself keeps


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The files of a repository to download, small ones first."""

    commit: str
    files: tuple[RemoteFile, ...]
    headers: dict[str, str] = field(default_factory=dict, repr=False)  # for the endpoint's own origin alone

    @property
    def num_bytes(self) -> int:
        return sum(file.size for file in self.files)


def needed(files: Iterable[RemoteFile]) -> tuple[RemoteFile, ...]:
    """The files of a model out of all that lie at the top of a repository. Raises `NotAModel`."""
    listed = list(files)
    if len(listed) > MAX_FILES:
        raise NotAModel(f"the repository holds {len(listed)} files: that is no model")
    for file in listed:
        if file.name.startswith("/") or ".." in file.name.split("/") or "\\" in file.name:
            raise NotAModel(f"the hub names a file outside of the repository: {file.name!r}")
    top = [file for file in listed if NAME.fullmatch(file.name)]
    weights = [file for file in top if file.name.endswith(".safetensors")]
    if not weights:
        raise NotAModel(_no_weights(top))
    names = {file.name.partition("/")[0] for file in listed}
    if why := why_not_served({}, names):
        raise NotAModel(f"the repository's model is not served: {why}")
    check_quantization({}, names)
    chosen = [file for file in weights if WEIGHTS.fullmatch(file.name)] or weights
    chosen = [file for file in chosen if file.name == WHOLE] or chosen
    is_whole = [file.name for file in chosen] == [WHOLE]
    rest = [
        file
        for file in top
        if file not in weights and _is_wanted(file.name) and not (is_whole and file.name == INDEX)
    ]
    return tuple(sorted([*rest, *chosen], key=lambda file: (file in chosen, file.size, file.name)))


def _is_wanted(name: str) -> bool:
    if FOR_PEOPLE.fullmatch(name):
        return True
    return is_description(name)


def _no_weights(files: list[RemoteFile]) -> str:
    names = [file.name for file in files]
    if "adapter_config.json" in names:
        return "the repository holds an adapter, no model: merge it into its base model first"
    if gguf := next((name for name in names if name.lower().endswith(".gguf")), None):
        return f"the repository holds GGUF files only: download {gguf} and import it as a GGUF file"
    if pickled := next((name for name in names if name.endswith((".bin", ".pt", ".pth"))), None):
        return (
            f"{pickled} can carry code and is not fetched; the repository has no .safetensors weights: take"
            f" another one of the same model, or {CONVERT}"
        )
    return "the repository has no .safetensors weights"
