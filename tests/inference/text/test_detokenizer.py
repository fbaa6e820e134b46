"""Text comes out in whole characters, ends at stop strings, and adds up to what the tokenizer says."""

from __future__ import annotations

import codecs
import itertools
import random
from functools import partial
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from inference.protocol.requests import Sampling
from inference.text.detokenizer import StreamDetokenizer
from inference.text.tokenizer import load_tokenizer
from inference.text.vocabulary import TokenBytes
from tests.inference.tiny import tiny_tokenizer

TEXT = "Grüße, 世界! 👩‍👩‍👧 naïve — привет\n\tالسلام  ok"  # noqa: RUF001 - it is Arabic


PROMPT = [65]  # what precedes: a token that is shown


@pytest.fixture(scope="module")
def vocabulary() -> TokenBytes:
    return TokenBytes(tiny_tokenizer())


def ids(vocabulary: TokenBytes, text: str) -> list[int]:
    encoded: list[int] = vocabulary.tokenizer.encode(text, add_special_tokens=False)
    return encoded


def pieces(
    detokenizer: StreamDetokenizer, token_ids: list[int], *, sizes: tuple[int, ...] = (1,)
) -> list[str]:
    """Push tokens in groups of the given sizes, flush at the end."""
    found, rest = [], list(token_ids)
    for size in itertools.cycle(sizes):
        if not rest or detokenizer.matched_stop is not None:
            break
        found.append(detokenizer.push(rest[:size]))
        rest = rest[size:]
    return [*found, detokenizer.flush()]


def without_cut_character(vocabulary: TokenBytes, token_ids: list[int], text: str, *, skip: bool) -> str:
    """`text` of all tokens, less the U+FFFD that stands for a character whose last bytes are missing."""
    shown = [one for one in token_ids if not (skip and one in vocabulary.special_ids)]
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    decoder.decode(b"".join(vocabulary.raw(one) for one in shown))
    return text.removesuffix("\ufffd") if decoder.getstate()[0] else text


def test_no_piece_ends_inside_a_character(vocabulary: TokenBytes) -> None:
    found = pieces(StreamDetokenizer(vocabulary, Sampling(), PROMPT), ids(vocabulary, TEXT))
    assert "".join(found) == TEXT
    assert all("\ufffd" not in piece for piece in found)


@given(token_ids=st.lists(st.integers(0, 258), max_size=40), skip=st.booleans())
@settings(deadline=None, max_examples=200)
def test_pieces_of_any_tokens_add_up_to_the_tokenizers_text(
    vocabulary: TokenBytes, token_ids: list[int], skip: bool
) -> None:
    found = pieces(StreamDetokenizer(vocabulary, Sampling(skip_special_tokens=skip), PROMPT), token_ids)
    whole = vocabulary.tokenizer.decode(token_ids, skip_special_tokens=skip)
    assert "".join(found) == without_cut_character(vocabulary, token_ids, whole, skip=skip)


@given(
    text=st.text("abc", max_size=12),
    stops=st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=3),
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    includes=st.booleans(),
)
@settings(deadline=None, max_examples=300)
def test_the_stop_that_is_complete_first_ends_the_text_however_it_is_cut(
    vocabulary: TokenBytes, text: str, stops: list[str], sizes: list[int], includes: bool
) -> None:
    sampling = Sampling(stop=tuple(stops), include_stop_str_in_output=includes)
    detokenizer = StreamDetokenizer(vocabulary, sampling, PROMPT)
    found = "".join(pieces(detokenizer, ids(vocabulary, text), sizes=tuple(sizes)))
    ends = [end for end in range(len(text) + 1) if text[:end].endswith(tuple(stops))]
    if not ends:
        assert (found, detokenizer.matched_stop) == (text, None)
    else:
        matched = max((stop for stop in stops if text[: ends[0]].endswith(stop)), key=len)
        assert detokenizer.matched_stop == matched
        assert found == (text[: ends[0]] if includes else text[: ends[0] - len(matched)])


def test_a_possible_stop_is_held_back_and_let_go_when_it_is_none(vocabulary: TokenBytes) -> None:
    detokenizer = StreamDetokenizer(vocabulary, Sampling(stop=("END!",)), PROMPT)
    assert [detokenizer.push([token_id]) for token_id in ids(vocabulary, "a EN")] == ["a", " ", "", ""]
    assert detokenizer.push(ids(vocabulary, "?")) == "EN?"
    assert detokenizer.push(ids(vocabulary, "E")) == ""
    assert detokenizer.flush() == "E"


def test_nothing_comes_after_a_stop(vocabulary: TokenBytes) -> None:
    detokenizer = StreamDetokenizer(vocabulary, Sampling(stop=("b",)), PROMPT)
    assert detokenizer.push(ids(vocabulary, "abc")) == "a"
    assert detokenizer.matched_stop == "b"
    assert detokenizer.push(ids(vocabulary, "d")) == detokenizer.flush() == ""


def test_a_stop_inside_a_multibyte_text(vocabulary: TokenBytes) -> None:
    detokenizer = StreamDetokenizer(vocabulary, Sampling(stop=("界",)), PROMPT)
    assert "".join(pieces(detokenizer, ids(vocabulary, TEXT))) == "Grüße, 世"
    assert detokenizer.matched_stop == "界"


def test_no_stop_string_counts_before_min_tokens(vocabulary: TokenBytes) -> None:
    detokenizer = StreamDetokenizer(vocabulary, Sampling(stop=("ab",), min_tokens=5), PROMPT)
    assert "".join(pieces(detokenizer, ids(vocabulary, "abababab"))) == "abab"
    assert detokenizer.matched_stop == "ab"


def test_special_tokens_are_skipped_or_shown(vocabulary: TokenBytes) -> None:
    token_ids = [*ids(vocabulary, "hi"), 257]
    assert "".join(pieces(StreamDetokenizer(vocabulary, Sampling(), PROMPT), token_ids)) == "hi"
    shown = StreamDetokenizer(vocabulary, Sampling(skip_special_tokens=False), PROMPT)
    assert "".join(pieces(shown, token_ids)) == "hi<end>"


WORDS = [
    "<unk>",
    "<s>",
    "</s>",
    *(f"<0x{byte:02X}>" for byte in range(256)),
    "▁the",
    "▁cat",
    "s",
    "é",
    "▁",
    "▁▁",
]
THE, CAT, S, E_ACUTE, SPACE, SPACES = range(259, 265)
OTHERS = st.sampled_from([1, 2, THE, CAT, S, E_ACUTE, SPACE, SPACES, 3 + 0x41, 3 + 0x20])  # whole characters


def sentencepiece_tokenizer(kind: str) -> PreTrainedTokenizerBase:
    """Visible spaces, and bytes for what the vocabulary lacks; decoders differ in what they take first."""
    backend = Tokenizer(
        models.BPE(vocab={word: i for i, word in enumerate(WORDS)}, merges=[], unk_token="<unk>")
    )
    replaced = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = {
        "llama 2": decoders.Sequence([*replaced, decoders.Strip(" ", 1, 0)]),
        "gemma": decoders.Sequence(replaced),
        "metaspace first": decoders.Metaspace("▁", "first"),
        "metaspace always": decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace("▁", "always")]),
        "metaspace never": decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace("▁", "never")]),
    }[kind]
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")


KINDS = ["llama 2", "gemma", "metaspace first", "metaspace always", "metaspace never"]


@pytest.mark.parametrize("kind", KINDS)
@given(
    prompt=st.lists(OTHERS, min_size=1, max_size=5), output=st.lists(OTHERS, max_size=8), skip=st.booleans()
)
@example(prompt=[1], output=[3 + 0x20], skip=True)
@settings(deadline=None, max_examples=150)
def test_the_output_is_what_it_adds_to_the_prompt(
    kind: str, prompt: list[int], output: list[int], skip: bool
) -> None:
    """Words do not run together where one ends a prompt and the next begins an answer."""
    vocabulary = TokenBytes(sentencepiece_tokenizer(kind))
    if kind == "metaspace first":  # has no bytes
        prompt, output = ([one for one in ids if not 3 <= one < 259] or [THE] for ids in (prompt, output))
    decode = partial(vocabulary.tokenizer.decode, skip_special_tokens=skip)
    before, whole = decode(prompt), decode([*prompt, *output])
    detokenizer = StreamDetokenizer(vocabulary, Sampling(skip_special_tokens=skip), prompt)
    assert whole.startswith(before)
    assert "".join(pieces(detokenizer, output)) == whole[len(before) :]


def test_sentencepiece_bytes_become_characters() -> None:
    vocabulary = TokenBytes(sentencepiece_tokenizer("llama 2"))
    token_ids = [THE, S, E_ACUTE, *(3 + byte for byte in "世".encode()), CAT, 2]
    found = pieces(StreamDetokenizer(vocabulary, Sampling(), [1, THE]), token_ids)
    assert found == [" the", "s", "é", "", "", "世", " cat", "", ""]
    assert vocabulary.raw(3 + 0xE4) == b"\xe4"
    assert vocabulary.raw(CAT) == b" cat"


@pytest.mark.parametrize("kind", ["llama 2", "gemma"])
def test_a_character_that_is_cut_off_is_not_shown(kind: str) -> None:
    vocabulary = TokenBytes(sentencepiece_tokenizer(kind))
    cut = [CAT, *(3 + byte for byte in "🎉".encode()[:3])]
    found = pieces(StreamDetokenizer(vocabulary, Sampling(stop=("\x00never",)), [THE]), cut)
    assert "".join(found) == " cat"


def test_a_replacement_that_the_model_writes_itself_stays(vocabulary: TokenBytes) -> None:
    token_ids = [*ids(vocabulary, "a\ufffd"), 0xE4, 0xB8]
    assert "".join(pieces(StreamDetokenizer(vocabulary, Sampling(), PROMPT), token_ids)) == "a\ufffd"
    wrong = [0xE4, 0x41]
    assert "".join(pieces(StreamDetokenizer(vocabulary, Sampling(), PROMPT), wrong)) == "\ufffdA"


def test_other_vocabularies_are_decoded_by_their_own_tokenizer() -> None:
    backend = Tokenizer(
        models.WordPiece(vocab={"[UNK]": 0, "play": 1, "##ing": 2, "now": 3}, unk_token="[UNK]")
    )
    backend.decoder = decoders.WordPiece()
    vocabulary = TokenBytes(PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]"))
    assert not vocabulary.is_exact
    assert pieces(StreamDetokenizer(vocabulary, Sampling(), [3]), [1, 2, 3]) == [" play", "ing", " now", ""]
    assert pieces(StreamDetokenizer(vocabulary, Sampling(), [1]), [2, 3]) == ["ing", " now", ""]


@pytest.mark.model
def test_the_default_models_tokens_add_up_to_its_tokenizers_text(default_model: Path) -> None:
    tokenizer = load_tokenizer(default_model)
    vocabulary = TokenBytes(tokenizer)
    generator = random.Random(5)
    texts = [TEXT, "def f(x):\n    return x + 1\n", "<|im_start|>user\nhi<|im_end|>"]
    samples = [ids(vocabulary, text) for text in texts]
    samples += [[generator.randrange(len(tokenizer)) for _ in range(200)] for _ in range(20)]
    for token_ids in samples:
        found = pieces(StreamDetokenizer(vocabulary, Sampling(stop=("\x00never",)), PROMPT), token_ids)
        whole = tokenizer.decode(token_ids, skip_special_tokens=True)
        assert "".join(found) == without_cut_character(vocabulary, token_ids, whole, skip=True)


@pytest.mark.parametrize("cuts", [(1,), (2,), (1, 3), (3, 1), (2, 1, 4)])
def test_whole_tokens_and_pieces_of_characters_mix(cuts: tuple[int, ...]) -> None:
    """Tokens of several bytes, cut anywhere: whole ones come from a table, the others from the decoder."""
    raw = "aé中😀 b\N{COMBINING ACUTE ACCENT}😀z".encode() + b"\xff\xf0\x9f" + b"ok" + b"\xe4"
    pieces, start = [], 0
    for cut in itertools.cycle(cuts):
        if start >= len(raw):
            break
        pieces.append(raw[start : start + cut])
        start += cut

    class Pieces(TokenBytes):
        def __init__(self) -> None:
            self.is_exact, self.special_ids = True, frozenset()
            self.strips_first_space = self.drops_first_spaces = False
            self._texts = {}

        def raw(self, token_id: int) -> bytes:
            return pieces[token_id]

    detokenizer = StreamDetokenizer(Pieces(), Sampling(), PROMPT)
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    for number, piece in enumerate(pieces):
        assert detokenizer.push([number]) == decoder.decode(piece)
    assert detokenizer.flush() == ""  # the last character is not whole
