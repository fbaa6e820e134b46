"""What kind of model a folder holds, told by config.json and by what lies beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from inference.checkpoints import model_kinds
from inference.checkpoints.model_folder import CannotLoad, NotServed, UnsafeModel, check_folder
from inference.checkpoints.model_kinds import why_not_served
from inference.convert.hub.snapshot import NotAModel, RemoteFile, needed
from tests.inference.convert.hostile import model_folder

WRITES = [
    ("LlamaForCausalLM", "llama"),
    ("Qwen2MoeForCausalLM", "qwen2_moe"),
    ("GPT2LMHeadModel", "gpt2"),
    ("BertLMHeadModel", "bert"),
    ("BartForCausalLM", "bart"),
    ("InternLM3ForCausalLM", "llama"),
    ("Qwen2VLForConditionalGeneration", "qwen2_vl"),
    ("SmolVLMForConditionalGeneration", "smolvlm"),
    ("Mistral3ForConditionalGeneration", "mistral3"),
    ("", "qwen3"),
    ("", "gemma4"),
]
DOES_NOT = [
    ("BertModel", "bert", model_kinds.EMBEDDINGS),
    ("Qwen3Model", "qwen3", model_kinds.EMBEDDINGS),
    ("T5EncoderModel", "t5", model_kinds.EMBEDDINGS),
    ("ModernBertForMaskedLM", "modernbert", model_kinds.ENCODER),
    ("", "roberta", model_kinds.ENCODER),
    ("XLMRobertaForSequenceClassification", "xlm-roberta", model_kinds.CLASSIFIER),
    ("Qwen2ForRewardModel", "qwen2", model_kinds.CLASSIFIER),
    ("LlamaForTokenClassification", "llama", model_kinds.CLASSIFIER),
    ("T5ForConditionalGeneration", "t5", model_kinds.TRANSLATOR),
    ("MarianMTModel", "marian", model_kinds.TRANSLATOR),
    ("", "mbart", model_kinds.TRANSLATOR),
    ("Florence2ForConditionalGeneration", "florence2", model_kinds.TRANSLATOR),
    ("WhisperForConditionalGeneration", "whisper", model_kinds.SPEECH),
    ("Wav2Vec2ForCTC", "wav2vec2", model_kinds.SPEECH),
    ("VoxtralForConditionalGeneration", "voxtral", model_kinds.SPEECH),
    ("ViTForImageClassification", "vit", model_kinds.PICTURES),
]


def config(architecture: str, model_type: str) -> dict[str, Any]:
    is_decoder = {"is_encoder_decoder": False} if architecture == "BartForCausalLM" else {}
    return {"architectures": [architecture] if architecture else [], "model_type": model_type, **is_decoder}


@pytest.mark.parametrize(("architecture", "model_type"), WRITES)
def test_what_continues_texts_is_served(architecture: str, model_type: str) -> None:
    assert why_not_served(config(architecture, model_type)) == ""


@pytest.mark.parametrize(("architecture", "model_type", "kind"), DOES_NOT)
def test_what_does_something_else_is_named(architecture: str, model_type: str, kind: str) -> None:
    assert why_not_served(config(architecture, model_type)) == kind


@pytest.mark.parametrize("beside", sorted(model_kinds.VECTORS))
def test_a_language_model_that_was_made_to_embed_is_told_by_what_lies_beside_it(beside: str) -> None:
    assert (
        why_not_served(config("Qwen3ForCausalLM", "qwen3"), ["model.safetensors", beside])
        == model_kinds.EMBEDDINGS
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return model_folder(tmp_path / "model")


def change(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_folder_of_a_kind_that_is_not_served_says_which_and_no_symptom(folder: Path) -> None:
    change(folder, architectures=["LlamaForSequenceClassification"])
    with pytest.raises(NotServed, match=r"LlamaForSequenceClassification.*classifier or reranker"):
        check_folder(folder)


@pytest.mark.parametrize(
    ("values", "name", "reason"),
    [
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "", "'gptq'"),
        ({"quantization_config": {"load_in_8bit": True}}, "", "does not name"),
        ({"compression_config": {"format": "pack-quantized"}}, "", "does not name"),
        ({"quantization": {"group_size": 64, "bits": 4}}, "", "MLX"),
        ({}, "hf_quant_config.json", "ModelOpt"),
    ],
)
def test_weights_that_others_quantized_are_told_by_every_sign_of_it(
    values: dict[str, Any], name: str, reason: str, folder: Path
) -> None:
    change(folder, **values)
    if name:
        (folder / name).write_text("{}")
    with pytest.raises(UnsafeModel, match=f"{reason}.*take the same model's float weights"):
        check_folder(folder)


def test_weights_packed_in_integers_are_refused_though_nothing_says_so(folder: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.down_proj.weight"
    tensors[name] = torch.zeros(48, 8, dtype=torch.uint8)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "mlx"})
    with pytest.raises(UnsafeModel, match=f"{name} holds integers, U8"):
        check_folder(folder)


def test_an_adapter_without_a_model_says_how_to_merge_it(folder: Path) -> None:
    (folder / "config.json").rename(folder / "adapter_config.json")
    with pytest.raises(UnsafeModel, match=r"adapter.*merge_and_unload"):
        check_folder(folder)


def test_a_model_type_that_transformers_lacks_is_refused_in_words_of_ours(folder: Path) -> None:
    from inference.convert.load_trial import trial_facts

    change(folder, model_type="from_tomorrow", architectures=["FromTomorrow"])
    check_folder(folder)
    with pytest.raises(CannotLoad, match="newer transformers") as refused:
        trial_facts(folder)
    assert "pip install" not in refused.value.message


def remote(*names: str) -> list[RemoteFile]:
    return [RemoteFile(name, f"http://hub/{name}", 10) for name in names]


@pytest.mark.parametrize("name", ["modules.json", "1_Pooling/config.json", "model_index.json"])
def test_a_repository_is_refused_by_its_list_of_files_before_any_is_fetched(name: str) -> None:
    with pytest.raises(NotAModel, match="not served"):
        needed(remote("config.json", "model.safetensors", "tokenizer.json", name))


def test_of_a_repository_only_what_serving_reads_is_fetched() -> None:
    names = ["config.json", "model.safetensors", "tokenizer.json", "README.md"]
    others = ["trainer_state.json", "requirements.txt", "optimizer.pt", "model.safetensors.index.json"]
    assert {one.name for one in needed(remote(*names, *others))} == set(names)
