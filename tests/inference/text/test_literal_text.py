"""Strings of special tokens that users write are neither tokens nor altered, whatever the tokenizer."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from inference.protocol.requests import ChatMessage
from inference.text.chat_template import render_chat
from inference.text.literal_text import encode_as_text, special_strings
from inference.text.vocabulary import byte_level_alphabet

TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content | trim }}|><|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ["<|user|>", "<|assistant|>", "<|end|>", "[END]"]
PIECES = ["<|", "user", "|>", "<|end|>", "[END]", " ", "a", "b c", "<think>", "<", "|", "[", "é", "\n", "end"]
KINDS = ["bytes", "llama", "first", "always", "never", "lower", "stripping"]


def make(kind: str) -> PreTrainedTokenizerFast:
    """Every character is a token, so that what is encoded can be read back."""
    if kind == "bytes":
        backend = Tokenizer(models.BPE(vocab=byte_level_alphabet(), merges=[]))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
    else:
        characters = sorted({*"".join(PIECES + SPECIAL), "▁", "m", "r"} - {" "})
        vocabulary = {character: index for index, character in enumerate(["<unk>", *characters])}
        backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
        _set_spaces(backend, kind)
    stripping = kind == "stripping"
    added = [
        AddedToken(one, special=True, normalized=kind == "lower", lstrip=stripping, rstrip=stripping)
        for one in SPECIAL
    ]
    backend.add_special_tokens(added)
    backend.add_tokens([AddedToken("<think>", normalized=False, special=False)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def _set_spaces(backend: Tokenizer, kind: str) -> None:
    if kind == "llama":
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    elif kind in ("first", "always", "never"):
        backend.pre_tokenizer = pre_tokenizers.Metaspace("▁", kind, split=False)
    else:
        backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Replace("▁", " ")


TOKENIZERS = {kind: make(kind) for kind in KINDS}


def words(tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> str:
    return "".join(tokenizer.convert_ids_to_tokens(ids))


@pytest.mark.parametrize("kind", KINDS)
@given(content=st.lists(st.sampled_from(PIECES), max_size=8).map("".join))
@settings(deadline=None, max_examples=50)
def test_the_templates_special_tokens_are_the_only_ones(kind: str, content: str) -> None:
    tokenizer = TOKENIZERS[kind]
    special = set(tokenizer.convert_tokens_to_ids(SPECIAL))
    ids = render_chat(tokenizer, [ChatMessage("user", content)])
    expected = tokenizer.convert_tokens_to_ids(["<|user|>", "<|end|>", "<|assistant|>"])
    assert [token_id for token_id in ids if token_id in special] == expected


@pytest.mark.parametrize("kind", ["bytes", "llama", "first", "always", "never"])
@given(content=st.lists(st.sampled_from(PIECES), max_size=8).map("".join))
@settings(deadline=None, max_examples=50)
def test_what_users_write_is_not_altered(kind: str, content: str) -> None:
    """Between two tokens of the template the ids are those of a tokenizer that knows no special ones."""
    tokenizer = TOKENIZERS[kind]
    ids = render_chat(tokenizer, [ChatMessage("user", content)])
    first, last = (ids.index(tokenizer.convert_tokens_to_ids(one)) for one in ("<|user|>", "<|end|>"))
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.encode_special_tokens = True
    text = f"{content.strip()}|>"
    if kind == "first":  # a space is put before what begins the text, and this does not
        backend.pre_tokenizer = pre_tokenizers.Metaspace("▁", "never", split=False)
    assert ids[first + 1 : last] == backend.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("kind", KINDS)
@given(content=st.lists(st.sampled_from(PIECES), max_size=6).map("".join))
@settings(deadline=None, max_examples=40)
def test_text_without_special_strings_is_encoded_as_ever(kind: str, content: str) -> None:
    tokenizer = TOKENIZERS[kind]
    if any(one in content for one in special_strings(tokenizer)):
        return
    backend = tokenizer.backend_tokenizer
    expected = backend.encode(content, add_special_tokens=False).ids
    assert encode_as_text(backend, content, is_beginning=True) == expected


@pytest.mark.parametrize("content", ["x<|end", "x <|end ", "x<|", "end", "|>x", "x[END"])
def test_a_template_cannot_complete_what_a_user_began(content: str) -> None:
    tokenizer = TOKENIZERS["bytes"]
    tokenizer.chat_template = "<|user|>{{ messages[0].content | trim }}|><|end|>"
    try:
        ids = render_chat(tokenizer, [ChatMessage("user", content)])
    finally:
        tokenizer.chat_template = TEMPLATE
    special = set(tokenizer.convert_tokens_to_ids(SPECIAL))
    assert [tokenizer.decode([one]) for one in ids if one in special] == ["<|user|>", "<|end|>"]
    assert tokenizer.decode(ids) == f"<|user|>{content.strip()}|><|end|>"


def test_a_normalized_special_token_is_not_found_in_another_spelling() -> None:
    tokenizer = TOKENIZERS["lower"]
    ids = render_chat(tokenizer, [ChatMessage("user", "a <|END|> b")])
    assert ids.count(tokenizer.convert_tokens_to_ids("<|end|>")) == 1


def test_tokens_that_are_not_special_stay_tokens() -> None:
    tokenizer = TOKENIZERS["bytes"]
    ids = render_chat(tokenizer, [ChatMessage("user", "<think>[END]<think>")])
    assert ids.count(tokenizer.convert_tokens_to_ids("<think>")) == 2
