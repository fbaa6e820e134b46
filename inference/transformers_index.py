"""What transformers finds out about its own model files at each import, kept from start to start.

It reads all of them, 48 MB in 1,600 files, and that twice: more than half a second before anything is loaded.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

logger = logging.getLogger(__name__)

FILE = "transformers-index.json"
READER = "transformers.utils.import_utils"  # the module whose `define_import_structure` reads them

Index = dict[frozenset[str], dict[str, set[str]]]  # what must be installed -> module -> what it defines
Read = Callable[..., Index]  # (path of a package's folder or __init__.py, prefix of the modules' names)


def install(file: Path) -> None:
    """Keep the index in `file` from now on. Where transformers is imported already, nothing is left to do."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _ReaderFinder)]
    if READER not in sys.modules:
        sys.meta_path.insert(0, _ReaderFinder(file))


class KeptIndex:
    """`define_import_structure`, which reads the models' folder only where its files have changed.

    What another version of transformers asks or answers otherwise is left to it.
    """

    def __init__(self, file: Path, read: Read) -> None:
        self._file, self._read = file, read
        self._index: Index | None = None

    def __call__(self, module_path: str | Path, prefix: str | None = None, **others: Any) -> Index:
        path = Path(module_path)
        folder = path.parent if path.suffix else path
        if others or folder.parts[-2:] != ("transformers", "models"):
            return self._read(module_path, prefix=prefix, **others)
        if self._index is None:
            self._index = self._look_up(folder)
        before = f"{prefix}." if prefix else ""
        return {
            needed: {before + module: set(names) for module, names in modules.items()}
            for needed, modules in self._index.items()
        }

    def _look_up(self, folder: Path) -> Index:
        stamp = _stamp(folder)
        try:
            kept = json.loads(self._file.read_bytes())
            if kept["stamp"] == stamp:
                return {
                    frozenset(needed): {module: set(names) for module, names in modules.items()}
                    for needed, modules in kept["index"]
                }
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            logger.debug("no index in %s", self._file)
        index = self._read(folder)
        self._keep(index, stamp)
        return index

    def _keep(self, index: Index, stamp: str) -> None:
        part = self._file.with_suffix(f".{os.getpid()}.part")
        try:
            part.write_text(json.dumps({"stamp": stamp, "index": list(_rows(index))}))
            part.replace(self._file)
        except (OSError, TypeError, ValueError, AttributeError) as error:
            logger.info("the index of transformers' models is not kept: %s", error)


class _ReaderFinder(MetaPathFinder):
    """Gives the reader a memory when it is imported; whoever calls it does so in the same import."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def find_spec(
        self, fullname: str, path: Any = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != READER:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                if "define_import_structure" in (names := vars(module)):
                    names["define_import_structure"] = KeptIndex(self._file, names["define_import_structure"])

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _rows(index: Index) -> Iterator[tuple[list[str], dict[str, list[str]]]]:
    for needed, modules in index.items():
        yield sorted(needed), {module: sorted(names) for module, names in modules.items()}


def _stamp(folder: Path) -> str:
    """A sum over names, sizes and times of a package's files: another version or an edit changes it."""
    found, folders = [], [str(folder)]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.name.endswith(".py"):
                    look = entry.stat()
                    found.append(f"{entry.path} {look.st_size} {look.st_mtime_ns}")
                elif entry.name != "__pycache__" and entry.is_dir():
                    folders.append(entry.path)
    return hashlib.sha256("\n".join(sorted(found)).encode()).hexdigest()
