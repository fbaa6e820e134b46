"""A folder is loaded from safetensors alone, as the settings say, or refused with the reason."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

from inference.attention import base
from inference.checkpoints.model_folder import CannotLoad
from inference.config import EngineConfig
from inference.fused.weight_layout import transpose_linear_weights
from inference.models.loader import load_model
from inference.protocol.stats import LoadProgress
from tests.inference import tiny

CONFIG = EngineConfig(device="cpu", dtype="float32")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny.tiny_model("qwen3").save_pretrained(tmp_path)
    tiny.tiny_tokenizer().save_pretrained(tmp_path)
    return tmp_path


def edit(path: Path, **values: object) -> None:
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(content | values))


@pytest.mark.parametrize(
    ("generation", "config", "expected"),
    [
        ({"eos_token_id": 0}, {"eos_token_id": 2}, (0, 2, 257)),
        ({"eos_token_id": [7, 5]}, {"eos_token_id": None}, (7, 5, 257)),
        ({"eos_token_id": 257}, {"eos_token_id": [257, 3]}, (257, 3)),
        (None, {"eos_token_id": 3}, (3, 257)),
        (None, {"eos_token_id": None}, (257,)),
    ],
)
def test_every_end_that_any_file_names_ends_a_text(
    folder: Path,
    generation: dict[str, object] | None,
    config: dict[str, object],
    expected: tuple[int, ...],
) -> None:
    (folder / "generation_config.json").unlink(missing_ok=True)
    if generation is not None:
        edit(folder / "generation_config.json", **generation)
    edit(folder / "config.json", **config)
    assert load_model(folder, CONFIG).eos_token_ids == expected


def test_a_folder_is_loaded_and_described(folder: Path) -> None:
    stages: list[LoadProgress] = []
    loaded = load_model(folder, CONFIG, stages.append)
    assert loaded.batching
    assert loaded.model.config._attn_implementation == base.NAME
    assert not loaded.model.training
    assert loaded.eos_token_ids == (257,)
    card = loaded.card("r1")
    assert (card.architecture, card.max_model_len, card.vocab_size) == ("Qwen3ForCausalLM", 512, 300)
    assert (card.dtype, card.device, card.batching, card.quantization) == ("float32", "cpu", True, None)
    assert card.weight_bytes == sum(p.numel() * 4 for p in loaded.model.parameters()) + sum(
        b.numel() * b.element_size() for b in loaded.model.buffers()
    )
    assert [stage.fraction for stage in stages] == sorted(stage.fraction for stage in stages)


def test_weights_are_those_of_the_file(folder: Path) -> None:
    loaded = load_model(folder, CONFIG)
    expected = tiny.tiny_model("qwen3").state_dict()
    for name, tensor in loaded.model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_dtype_and_context_follow_the_settings(folder: Path) -> None:
    loaded = load_model(folder, EngineConfig(device="cpu", dtype="bfloat16", max_model_len=100))
    assert loaded.model.dtype == loaded.dtype == torch.bfloat16
    assert loaded.max_model_len == 100


def test_auto_dtype_is_one_of_two_on_a_cpu(folder: Path) -> None:
    assert load_model(folder, EngineConfig(device="cpu")).dtype in (torch.float32, torch.bfloat16)


def test_batching_off_leaves_the_models_own_attention(folder: Path) -> None:
    loaded = load_model(folder, EngineConfig(device="cpu", dtype="float32", batching=False))
    assert not loaded.batching
    assert loaded.note == "batching is off"
    assert loaded.model.config._attn_implementation != base.NAME


def test_other_architectures_are_left_to_the_sequential_engine(tmp_path: Path) -> None:
    config = GPT2Config(vocab_size=300, n_embd=32, n_layer=1, n_head=2, n_positions=64)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    tiny.tiny_tokenizer().save_pretrained(tmp_path)
    loaded = load_model(tmp_path, CONFIG)
    assert not loaded.batching
    assert "GPT2LMHeadModel is not among the batched architectures" in loaded.card("r").note


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def remote_code(folder: Path) -> None:
    edit(folder / "config.json", model_type="own", auto_map={"AutoModelForCausalLM": "modeling.Model"})


def remote_tokenizer(folder: Path) -> None:
    edit(folder / "config.json", model_type="mistral3_own")
    edit(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["own.Tokenizer", None]})
    edit(folder / "tokenizer_config.json", tokenizer_class="OwnTokenizer")


def escaping_link(folder: Path) -> None:
    (folder / "added_tokens.json").symlink_to("/etc/hostname")


def escaping_shard(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    edit(folder / "model.safetensors.index.json", weight_map={"lm_head.weight": "../other.safetensors"})


def adapter(folder: Path) -> None:
    edit(folder / "adapter_config.json", base_model_name_or_path="somebody/else")


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def broken_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def list_config(folder: Path) -> None:
    (folder / "config.json").write_text("[]")


def truncated(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def incomplete(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def unknown_kind(folder: Path) -> None:
    edit(folder / "config.json", model_type="unheard_of")


def no_folder(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (pickled, "pytorch_model.bin and its like can carry code"),
        (remote_code, "config.json wants to run its own code"),
        (remote_tokenizer, "tokenizer_config.json wants to run its own code"),
        (escaping_link, "added_tokens.json is a link that leaves"),
        (escaping_shard, "other.safetensors"),
        (adapter, "adapter"),
        (no_config, "config.json is missing"),
        (broken_config, "config.json is not JSON"),
        (list_config, "config.json names no model_type"),
        (truncated, "model.safetensors: the tensors take"),
        (incomplete, "the weights lack model.layers.1.mlp.up_proj.weight"),
        (unknown_kind, r"not one that transformers [0-9.]+ knows"),
        (no_folder, "is not a folder"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_folder_that_cannot_be_trusted_is_refused(folder: Path, spoil: object, reason: str) -> None:
    assert callable(spoil)
    spoil(folder)
    with pytest.raises(CannotLoad, match=reason):
        load_model(folder, CONFIG)


def test_a_context_longer_than_the_models_is_refused(folder: Path) -> None:
    with pytest.raises(CannotLoad, match="own context holds 512"):
        load_model(folder, EngineConfig(device="cpu", max_model_len=513))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu_is_refused(folder: Path) -> None:
    with pytest.raises(CannotLoad, match="no NVIDIA GPU"):
        load_model(folder, EngineConfig(device="cuda"))


@pytest.fixture
def threads() -> Iterator[int]:
    before = torch.get_num_threads()
    yield before
    torch.set_num_threads(before)


def test_the_number_of_threads_is_set(folder: Path, threads: int) -> None:
    load_model(folder, EngineConfig(device="cpu", dtype="float32", num_threads=threads + 1))
    assert torch.get_num_threads() == threads + 1


def test_transposed_weights_are_the_same_and_stay_shared() -> None:
    model = tiny.tiny_model("llama")
    model.lm_head.weight = model.model.embed_tokens.weight
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert transpose_linear_weights(model) == 3 * 7 + 1
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.lm_head.weight.t().is_contiguous()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
