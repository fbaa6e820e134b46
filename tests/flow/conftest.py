"""One running house for all flow tests that do not stop it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.flow.house import House

NARROW = {
    "CONNECTIONS_PER_ADDRESS": "40",
    "SOCKETS_PER_KEY": "3",
    "FRAMES_PER_SECOND": "50",
    "REQUEST_HEAD_SECONDS": "1.5",
    "REQUEST_BODY_SECONDS": "1.5",
    "STALL_SECONDS": "2",
}


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with House(tmp_path_factory.mktemp("house"), CORS_ORIGINS="https://app.example") as house:
        yield house


@pytest.fixture(scope="session")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A house whose bounds are reached with little."""
    with House(tmp_path_factory.mktemp("narrow"), **NARROW) as house:
        yield house
