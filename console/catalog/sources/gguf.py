"""A GGUF file: converted once into a folder of safetensors under DATA_DIR."""

from __future__ import annotations

from pathlib import Path

from console.catalog.conversion import Converted, Progress, convert


def from_gguf(path: Path, *, target: Path, quantize: str | None = None, progress: Progress) -> Converted:
    """Raises `ConversionFailed` (unsafe_model) for a file whose header lies about sizes."""
    arguments: list[str | Path] = ["--gguf", path.absolute(), "--target", target]
    if quantize:
        arguments += ["--quantize", quantize]
    return convert(*arguments, progress=progress)
