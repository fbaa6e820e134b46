"""What the gateway asks: which names are served, and by which revision."""

from __future__ import annotations

import pytest

from console.catalog.models import Revision, ServedModel
from console.catalog.queries import revision_for, served_models


@pytest.mark.django_db(transaction=True)
async def test_only_names_with_a_revision_are_served() -> None:
    await ServedModel.objects.acreate(name="empty")
    served = await ServedModel.objects.acreate(name="full")
    served.current = await Revision.objects.acreate(
        id="full-1", model=served, folder="x", source="y", files={}
    )
    await served.asave()
    assert [(found.name, found.revision) for found in await served_models()] == [("full", "full-1")]
    assert await revision_for("full") == "full-1"
    assert await revision_for("empty") is None
    assert await revision_for("unknown") is None
