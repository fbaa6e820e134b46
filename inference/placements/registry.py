"""The placements by name, imported when one is asked for: a process pays only for what it uses."""

from __future__ import annotations

import gc
import importlib
from collections.abc import Iterator
from contextlib import contextmanager

from inference.client import EngineClient

PLACEMENTS = {"inprocess": "inference.placements.inprocess.placement.InProcess"}


def placement_class(name: str) -> type[EngineClient]:
    """The class of a name of PLACEMENTS, or of a dotted path. Raises `ValueError`."""
    path = PLACEMENTS.get(name, name)
    module_name, _, class_name = path.rpartition(".")
    if not module_name:
        known = ", ".join(sorted(PLACEMENTS))
        raise ValueError(f"ENGINE={name!r} is neither one of {known} nor a dotted path to a class")
    try:
        with _without_collector():
            module = importlib.import_module(module_name)
        found: type[EngineClient] = getattr(module, class_name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"ENGINE={name!r} cannot be imported: {error}") from error
    return found


@contextmanager
def _without_collector() -> Iterator[None]:
    """What is imported stays: to look through it for garbage, now and ever again, only takes time.

    Of the imports of torch and transformers it is a seventh.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()
