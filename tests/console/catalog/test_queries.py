"""What the gateway asks: which names are served, and by which revisions."""

from __future__ import annotations

import pytest
from asgiref.sync import sync_to_async

from console.audit.actor import Actor
from console.catalog.queries import served_models, shares_of
from console.catalog.routes import set_shares
from tests.catalog_rows import make_revision, serve


@pytest.mark.django_db(transaction=True)
async def test_only_names_with_a_revision_are_served() -> None:
    def rows() -> None:
        serve("full", "full-1")
        make_revision("full", "full-2")
        set_shares(actor=Actor.person("test"), name="full", weights={"full-1": 30, "full-2": 70})
        serve("emptied", "emptied-1")
        set_shares(actor=Actor.person("test"), name="emptied", weights={})

    await sync_to_async(rows)()
    [served] = await served_models()
    assert (served.name, served.revision, served.shares) == ("full", "full-2", {"full-2": 70, "full-1": 30})
    assert await shares_of("full") == {"full-1": 30, "full-2": 70}
    assert await shares_of("emptied") == await shares_of("unknown") == {}
