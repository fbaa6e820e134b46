"""The ledger's and the WebSocket's tests once more, on a real PostgreSQL and a real Redis."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.flow.gateway.test_ledger import (  # noqa: F401 - collected here with the fixture below
    test_a_budget_ends_a_stream_at_exactly_the_cap,
    test_a_failure_is_in_the_ledger_with_its_code,
    test_a_revoked_key_is_refused_with_its_next_request,
    test_every_door_leaves_the_same_row,
    test_the_row_is_there_before_the_last_chunk,
    test_who_leaves_at_token_five_pays_for_what_was_made_until_then,
)
from tests.flow.house import House
from tests.flow.websocket.test_websocket import (  # noqa: F401
    test_a_session_is_only_good_for_the_consoles_own_pages,
    test_of_two_streams_on_one_socket_one_is_cancelled_and_the_other_completes,
)
from tests.services import postgresql, redis

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with (
        postgresql() as database_url,
        redis() as redis_url,
        House(tmp_path_factory.mktemp("house"), DATABASE_URL=database_url, REDIS_URL=redis_url) as house,
    ):
        yield house
