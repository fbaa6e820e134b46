"""What a model's own files say of its context, its sampling and its chat template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from inference.checkpoints.context_length import ASSUMED, context_length
from inference.checkpoints.model_folder import CannotLoad, check_folder
from inference.checkpoints.sampling_defaults import sampling_defaults
from inference.config import EngineConfig
from inference.models.loader import load_model
from inference.text.tokenizer import load_tokenizer
from tests.inference.convert.hostile import model_folder

NO_LIMIT = 1000000000000000019884624838656  # what tokenizers write
CONFIG = EngineConfig(device="cpu", dtype="float32")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return model_folder(tmp_path / "model")


def change(path: Path, **values: Any) -> None:
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(content | values))


@pytest.mark.parametrize(
    ("config", "tokenizer", "tokens", "source"),
    [
        ({"max_position_embeddings": 512, "seq_length": 9}, {"model_max_length": 7}, 512, "config"),
        ({"n_positions": 1024}, {}, 1024, "config"),
        ({"max_seq_len": 2048}, {}, 2048, "config"),
        ({"seq_length": 300}, {}, 300, "config"),
        ({"max_sequence_length": 77}, {}, 77, "config"),
        ({"model_max_length": 99}, {}, 99, "config"),
        ({"max_position_embeddings": None, "n_ctx": 64}, {}, 64, "config"),
        ({"rope_scaling": {"original_max_position_embeddings": 64, "factor": 8.0}}, {}, 512, "config"),
        ({}, {"model_max_length": 2048}, 2048, "tokenizer"),
        ({}, {"model_max_length": NO_LIMIT}, ASSUMED, "assumed"),
        ({"n_ctx": True, "seq_length": -5}, {"model_max_length": "long"}, ASSUMED, "assumed"),
    ],
)
def test_the_context_is_found_by_whichever_name(
    config: dict[str, Any], tokenizer: dict[str, Any], tokens: int, source: str
) -> None:
    found = context_length(config, tokenizer)
    assert (found.tokens, found.source) == (tokens, source)
    assert (str(tokens) in found.remark) == (source != "config")


@pytest.mark.parametrize(
    ("said", "taken"),
    [
        ({"temperature": 0.6, "top_k": 20, "top_p": 0.95}, {"temperature": 0.6, "top_k": 20, "top_p": 0.95}),
        ({"top_k": 64, "do_sample": False}, {"top_k": 64}),
        ({"top_k": -1, "top_p": 1.0, "temperature": 1.0}, {}),
        ({"repetition_penalty": 1.1, "min_p": 0.05}, {"repetition_penalty": 1.1, "min_p": 0.05}),
        ({"temperature": 5, "top_p": "high", "top_k": 2.5, "min_p": True, "repetition_penalty": None}, {}),
        ({"temperature": 0.0, "max_new_tokens": 5, "eos_token_id": 3}, {"temperature": 0.0}),
    ],
)
def test_sampling_is_taken_where_it_is_sound(said: dict[str, Any], taken: dict[str, float]) -> None:
    assert sampling_defaults(said) == taken


def test_a_loaded_model_knows_its_own_sampling_unless_its_settings_say_otherwise(folder: Path) -> None:
    change(folder / "generation_config.json", temperature=0.25, top_k=7, do_sample=True)
    loaded = load_model(folder, CONFIG)
    assert loaded.sampling == loaded.card("r").sampling == {"temperature": 0.25, "top_k": 7}
    openai = EngineConfig(device="cpu", dtype="float32", sampling_defaults="openai")
    assert load_model(folder, openai).sampling == {}


@pytest.mark.parametrize("name", ["chat_template.json", "processor_config.json"])
def test_a_template_of_the_processor_is_read(name: str, folder: Path) -> None:
    change(folder / name, chat_template="{{ messages[0].content }}!")
    assert name in check_folder(folder)
    assert load_tokenizer(folder).chat_template == "{{ messages[0].content }}!"


def test_the_tokenizers_own_template_comes_first(folder: Path) -> None:
    change(folder / "chat_template.json", chat_template="theirs")
    change(folder / "tokenizer_config.json", chat_template="its own")
    assert load_tokenizer(folder).chat_template == "its own"


def test_a_tokenizer_that_cannot_be_read_is_refused_in_words_of_ours(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(b"IQ== 0\nIg== 1\n")  # tiktoken's form
    with pytest.raises(CannotLoad, match=r"cannot read the tokenizer.*take tokenizer\.json"):
        load_model(folder, CONFIG)


def test_a_tokenizer_of_mistral_alone_is_named(folder: Path) -> None:
    (folder / "tokenizer.json").rename(folder / "tekken.json")
    with pytest.raises(CannotLoad, match=r"tekken\.json alone is not read"):
        check_folder(folder)
