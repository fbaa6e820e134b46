"""A local folder of safetensors: checked and used where it lies, or copied or quantized into DATA_DIR."""

from __future__ import annotations

from pathlib import Path

from console.catalog.conversion import Converted, Progress, convert


def from_folder(folder: Path, *, target: Path, quantize: str | None, progress: Progress) -> Converted:
    """A folder that holds more than serving reads is copied without the rest, which is never opened.

    Raises `ConversionFailed` (unsafe_model, not_served, cannot_load) with the reason.
    """
    arguments: list[str | Path] = ["--folder", folder.absolute()]
    if folder != target:
        arguments += ["--target", target]
    if quantize:
        arguments += ["--quantize", quantize]
    return convert(*arguments, progress=progress)
