"""Which engine settings are in play for a revision."""

from __future__ import annotations

from typing import Any

import pytest

from console.catalog.actions import spec
from console.certificates.status import numerics
from console.environment import environment
from tests.catalog_rows import make_revision

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def int8_with_its_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment(), "quantization", "int8")
    monkeypatch.setattr(environment(), "quantize_head", True)


@pytest.mark.parametrize(
    ("facts", "engine", "head"),
    [
        ({}, {}, True),
        ({}, {"quantize_head": False}, False),
        ({}, {"quantization": None}, False),
        ({"quantization": "pilothouse_int8"}, {}, False),
        ({"quantization": "gptq"}, {}, False),
        ({}, {"quantization": "int4"}, True),
    ],
)
def test_the_installations_quantized_head_is_for_what_is_quantized_while_loading(
    facts: dict[str, Any], engine: dict[str, Any], head: bool
) -> None:
    revision = make_revision("stub", "m", folder="nowhere/m", facts=facts, engine=engine)
    assert spec(revision).engine.quantize_head is head
    assert numerics(revision)["quantize_head"] is head


def test_a_revisions_own_word_is_not_dropped() -> None:
    """Where it is of no use it is refused when the revision loads, and not ignored."""
    facts, engine = {"quantization": "gptq"}, {"quantize_head": True}
    revision = make_revision("stub", "m", folder="nowhere/m", facts=facts, engine=engine)
    assert spec(revision).engine.quantize_head is True
