"""One running house for all flow tests that do not stop it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.flow.house import House


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with House(tmp_path_factory.mktemp("house"), CORS_ORIGINS="https://app.example") as house:
        yield house
