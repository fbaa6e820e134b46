"""What was measured on a machine, kept beside what was compiled for it: the next start need not measure.

A figure counts under the conditions that it was measured under alone: processor, threads, versions, our own
code, the model's shape and settings. Files are JSON, a small one for each.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import platform
import tempfile
from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig

from inference.config import EngineConfig

logger = logging.getLogger(__name__)

PACKAGES = ("torch", "transformers", "numba")
FOLDERS = ("attention", "cpu", "engine", "models", "quantization")  # of our code that decides how steps run
SETTINGS = (
    "attention",
    "batching",
    "block_size",
    "fused_layers",
    "kv_dtype",
    "quantization",
    "quantize_head",
)
NO_SHAPE = ("_name_or_path", "transformers_version", "dtype", "torch_dtype")  # of a config
MOST_KEPT = 64

Conditions = dict[str, Any]


def conditions(model_config: PretrainedConfig, config: EngineConfig, ways: Mapping[str, Any]) -> Conditions:
    """All that a figure depends on, as JSON."""
    shape = {name: value for name, value in model_config.to_dict().items() if name not in NO_SHAPE}
    found = {
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "versions": {name: _version(name) for name in PACKAGES},
        "code": _code(),
        "settings": {name: getattr(config, name) for name in SETTINGS},
        "model": (model_config.architectures or [""])[0],
        "shape": _digest(json.dumps(shape, sort_keys=True, default=str)),
        "ways": {name: str(way) for name, way in ways.items()},
    }
    return dict(json.loads(json.dumps(found)))


def read(wanted: Conditions) -> dict[str, dict[int, float]] | None:
    """Candidate -> rows of a step -> seconds; None where nothing is kept that can be trusted."""
    folder = cache_folder()
    if folder is None:
        return None
    try:
        kept = json.loads(_file(folder, wanted).read_text())
        if kept["conditions"] != wanted:
            return None
        return {
            str(name): {int(rows): float(seconds) for rows, seconds in found.items()}
            for name, found in kept["seconds"].items()
        }
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        logger.info("a kept choice of dtype cannot be read: %s", error)
        return None


def write(found_under: Conditions, times: Mapping[str, Mapping[int, float]]) -> None:
    """Keep figures for the next start, in a file that is whole or not there."""
    folder = cache_folder()
    if folder is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        content = {"conditions": found_under, "seconds": {name: dict(found) for name, found in times.items()}}
        with tempfile.NamedTemporaryFile("w", dir=folder, delete=False) as file:
            json.dump(content, file, indent=1)
        os.replace(file.name, _file(folder, found_under))
        _forget_oldest(folder)
    except OSError as error:
        logger.info("the choice of a dtype is not kept: %s", error)


def cache_folder() -> Path | None:
    """Of this user on this machine; None where numba, which knows such folders, is missing."""
    try:
        from numba.misc.appdirs import AppDirs
    except ImportError:
        return None
    return Path(AppDirs("pilothouse", appauthor=False).user_cache_dir) / "dtypes"


@lru_cache(maxsize=1)
def processor() -> str:
    """The CPU's name and a digest of what instructions it has, as Linux tells them."""
    name, flags = platform.processor() or platform.machine(), ""
    with contextlib.suppress(OSError):
        lines = [line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines()]
        said = {key.strip(): value.strip() for key, _, value in reversed(lines)}
        name = said.get("model name", name)
        flags = " ".join(sorted((said.get("flags") or said.get("Features") or "").split()))
    return f"{name} {_digest(flags)}"


@lru_cache(maxsize=1)
def _code() -> str:
    root = Path(__file__).parent.parent
    files = sorted(path for folder in FOLDERS for path in (root / folder).rglob("*.py"))
    return _digest("".join(path.read_text() for path in files))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _file(folder: Path, wanted: Conditions) -> Path:
    return folder / f"{_digest(json.dumps(wanted, sort_keys=True))}.json"


def _forget_oldest(folder: Path) -> None:
    files = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime)
    for file in files[:-MOST_KEPT]:
        file.unlink(missing_ok=True)
