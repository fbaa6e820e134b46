"""An engine that only tells a snapshot, in the place of the configured one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

import inference.client
from inference.protocol.stats import ModelCard, RevisionStats, Stats

CARD = ModelCard(
    revision="r1",
    architecture="LlamaForCausalLM",
    max_model_len=64,
    vocab_size=100,
    batching=True,
    quantization=None,
    dtype="float32",
    device="cpu",
    weight_bytes=1,
    has_chat_template=True,
)


@dataclass
class Telling:
    """What monitoring asks of an engine: `stats` and `models`."""

    snapshot: Stats
    cards: tuple[ModelCard, ...] = field(default=(CARD,))

    def stats(self) -> Stats:
        return self.snapshot

    def models(self) -> tuple[ModelCard, ...]:
        return self.cards


Configure = Callable[..., Telling]


@pytest.fixture
def engine_tells(monkeypatch: pytest.MonkeyPatch) -> Configure:
    """Makes the process's engine tell this snapshot."""

    def configure(*revisions: RevisionStats, is_draining: bool = False) -> Telling:
        engine = Telling(Stats(revisions=revisions, is_draining=is_draining))
        monkeypatch.setattr(inference.client, "_current", engine)
        return engine

    return configure


@pytest.fixture
def no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference.client, "_current", None)
