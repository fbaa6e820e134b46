"""Static files as browsers get them: under names with a hash of their content, kept for ever, compressed.

They are gathered into DATA_DIR/static when the server starts, again only where a source has changed. Other
processes (tests, commands) have gathered nothing: there, addresses are the plain names.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from django.conf import settings
from django.contrib.staticfiles.finders import get_finders
from django.core.management import call_command
from django.http import HttpRequest, HttpResponseBase
from django.middleware.gzip import GZipMiddleware
from whitenoise.middleware import WhiteNoiseMiddleware
from whitenoise.storage import CompressedManifestStaticFilesStorage

STAMP = "gathered"
NOT_SERVED = ["source", "build.mjs", "redoc"]


class HashedFiles(CompressedManifestStaticFilesStorage):  # type: ignore[misc]  # WhiteNoise has no types
    """WhiteNoise's; a file that was not gathered keeps its name."""

    manifest_strict = False

    def stored_name(self, name: str) -> str:
        try:
            return str(super().stored_name(name))
        except ValueError:
            return name


class Files(WhiteNoiseMiddleware):  # type: ignore[misc]  # WhiteNoise has no types
    """WhiteNoise's; it does not mind that nothing was gathered."""

    def add_files(self, root: str, prefix: str | None = None) -> None:
        if Path(root).is_dir():
            super().add_files(root, prefix)


class Compressed(GZipMiddleware):
    """Django's, which hides a page's length from who would guess secrets by it. Streams pass as they are."""

    def process_response(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        return response if response.streaming else super().process_response(request, response)


def gather() -> None:
    """Copy, hash and compress every static file, unless that was done for just these."""
    folder = Path(settings.STATIC_ROOT)
    stamp, now = folder / STAMP, _fingerprint()
    if stamp.exists() and stamp.read_text() == now:
        return
    shutil.rmtree(folder, ignore_errors=True)
    call_command("collectstatic", interactive=False, verbosity=0, ignore_patterns=NOT_SERVED)
    stamp.write_text(now)


def _fingerprint() -> str:
    """Of every source's name, size and time of change."""
    found = []
    for finder in get_finders():
        for name, storage in finder.list([]):
            about = Path(storage.path(name)).stat()
            found.append((name, about.st_size, about.st_mtime_ns))
    return hashlib.sha256(repr(sorted(found)).encode()).hexdigest()
