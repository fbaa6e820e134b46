"""What an engine's import brings is not looked through for garbage; what comes later is."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from inference import client
from inference.config import PlacementConfig


def test_imports_are_left_out_of_the_collection(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(client, "_current", None)
    gc.unfreeze()
    try:
        client.configure("tests.stub_engine.StubEngine", PlacementConfig(data_dir=tmp_path))
        assert gc.get_freeze_count() > 0 and gc.isenabled()
    finally:
        gc.unfreeze()
