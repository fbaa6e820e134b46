"""Random tensors are the same whatever ran before: the tests come in another order each time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from inference.execution import kept_choices


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _own_choices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured in a test is kept for that test alone."""
    monkeypatch.setattr(kept_choices, "cache_folder", lambda: tmp_path / "kept dtypes")
