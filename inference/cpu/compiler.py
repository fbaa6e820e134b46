"""numba on this machine: a self-test of the compiled functions, and the folder that caches them."""

from __future__ import annotations

import hashlib
import logging
import tempfile
from functools import lru_cache
from pathlib import Path

logger = logging.getLogger(__name__)


@lru_cache(maxsize=1)
def works() -> bool:
    """True where numba is installed and the compiled products pass their self-test on this CPU."""
    try:
        import numba  # noqa: F401 - where it is missing, what follows says so less plainly

        from inference.cpu.matmul_single import passes_self_test
        from inference.cpu.vectors import has_int16_products

        return has_int16_products() and passes_self_test()
    except Exception as error:  # whatever it is, torch can do without
        logger.warning("products on this CPU are not compiled: %s: %s", type(error).__name__, error)
        return False


def is_new_here() -> bool:
    """True until the layers have been compiled on this machine, which takes 15 seconds once."""
    import numba

    return not any(Path(numba.config.CACHE_DIR).rglob("step.run*.nbc"))


def set_cache_folder() -> None:
    """Before the first function is declared: numba asks then, and keeps it beside its source otherwise."""
    import numba

    numba.config.CACHE_DIR = str(cache_folder(numba.__version__))


def cache_folder(version: str) -> Path:
    """A folder of this user for what a compiler of a version made of these sources: the next start takes it.

    numba looks at a function's own file alone, not at those that it calls into: hence the sum of all.
    """
    sources = sorted(Path(__file__).parent.glob("*.py"))
    digest = hashlib.sha256(version.encode())
    for source in sources:
        digest.update(source.read_bytes())
    name = f"kernels-{digest.hexdigest()[:16]}"
    from numba.misc.appdirs import AppDirs

    wanted = Path(AppDirs("pilothouse", appauthor=False).user_cache_dir)
    folder = wanted / name
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        logger.info("compiled functions are not kept: %s", error)
        folder = Path(_temporary().name)
    return folder


@lru_cache(maxsize=1)
def _temporary() -> tempfile.TemporaryDirectory[str]:
    """Of this process alone."""
    return tempfile.TemporaryDirectory(prefix="pilothouse-kernels-")
