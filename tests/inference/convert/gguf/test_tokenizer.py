"""A GGUF file's vocabulary reads text as the file says: its rule of splitting, its own tokens, its ends."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from inference.convert.gguf.header import CannotConvert, GgufHeader
from inference.convert.gguf.pretokenizers import RULES
from inference.convert.gguf.tokenizer import build_tokenizer
from inference.convert.gguf.vocabulary import end_token_ids
from inference.text.vocabulary import byte_level_alphabet

ALPHABET = sorted(byte_level_alphabet(), key=byte_level_alphabet().__getitem__)
NORMAL, CONTROL, USER_DEFINED = 1, 3, 4


def header(*added: tuple[str, int], pre: str | None = "smollm", **keys: Any) -> GgufHeader:
    """A byte-level vocabulary: ids 0..255 are the bytes, then "ĠĠ" and "12", then `added`."""
    tokens = [*ALPHABET, "ĠĠ", "12", *(token for token, _ in added)]
    found: dict[str, Any] = {
        "general.architecture": "llama",
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [NORMAL] * 258 + [kind for _, kind in added],
        "tokenizer.ggml.merges": ["Ġ Ġ", "1 2"],
    }
    if pre is not None:
        found["tokenizer.ggml.pre"] = pre
    found |= {f"tokenizer.ggml.{name}": value for name, value in keys.items()}
    return GgufHeader(found, {})


def pieces(rule: str, text: str) -> list[str]:
    """What merges cannot cross, with the bytes as characters again."""
    cut = RULES[rule].pre_tokenizer().pre_tokenize_str(text)
    return [text[start:end] for _, (start, end) in cut]


@pytest.mark.parametrize(
    ("rule", "expected"),
    {
        "smollm": ["y", " =", "    ", "5", "6", "7", "8", "\n", "'", "S"],
        "command-r": ["y", " =", "    ", "5", "6", "7", "8", "\n", "'", "S"],
        "gpt-2": ["y", " =", "   ", " 5678", "\n", "'", "S"],
        "llama-bpe": ["y", " =", "   ", " ", "567", "8", "\n", "'S"],
        "qwen2": ["y", " =", "   ", " ", "5", "6", "7", "8", "\n", "'S"],
        "tekken": ["y", " =", "   ", " ", "5", "6", "7", "8", "\n", "'S"],
        "gpt-4o": ["y", " =", "   ", " ", "567", "8", "\n", "'S"],
        "deepseek-v3": ["y", " =", "    ", "567", "8", "\n", "'S"],
        "falcon": ["y", " ", "=", "   ", " ", "567", "8", "\n", "'", "S"],
    }.items(),
)
def test_text_is_cut_by_the_rule_that_the_file_names(rule: str, expected: list[str]) -> None:
    text = "y =    5678\n'S"
    found = pieces(rule, text)
    assert "".join(found) == text
    assert found == expected


def test_numbers_are_not_joined_where_the_rule_takes_digits_alone() -> None:
    ids = {pre: encoded(build_tokenizer(header(pre=pre)), "12  12") for pre in ("smollm", "gpt-2")}
    one, two, space = ALPHABET.index("1"), ALPHABET.index("2"), ALPHABET.index("Ġ")
    assert ids["smollm"] == [one, two, 256, one, two]
    assert ids["gpt-2"] == [257, space, space, 257]


def encoded(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return ids


@pytest.mark.parametrize(
    ("made", "named"),
    [
        (header(pre="nobody-knows"), "'nobody-knows'"),
        (header(pre=None), r"does not say how .* splits text"),
        (header(model="rwkv"), "'rwkv'"),
        (header(model="t5"), "'t5'"),
        (header(model="bert"), "'bert'"),
        (header(merges=["x yz"]), "merges do not fit"),
        (header(eos_token_id=999), "eos_token_id is 999, the vocabulary has 258"),
        (header(token_type=[1]), "token_type does not fit"),
        (header(("ĠĠ", NORMAL)), "'ĠĠ' twice"),
        (header(tokens=[]), "no vocabulary"),
        (header(model="llama", merges=[]), "neither merges nor scores"),
    ],
)
def test_what_would_read_text_otherwise_is_refused_by_its_name(made: GgufHeader, named: str) -> None:
    with pytest.raises(CannotConvert, match=named):
        build_tokenizer(made)
        end_token_ids(made)


def test_a_pad_token_beyond_the_vocabulary_does_no_harm() -> None:
    assert build_tokenizer(header(padding_token_id=999)).pad_token is None


def test_the_vocabulary_has_the_files_tokens_and_no_others() -> None:
    tokenizer = build_tokenizer(header(("<｜end▁of▁text｜>", CONTROL), ("<tool>", USER_DEFINED)))  # noqa: RUF001
    assert len(tokenizer) == 260
    assert encoded(tokenizer, "a<｜end▁of▁text｜><tool>") == [ALPHABET.index("a"), 258, 259]  # noqa: RUF001
    assert tokenizer.added_tokens_decoder[258].special
    assert not tokenizer.added_tokens_decoder[259].special
    assert max(encoded(tokenizer, "<|endoftext|><bos><unk>")) < 258


def test_a_word_of_the_vocabulary_is_taken_whole_where_the_rule_says_so() -> None:
    made = header(("hi", NORMAL), pre="llama-bpe")
    assert encoded(build_tokenizer(made), "hi") == [258]
    assert len(encoded(build_tokenizer(header(("hi", NORMAL), pre="qwen2")), "hi")) == 2


@pytest.mark.parametrize(
    ("pre", "flag", "expected"),
    [("llama-bpe", None, True), ("llama-bpe", False, False), ("qwen2", None, False), ("qwen2", True, True)],
)
def test_a_text_begins_as_the_file_or_its_rule_says(pre: str, flag: bool | None, expected: bool) -> None:
    keys = {} if flag is None else {"add_bos_token": flag}
    tokenizer = build_tokenizer(header(("<s>", CONTROL), pre=pre, bos_token_id=258, **keys))
    assert (tokenizer.encode("a")[0] == 258) is expected


ENDS = [("<eos>", CONTROL), ("<turn-over>", CONTROL), ("<more>", CONTROL), ("<|im_end|>", CONTROL)]


def test_all_tokens_that_end_a_text_are_known() -> None:
    made = header(*ENDS, eos_token_id=258, eot_token_id=259, eom_token_id=260)
    assert end_token_ids(made) == [258, 259, 260, 261]
    assert end_token_ids(header(*ENDS, eos_token_id=258)) == [258, 261]
    assert end_token_ids(header(("<|im_end|>", NORMAL))) == []


def test_the_end_of_a_message_is_not_that_of_the_answer() -> None:
    harmony = [(f"<|{name}|>", CONTROL) for name in ("end", "return", "call")]
    assert end_token_ids(header(*harmony)) == [259, 260]
    assert end_token_ids(header(harmony[0])) == [258]


def sentencepiece(**keys: Any) -> PreTrainedTokenizerBase:
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "▁a", "ab"]
    found = {
        "general.architecture": keys.pop("architecture", "llama"),
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [*tokens, "   "],
        "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * 5 + [4],
        "tokenizer.ggml.scores": [0.0] * 259 + [-5.0, -6.0, -7.0, -1.0, -2.0, -9.0],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.unknown_token_id": 0,
    }
    return build_tokenizer(GgufHeader(found | {f"tokenizer.ggml.{k}": v for k, v in keys.items()}, {}))


def test_sentencepiece_merges_by_its_scores_and_begins_with_a_space() -> None:
    tokenizer = sentencepiece()
    assert encoded(tokenizer, "ab") == [262, 261]  # "▁a" before "ab", which scores less
    assert encoded(tokenizer, "é") == [259, 3 + 0xC3, 3 + 0xA9]
    assert tokenizer.encode("a")[0] == 1


def test_no_space_is_put_before_a_text_where_the_file_says_so() -> None:
    tokenizer = sentencepiece(add_space_prefix=False)
    assert encoded(tokenizer, "ab") == [263]
    assert tokenizer.decode([262, 261]) == " ab"


def test_gemmas_runs_of_spaces_are_tokens() -> None:
    tokenizer = sentencepiece(architecture="gemma3")
    assert tokenizer.convert_ids_to_tokens(264) == "▁▁▁"
    assert tokenizer.decode([260, 264, 261]) == "a   b"
