"""Families that are served one at a time, from a folder through import and load to `generate`'s tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PretrainedConfig

from inference.checkpoints.model_folder import NotServed, check_folder
from inference.checkpoints.model_kinds import PICTURES
from inference.config import EngineConfig, RevisionSpec
from inference.convert.load_trial import trial_facts
from inference.execution.kv_cache import token_bytes
from inference.execution.sequential.engine import SequentialEngine
from inference.models.generator import model_class
from inference.models.loader import load_model
from inference.protocol.events import Event, Finish
from inference.protocol.requests import GenerateRequest, Owner, Sampling
from tests.inference import tiny
from tests.inference.golden.other_families import OF_IMAGES, OF_TEXT

NUM_TOKENS = 12
CONFIG = EngineConfig(device="cpu", dtype="float32")
CONTEXTS = {"bloom": (256, None), "mpt": (384, None), "mamba": (4096, "assumed")}


def random_model(config: PretrainedConfig) -> Any:
    torch.manual_seed(0)
    model = model_class(config).from_config(config, attn_implementation="eager", dtype=torch.float32)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(0, 0.2)
    return model.eval()


def written(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    tiny.tiny_tokenizer().save_pretrained(folder)
    return folder


def greedy(engine: SequentialEngine, prompt: list[int]) -> list[int]:
    events: list[Event] = []
    sampling = Sampling(temperature=0.0, max_tokens=NUM_TOKENS, ignore_eos=True)
    request = GenerateRequest("r", "tiny", tuple(prompt), Owner(id="o", salt="s"), sampling)
    engine.submit(request, events.append)
    while engine.has_work:
        engine.step()
    assert isinstance(events[-1], Finish) and events[-1].error is None, events[-1]
    return [token_id for event in events if not isinstance(event, Finish) for token_id in event.token_ids]


@pytest.mark.parametrize("name", [*OF_IMAGES, *OF_TEXT])
def test_a_family_is_imported_loaded_and_says_what_generate_says(name: str, tmp_path: Path) -> None:
    model = random_model((OF_IMAGES | OF_TEXT)[name]())
    folder = written(model, tmp_path / "model")
    check_folder(folder)
    found = trial_facts(folder)
    assert found.get("is_text_of_images", False) == (name in OF_IMAGES)
    length, source = CONTEXTS.get(name, (512, None))
    assert (found["max_model_len"], found.get("context_from")) == (length, source)
    loaded = load_model(folder, CONFIG)
    assert loaded.max_model_len == length and not loaded.batching
    assert ("max_model_len sets another length" in loaded.card("r").note) == (source is not None)
    engine = SequentialEngine(loaded, RevisionSpec("tiny", folder, CONFIG))
    prompt = tiny.prompt(20)
    assert greedy(engine, prompt) == tiny.generated(model, prompt, NUM_TOKENS)
    engine.close()


def test_memory_of_heads_that_differ_by_layer_is_added_up() -> None:
    config = OF_TEXT["gemma4_text"]()
    per_layer = [16 if kind == "sliding_attention" else 32 for kind in config.layer_types]
    assert token_bytes(config, dtype=torch.float32) == sum(2 * 2 * head_dim * 4 for head_dim in per_layer)
    assert len(set(per_layer)) == 2


def test_a_context_that_was_assumed_may_be_set_longer(tmp_path: Path) -> None:
    folder = written(random_model(OF_TEXT["mamba"]()), tmp_path / "model")
    loaded = load_model(folder, EngineConfig(device="cpu", dtype="float32", max_model_len=9000))
    assert loaded.max_model_len == 9000 and "max_model_len sets" not in loaded.card("r").note


def test_a_model_that_needs_a_picture_is_refused_by_its_kind(tmp_path: Path) -> None:
    from transformers import BlipConfig

    config = BlipConfig()
    config.save_pretrained(tmp_path)
    with pytest.raises(NotServed, match=PICTURES):
        model_class(config)


def test_a_model_of_images_lists_no_names_of_other_models(tmp_path: Path) -> None:
    folder = written(random_model(OF_IMAGES["llava"]()), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "clip", "architectures": []}))
    with pytest.raises(NotServed) as refused:
        check_folder(folder)
    assert "Config" not in refused.value.message
