"""A local folder of safetensors: checked and used where it lies, or quantized into DATA_DIR."""

from __future__ import annotations

from pathlib import Path

from console.catalog.conversion import Converted, Progress, convert


def from_folder(folder: Path, *, target: Path, quantize: str | None, progress: Progress) -> Converted:
    """Raises `ConversionFailed` (unsafe_model) for pickles, code, links that leave, headers that lie."""
    arguments: list[str | Path] = ["--folder", folder.absolute()]
    if quantize:
        arguments += ["--quantize", quantize, "--target", target]
    return convert(*arguments, progress=progress)
