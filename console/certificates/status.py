"""Certificates: whether a revision keeps to what its parent can do, and whether that still counts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

from django.db import transaction
from django.utils.translation import gettext as _

import console
from console.audit.actor import Actor
from console.audit.write import write
from console.catalog.engine_settings import in_play
from console.catalog.file_integrity import altered_file
from console.catalog.models import Certificate, Revision
from console.certificates.thresholds import THRESHOLDS, Check, checks, written
from inference import corpus

OWN_METHODS = "pilothouse_"  # what config.json calls them begins so: inference/quantization/
# Settings that change what is computed, not only how fast.
NUMERICS = ("dtype", "quantization", "quantize_head", "kv_dtype")
MEASURED_WITH = ("torch", "transformers")  # packages whose versions the figures depend on

Kind = Literal["not_needed", "missing", "failed", "passed", "outdated"]
NUM_LAYERS_SHOWN = 5
SOUND: tuple[Kind, ...] = ("not_needed", "passed")


class NotCertified(RuntimeError):
    """A revision that must not answer everybody; the message says why."""


@dataclass(frozen=True, slots=True)
class CertificateStatus:
    """What can be said for a revision now."""

    kind: Kind
    revision: Revision
    certificate: Certificate | None  # the newest, of the revision that has these numbers
    reason: str  # in words; for people

    @property
    def is_sound(self) -> bool:
        return self.kind in SOUND

    @property
    def checks(self) -> list[Check]:
        """The certificate's figures next to what they had to reach."""
        return checks(self.certificate.figures, self.certificate.thresholds) if self.certificate else []

    @property
    def worst_layers(self) -> list[dict[str, str]]:
        """Names and errors, the worst first."""
        layers = self.certificate.figures["layers"][:NUM_LAYERS_SHOWN] if self.certificate else []
        return [
            {"name": layer["name"], "shown": written("worst_weight_error", layer["weight_error"])}
            for layer in layers
        ]

    @property
    def texts(self) -> list[dict[str, Any]]:
        """The figures by kind of text."""
        texts = self.certificate.figures["texts"] if self.certificate else []
        return [
            {
                **text,
                "kind": text["kind"].replace("_", " "),
                "agreement": written("top1_agreement", text["top1_agreement"]),
            }
            for text in texts
        ]


def status_of(revision: Revision) -> CertificateStatus:
    """Cheap unless files have been touched; those are hashed once."""
    found = _status_of(revision)
    is_here = revision.deployment.files_deleted_at is None
    if is_here and (name := altered_file(revision)):
        reason = _("%(file)s is not the file that was registered: it has been changed, or is missing.")
        return CertificateStatus("outdated", revision, found.certificate, reason % {"file": name})
    return found


def require(revision: Revision) -> None:
    """Raises `NotCertified` for a revision that needs a certificate and has none that counts."""
    if revision.deployment.files_deleted_at is not None:
        raise NotCertified(_("The files of %(revision)s have been deleted.") % {"revision": revision.pk})
    if not (found := status_of(revision)).is_sound:
        raise NotCertified(found.reason)


@transaction.atomic
def issue(*, actor: Actor, revision: Revision, measured: Mapping[str, Any], job: str) -> Certificate:
    """Write down what `inference.certify.compare` has measured of a revision and its parent."""
    assert revision.parent is not None
    figures = dict(measured["figures"])
    found = checks(figures, THRESHOLDS)
    certificate = Certificate.objects.create(
        revision=revision,
        parent=revision.parent,
        files_digest=digest_of(revision),
        parent_digest=digest_of(revision.parent),
        corpus_digest=measured["corpus_digest"],
        measured_by={
            **measured["measured_by"],
            "pilothouse": console.__version__,
            "settings": numerics(revision),
            "parent_settings": numerics(revision.parent),
            "job": job,
        },
        figures=figures,
        thresholds=THRESHOLDS,
        has_passed=all(check.has_passed for check in found),
    )
    detail = {
        "parent": revision.parent_id,
        "has_passed": certificate.has_passed,
        "missed": [check.figure for check in found if not check.has_passed],
    }
    write(actor=actor, action="catalog.certify", target=revision.pk, detail=detail)
    return certificate


def numbers_of(revision: Revision) -> Revision:
    """The first of its line with the same files and the same numerics: what a certificate is made for."""
    parent = revision.parent
    if parent is None or parent.files != revision.files or numerics(parent) != numerics(revision):
        return revision
    return numbers_of(parent)


def was_quantized_here(revision: Revision) -> bool:
    """Whether its weights are less exact by our doing: an import wrote them so, or its settings do."""
    method = revision.facts.get("quantization") or ""
    return method.startswith(OWN_METHODS) or bool(revision.engine.get("quantization"))


def numerics(revision: Revision) -> dict[str, Any]:
    """The settings that change what is computed, as they are in play here."""
    chosen = in_play(revision)
    return {name: chosen.get(name) for name in NUMERICS}


def digest_of(revision: Revision) -> str:
    """SHA-256 over the manifest."""
    return hashlib.sha256(json.dumps(revision.files, sort_keys=True).encode()).hexdigest()


def _status_of(revision: Revision) -> CertificateStatus:
    """By what is written, without a look at the disk."""
    subject = numbers_of(revision)
    if subject.parent is None:
        if was_quantized_here(subject):
            reason = _(
                "It was quantized while it was imported, so there is nothing to compare it with: import the"
                " weights as they are, and quantize them here."
            )
            return CertificateStatus("missing", revision, None, reason)
        if subject == revision:
            return CertificateStatus(
                "not_needed", revision, None, _("An original: there is nothing to compare it with.")
            )
        reason = _("The same files and numerics as the original %(revision)s.") % {"revision": subject.pk}
        return CertificateStatus("not_needed", revision, None, reason)
    certificate = subject.certificates.select_related("parent").order_by("-created_at", "-pk").first()
    if certificate is None:
        reason = _("It has not been compared with its parent %(parent)s yet.") % {"parent": subject.parent_id}
        return CertificateStatus("missing", revision, None, reason)
    if reason := _why_outdated(certificate, subject, served=revision):
        return CertificateStatus("outdated", revision, certificate, reason)
    missed = [check for check in checks(certificate.figures, certificate.thresholds) if not check.has_passed]
    if missed or not certificate.has_passed:
        return CertificateStatus(
            "failed", revision, certificate, " ".join(check.sentence for check in missed)
        )
    parent = _status_of(subject.parent)
    if not parent.is_sound:
        reason = _("Its parent %(parent)s, which it was compared with, is not certified itself.")
        return CertificateStatus("failed", revision, certificate, reason % {"parent": subject.parent_id})
    return CertificateStatus(
        "passed",
        revision,
        certificate,
        _("Quality matches the original, %(parent)s (within all limits).") % {"parent": subject.parent_id},
    )


def _why_outdated(certificate: Certificate, subject: Revision, *, served: Revision) -> str:
    """What has changed since, in words; "" where the certificate counts."""
    assert subject.parent is not None
    measured = certificate.measured_by
    if (certificate.files_digest, certificate.parent_digest) != (
        digest_of(subject),
        digest_of(subject.parent),
    ):
        return _("It was made for other files.")
    if certificate.corpus_digest != corpus.digest():
        return _("It was measured on other texts than those of this version.")
    if certificate.thresholds != THRESHOLDS:
        return _("The thresholds have changed since.")
    if measured["settings"] != numerics(subject) or measured["parent_settings"] != numerics(subject.parent):
        return _("It was measured with other settings than those in play now.")
    return _why_served_otherwise(measured, served.deployment.card)


def _why_served_otherwise(measured: Mapping[str, Any], card: Mapping[str, Any]) -> str:
    """Other versions, or another device or dtype than the last load had."""
    for package, installed in _versions().items():
        if measured[package] != installed:
            values = {"package": package, "then": measured[package], "now": installed}
            return _("It was measured with %(package)s %(then)s; %(now)s is installed now.") % values
    for name in ("device", "dtype"):
        then, now = measured["revision"][name], card.get(name)
        if now and now != then:
            return _("It was measured on %(then)s, but the model is served on %(now)s.") % {
                "then": then,
                "now": now,
            }
    return ""


def _versions() -> dict[str, str]:
    """Of what is installed here; a web process without an engine has no torch, and says nothing of it."""
    found = {"pilothouse": console.__version__}
    for name in MEASURED_WITH:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
