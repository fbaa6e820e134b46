"""A folder of random weights is written whole, and its load is timed from the start of the process."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from inference.benchmark import folders, load, page_cache, shapes
from inference.checkpoints.model_folder import INDEX
from inference.config import EngineConfig
from inference.models.loader import load_model

SHAPE = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": False,
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(shapes.SHAPES, "small", SHAPE)
    monkeypatch.setattr(folders, "SHARD_BYTES", 40_000)
    monkeypatch.setattr(folders, "NUM_DRAWN", 1000)
    assert folders.write_folder("small", tmp_path)
    return tmp_path


def test_a_written_folder_loads_and_holds_every_weight(folder: Path) -> None:
    assert len(folders.weight_files(folder)) > 1
    loaded = load_model(folder, EngineConfig(device="cpu", dtype="bfloat16"))
    for name, parameter in loaded.model.named_parameters():
        if "norm" in name:
            assert torch.all(parameter == 1)
        else:
            assert 0.9 * shapes.SPREAD < parameter.abs().max() <= shapes.SPREAD
    assert loaded.eos_token_ids == ()


def test_a_folder_is_written_once_and_again_where_it_was_cut_short(folder: Path) -> None:
    assert not folders.write_folder("small", folder)
    (folder / INDEX).unlink()
    assert folders.write_folder("small", folder)


def test_dropped_files_are_not_in_memory(folder: Path) -> None:
    files = folders.weight_files(folder)
    for path in files:
        path.read_bytes()
    assert page_cache.resident_share(files) == 1.0
    page_cache.drop(files)
    assert page_cache.resident_share(files) in (0.0, 1.0)  # file systems in memory keep them


def test_stages_last_until_the_next_begins() -> None:
    events = [
        {"stage": "importing", "at": 11.0},
        {"stage": "reading weights", "at": 14.0},
        {"stage": "reading weights", "at": 15.0},
        {"stage": "answered", "at": 17.5},
    ]
    assert load.stage_seconds(10.0, events) == {"starting": 1.0, "importing": 3.0, "reading weights": 3.5}


@pytest.mark.slow
def test_a_load_is_timed_to_the_first_answer(folder: Path) -> None:
    settings = {"device": "cpu", "dtype": "float32", "num_blocks": 64, "max_model_len": 256}
    report = load.measure_load(folder, settings, is_cold=True)
    assert report["ready_seconds"] == pytest.approx(sum(report["seconds"].values()), abs=0.05)
    assert {"importing", "reading weights", "warming up"} <= report["seconds"].keys()
    assert report["bytes_per_second"] > 0
    with pytest.raises(SystemExit, match="the load failed"):
        load.measure_load(folder, settings | {"num_blocks": 0}, is_cold=False)
