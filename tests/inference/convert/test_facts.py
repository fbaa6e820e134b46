"""What a folder says of itself: the figures of the model that lies there, and its licence where named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from inference.checkpoints.model_folder import check_folder
from inference.convert.facts import facts, licence
from tests.inference.convert.hostile import model_folder
from tests.inference.tiny import tiny_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return model_folder(tmp_path / "model")


def told(folder: Path, **changes: Any) -> dict[str, Any]:
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))
    return facts(folder, check_folder(folder))


def test_the_figures_are_those_of_the_model(folder: Path) -> None:
    model = tiny_model("llama")
    config, cache = model.config, told(folder)
    stored = {tensor.data_ptr(): tensor for tensor in model.state_dict().values()}.values()
    assert cache["num_parameters"] == sum(tensor.numel() for tensor in stored)
    assert cache["weight_bytes"] == sum(tensor.numel() * tensor.element_size() for tensor in stored)
    head_dim = config.head_dim or config.hidden_size // config.num_attention_heads
    elements = config.num_hidden_layers * 2 * config.num_key_value_heads * head_dim
    assert cache["kv_bytes_per_token"] == 2 * elements
    assert (cache["architecture"], cache["model_type"]) == ("LlamaForCausalLM", "llama")
    assert cache["max_model_len"] == config.max_position_embeddings
    assert cache["dtype"] == str(model.dtype).removeprefix("torch.")
    assert not {"quantization", "licence", "commit"} & cache.keys()


def test_what_the_config_leaves_open_is_read_from_the_weights_or_absent(folder: Path) -> None:
    found = told(folder, dtype=None, torch_dtype=None, max_position_embeddings=None, architectures=None)
    assert found["dtype"] == "float32"
    assert not {"max_model_len", "architecture"} & found.keys()


def test_a_model_in_parts_tells_of_its_language_model(folder: Path) -> None:
    text = {
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "hidden_size": 32,
        "max_position_embeddings": 99,
    }
    found = told(folder, text_config=text)
    assert (found["kv_bytes_per_token"], found["max_model_len"]) == (3 * 2 * 4 * 8 * 2, 99)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("README.md", "---\nlanguage: en\nlicense: Apache-2.0\n---\n# x", "apache-2.0"),
        ("README.md", "---\nlicense: 'llama3.2'\n---\n", "llama3.2"),
        ("README.md", "# x\nlicense: mit\n", None),
        ("LICENSE", "\n        Apache License\n   Version 2.0, January 2004", "apache-2.0"),
        ("LICENSE.txt", "MIT License\n\nCopyright", "mit"),
        ("LICENSE", "All rights reserved", None),
    ],
)
def test_the_licence_is_read_where_it_is_named(
    name: str, content: str, expected: str | None, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content)
    assert licence(tmp_path) == expected


def test_a_link_is_not_followed_for_a_licence(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("MIT License")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "LICENSE").symlink_to(tmp_path / "elsewhere")
    assert licence(folder) is None
