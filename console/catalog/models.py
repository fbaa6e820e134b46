"""What can be served: a public name, and the immutable revisions that it has had."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

from django.conf import settings
from django.core.validators import RegexValidator
from django.db import models

PUBLIC_NAME = RegexValidator(
    r"^[a-z0-9][a-z0-9._-]{0,63}\Z", "A model's name is 1 to 64 of a-z, 0-9, '.', '_' and '-', no sign first."
)


class ImmutableRevision(TypeError):
    """Somebody tried to change or delete a revision; make a new one instead."""


class ServedModel(models.Model):
    """A name that callers ask for, and the revision that answers to it now."""

    name = models.CharField(max_length=64, unique=True, validators=[PUBLIC_NAME])
    current = models.ForeignKey("Revision", on_delete=models.PROTECT, null=True, related_name="+")
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


class Revision(models.Model):
    """Files with their hashes, and the engine settings they run with. The database refuses changes, too."""

    id = models.CharField(primary_key=True, max_length=96)  # the model's name and a digest of all below
    model = models.ForeignKey(ServedModel, on_delete=models.PROTECT, related_name="revisions")
    folder = models.CharField(max_length=4096)  # relative to DATA_DIR where it lies inside
    source = models.CharField(max_length=4096)  # where the files came from, for people
    files = models.JSONField()  # name -> {"sha256", "size"}
    engine = models.JSONField(default=dict)  # fields of EngineConfig that differ from the installation's
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
