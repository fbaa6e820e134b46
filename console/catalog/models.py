"""What can be served: models, their immutable revisions, the routes that lead there, and what is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

from django.conf import settings
from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models
from django.utils.translation import gettext_lazy as _

PUBLIC_NAME = RegexValidator(
    r"^[a-z0-9][a-z0-9._-]{0,63}\Z", "A model's name is 1 to 64 of a-z, 0-9, '.', '_' and '-', no sign first."
)


class ImmutableRevision(TypeError):
    """Somebody tried to change or delete a revision; make a new one instead."""


class ServedModel(models.Model):
    """A line of revisions: the same model imported, quantized and set up again and again."""

    name = models.CharField(max_length=64, unique=True, validators=[PUBLIC_NAME])
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class RevisionQuerySet(models.QuerySet["Revision"]):
    """Revisions are written once, in bulk as one by one."""

    def update(self, **values: Any) -> NoReturn:
        raise ImmutableRevision("revisions do not change")

    def delete(self) -> NoReturn:
        raise ImmutableRevision("revisions are not deleted")


class CertificateQuerySet(models.QuerySet["Certificate"]):
    """Certificates, too."""

    def update(self, **values: Any) -> NoReturn:
        raise ImmutableRevision("certificates do not change")

    def delete(self) -> NoReturn:
        raise ImmutableRevision("certificates are not deleted")


class Revision(models.Model):
    """Files with their hashes, and the engine settings they run with. The database refuses changes, too."""

    id = models.CharField(primary_key=True, max_length=96)  # the model's name, a digest of files and engine
    model = models.ForeignKey(ServedModel, on_delete=models.PROTECT, related_name="revisions")
    # What it was made from by quantizing or by other settings; None: an original.
    parent = models.ForeignKey("self", on_delete=models.PROTECT, null=True, related_name="children")
    folder = models.CharField(max_length=4096)  # relative to DATA_DIR where it lies inside
    source = models.CharField(max_length=4096)  # where the files came from, for people
    files = models.JSONField()  # name -> {"sha256", "size"}
    engine = models.JSONField(default=dict)  # fields of EngineConfig that differ from the installation's
    facts = models.JSONField(default=dict)  # what the files say of themselves: inference/convert/facts.py
    created_at = models.DateTimeField(auto_now_add=True)

    objects = RevisionQuerySet.as_manager()

    class Meta:
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return self.id

    def save(self, *args: Any, **kwargs: Any) -> None:
        if not self._state.adding:
            raise ImmutableRevision(f"revision {self.id} does not change")
        super().save(*args, **{**kwargs, "force_insert": True})

    def delete(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise ImmutableRevision(f"revision {self.id} is not deleted")

    @property
    def path(self) -> Path:
        return Path(settings.DATA_DIR) / self.folder

    @property
    def num_bytes(self) -> int:
        """Of all its files, on disk."""
        return sum(file["size"] for file in self.files.values())


class Route(models.Model):
    """A public name that callers ask for. Its arms' weights sum to 100; without arms it answers 404."""

    name = models.CharField(max_length=64, unique=True, validators=[PUBLIC_NAME])
    version = models.PositiveIntegerField(default=0)  # grows with every change: of two racing ones, one wins
    created_at = models.DateTimeField(auto_now_add=True)
    changed_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class Arm(models.Model):
    """A revision and the share of a route's traffic that it answers, in percent."""

    route = models.ForeignKey(Route, on_delete=models.CASCADE, related_name="arms")
    revision = models.ForeignKey(Revision, on_delete=models.PROTECT, related_name="arms")
    weight = models.PositiveSmallIntegerField(validators=[MinValueValidator(0), MaxValueValidator(100)])

    class Meta:
        ordering = ["id"]
        constraints = [models.UniqueConstraint(fields=["route", "revision"], name="one_arm_per_revision")]


class Deployment(models.Model):
    """A revision's place in memory: what people want (desired), and what the reconciler found (observed)."""

    class Wanted(models.TextChoices):
        LOADED = "loaded", _("loaded")
        UNLOADED = "unloaded", _("unloaded")

    class State(models.TextChoices):
        ABSENT = "absent", _("not loaded")
        WAITING = "waiting", _("waits for memory")
        LOADING = "loading", _("loading")
        READY = "ready", _("ready")
        UNLOADING = "unloading", _("unloading")
        FAILED = "failed", _("failed")

    revision = models.OneToOneField(
        Revision, on_delete=models.PROTECT, primary_key=True, related_name="deployment"
    )
    # Desired: written by actions alone.
    wanted = models.CharField(max_length=8, choices=Wanted.choices, default=Wanted.UNLOADED)
    is_pinned = models.BooleanField(default=False)  # stays: neither idleness nor another's need unloads it
    is_forced = models.BooleanField(default=False)  # the only one served while it lasts; others answer 400
    idle_seconds = models.PositiveIntegerField(null=True)  # None: the installation's; 0: never for idleness
    files_deleted_at = models.DateTimeField(null=True)  # from then on it cannot be loaded any more
    # Observed: written by the reconciler alone.
    state = models.CharField(max_length=9, choices=State.choices, default=State.ABSENT)
    stage = models.CharField(max_length=80, blank=True)  # of a load
    fraction = models.FloatField(default=0.0)  # of a load, 0 to 1
    reason = models.TextField(blank=True)  # why it waits, failed or was unloaded
    failure = models.CharField(max_length=8, blank=True)  # catalog/failure.py; until a load succeeds
    state_at = models.DateTimeField(auto_now_add=True)  # since when it is in this state
    card = models.JSONField(default=dict)  # the engine's ModelCard of the last load
    memory_bytes = models.BigIntegerField(null=True)  # measured at the last load: weights and KV pool
    load_seconds = models.FloatField(null=True)  # how long the last load took
    last_used_at = models.DateTimeField(null=True)  # the last request that it was chosen for

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["is_forced"], condition=models.Q(is_forced=True), name="one_forced_revision"
            )
        ]


class ReconcilerLease(models.Model):
    """One row: the server that loads and unloads, until when unless it says so again, and on what device."""

    server = models.CharField(max_length=64, blank=True)  # its process lease
    expires_at = models.DateTimeField(null=True)
    device = models.JSONField(default=dict)  # `Device` of the engine, for those without one


class Certificate(models.Model):
    """What a revision loses against its parent, measured through the serving kernels. Written once.

    It counts for these very files, measured with this corpus by this code: `catalog/certificates.py`.
    """

    revision = models.ForeignKey(Revision, on_delete=models.PROTECT, related_name="certificates")
    parent = models.ForeignKey(Revision, on_delete=models.PROTECT, related_name="+")
    files_digest = models.CharField(max_length=64)  # SHA-256 over the revision's manifest
    parent_digest = models.CharField(max_length=64)
    corpus_digest = models.CharField(max_length=64)
    measured_by = models.JSONField()  # versions and device that the figures depend on
    figures = models.JSONField()  # sizes, perplexity, top-1 agreement, KL, layers: catalog/certificates.py
    thresholds = models.JSONField()  # what the figures had to reach
    has_passed = models.BooleanField()
    created_at = models.DateTimeField(auto_now_add=True)

    objects = CertificateQuerySet.as_manager()

    class Meta:
        ordering = ["-created_at"]

    def save(self, *args: Any, **kwargs: Any) -> None:
        if not self._state.adding:
            raise ImmutableRevision("a certificate does not change")
        super().save(*args, **{**kwargs, "force_insert": True})

    def delete(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise ImmutableRevision("a certificate is not deleted")


class FileCheck(models.Model):
    """How a revision's files looked when their hashes were last compared: `catalog/file_check.py`."""

    revision = models.OneToOneField(
        Revision, on_delete=models.PROTECT, primary_key=True, related_name="file_check"
    )
    looks = models.JSONField(default=dict)  # name -> size, times and inode, as the file system tells them
    altered = models.CharField(max_length=255, blank=True)  # the first file that was not what was registered
    checked_at = models.DateTimeField(auto_now=True)
