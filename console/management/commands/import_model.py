"""`manage.py import_model NAME --folder PATH | --gguf PATH`: make a local model servable under a name."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError

from console.catalog.actions import ImportRefused, import_model
from console.catalog.conversion import ConversionFailed
from console.management.database_command import DatabaseCommand


class Command(DatabaseCommand):
    """Checks, converts or quantizes where needed, and registers the files as the name's current revision."""

    help = "Make a model from a local folder or GGUF file servable under a public name."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("name", help="the public name that callers will use")
        source = parser.add_mutually_exclusive_group(required=True)
        source.add_argument("--folder", type=Path, help="safetensors with config.json and tokenizer")
        source.add_argument("--gguf", type=Path, help="a GGUF file, converted into DATA_DIR")
        parser.add_argument("--quantize", choices=["int8"], help="write quantized weights into DATA_DIR")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            revision = import_model(
                actor="command line",
                name=options["name"],
                folder=options["folder"],
                gguf=options["gguf"],
                quantize=options["quantize"],
                progress=self._show,
            )
        except (ImportRefused, ConversionFailed) as error:
            raise CommandError(str(error)) from error
        self.stdout.write(f"{options['name']} is now revision {revision.id}")

    def _show(self, stage: str, fraction: float) -> None:
        self.stderr.write(f"{fraction:4.0%} {stage}")
