"""Rows of the catalog that tests start from, without files and without an engine."""

from __future__ import annotations

from typing import Any

from console.audit.actor import Actor
from console.catalog.models import Deployment, Revision, ServedModel
from console.catalog.routes import set_shares


def make_revision(model: str = "stub", revision: str = "stub-1", **columns: Any) -> Revision:
    """A revision of a model that is made where there is none; wanted by nobody, loaded nowhere."""
    served, _ = ServedModel.objects.get_or_create(name=model)
    defaults = {"folder": model, "source": "test", "files": {}} | columns
    made, _ = Revision.objects.get_or_create(id=revision, defaults={"model": served, **defaults})
    Deployment.objects.get_or_create(revision=made)
    return made


def serve(name: str = "stub", revision: str = "stub-1", **columns: Any) -> Revision:
    """A revision that alone answers to `name`."""
    made = make_revision(name, revision, **columns)
    set_shares(actor=Actor.person("test"), name=name, weights={revision: 100})
    return made
