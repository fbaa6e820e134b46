"""Text comes out in whole characters, ends at stop strings, and adds up to what the tokenizer says."""

from __future__ import annotations

import codecs
import itertools
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from inference.engine.detokenizer import StreamDetokenizer
from inference.models.tokenizer import load_tokenizer
from inference.models.vocabulary import TokenBytes
from inference.protocol import Sampling
from tests.inference.tiny import tiny_tokenizer

TEXT = "Grüße, 世界! 👩‍👩‍👧 naïve — привет\n\tالسلام  ok"  # noqa: RUF001 - it is Arabic


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


def test_no_piece_ends_inside_a_character(vocabulary: TokenBytes) -> None:
    found = pieces(StreamDetokenizer(vocabulary, Sampling()), ids(vocabulary, TEXT))
    assert "".join(found) == TEXT
    assert all("\ufffd" not in piece for piece in found)


@given(token_ids=st.lists(st.integers(0, 258), max_size=40), skip=st.booleans())
@settings(deadline=None, max_examples=200)
def test_pieces_of_any_tokens_add_up_to_the_tokenizers_text(
    vocabulary: TokenBytes, token_ids: list[int], skip: bool
) -> None:
    found = pieces(StreamDetokenizer(vocabulary, Sampling(skip_special_tokens=skip)), token_ids)
    whole = vocabulary.tokenizer.decode(token_ids, skip_special_tokens=skip)
    assert "".join(found) == whole


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
    detokenizer = StreamDetokenizer(vocabulary, sampling)
    found = "".join(pieces(detokenizer, ids(vocabulary, text), sizes=tuple(sizes)))
    ends = [end for end in range(len(text) + 1) if text[:end].endswith(tuple(stops))]
    if not ends:
        assert (found, detokenizer.matched_stop) == (text, None)
    else:
        matched = max((stop for stop in stops if text[: ends[0]].endswith(stop)), key=len)
        assert detokenizer.matched_stop == matched
        assert found == (text[: ends[0]] if includes else text[: ends[0] - len(matched)])


def test_a_possible_stop_is_held_back_and_let_go_when_it_is_none(vocabulary: TokenBytes) -> None:
    detokenizer = StreamDetokenizer(vocabulary, Sampling(stop=("END!",)))
    assert [detokenizer.push([token_id]) for token_id in ids(vocabulary, "a EN")] == ["a", " ", "", ""]
    assert detokenizer.push(ids(vocabulary, "?")) == "EN?"
    assert detokenizer.push(ids(vocabulary, "E")) == ""
    assert detokenizer.flush() == "E"


def test_nothing_comes_after_a_stop(vocabulary: TokenBytes) -> None:
    detokenizer = StreamDetokenizer(vocabulary, Sampling(stop=("b",)))
    assert detokenizer.push(ids(vocabulary, "abc")) == "a"
    assert detokenizer.matched_stop == "b"
    assert detokenizer.push(ids(vocabulary, "d")) == detokenizer.flush() == ""


def test_a_stop_inside_a_multibyte_text(vocabulary: TokenBytes) -> None:
    detokenizer = StreamDetokenizer(vocabulary, Sampling(stop=("界",)))
    assert "".join(pieces(detokenizer, ids(vocabulary, TEXT))) == "Grüße, 世"
    assert detokenizer.matched_stop == "界"


def test_no_stop_string_counts_before_min_tokens(vocabulary: TokenBytes) -> None:
    detokenizer = StreamDetokenizer(vocabulary, Sampling(stop=("ab",), min_tokens=5))
    assert "".join(pieces(detokenizer, ids(vocabulary, "abababab"))) == "abab"
    assert detokenizer.matched_stop == "ab"


def test_special_tokens_are_skipped_or_shown(vocabulary: TokenBytes) -> None:
    token_ids = [*ids(vocabulary, "hi"), 257]
    assert "".join(pieces(StreamDetokenizer(vocabulary, Sampling()), token_ids)) == "hi"
    shown = StreamDetokenizer(vocabulary, Sampling(skip_special_tokens=False))
    assert "".join(pieces(shown, token_ids)) == "hi<end>"


def sentencepiece_tokenizer() -> PreTrainedTokenizerBase:
    """As Llama 2's: visible spaces, bytes for what the vocabulary lacks, one leading space dropped."""
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁Hello", "▁wor", "ld", "é"]
    backend = Tokenizer(
        models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=[], unk_token="<unk>")
    )
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")


def test_sentencepiece_bytes_become_characters() -> None:
    vocabulary = TokenBytes(sentencepiece_tokenizer())
    token_ids = [1, 259, 260, 261, 262, *(3 + byte for byte in "世".encode()), 259, 2]
    found = pieces(StreamDetokenizer(vocabulary, Sampling()), token_ids)
    assert found == ["", "Hello", " wor", "ld", "é", "", "", "世", " Hello", "", ""]
    assert "".join(found) == vocabulary.tokenizer.decode(token_ids, skip_special_tokens=True)
    assert vocabulary.raw(3 + 0xE4) == b"\xe4"
    assert vocabulary.raw(260) == b" wor"


def test_other_vocabularies_are_decoded_by_their_own_tokenizer() -> None:
    backend = Tokenizer(
        models.WordPiece(vocab={"[UNK]": 0, "play": 1, "##ing": 2, "now": 3}, unk_token="[UNK]")
    )
    backend.decoder = decoders.WordPiece()
    vocabulary = TokenBytes(PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]"))
    assert not vocabulary.is_exact
    assert pieces(StreamDetokenizer(vocabulary, Sampling()), [1, 2, 3]) == ["play", "ing", " now", ""]


@pytest.mark.model
def test_the_default_models_tokens_add_up_to_its_tokenizers_text(default_model: Path) -> None:
    tokenizer = load_tokenizer(default_model)
    vocabulary = TokenBytes(tokenizer)
    generator = random.Random(5)
    texts = [TEXT, "def f(x):\n    return x + 1\n", "<|im_start|>user\nhi<|im_end|>"]
    samples = [ids(vocabulary, text) for text in texts]
    samples += [[generator.randrange(len(tokenizer)) for _ in range(200)] for _ in range(20)]
    for token_ids in samples:
        found = pieces(StreamDetokenizer(vocabulary, Sampling(stop=("\x00never",))), token_ids)
        assert "".join(found) == tokenizer.decode(token_ids, skip_special_tokens=True)


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
            self.is_exact, self.strips_first_space, self.special_ids = True, False, frozenset()
            self._texts = {}

        def raw(self, token_id: int) -> bytes:
            return pieces[token_id]

    detokenizer = StreamDetokenizer(Pieces(), Sampling())
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    for number, piece in enumerate(pieces):
        assert detokenizer.push([number]) == decoder.decode(piece)
    assert detokenizer.flush() == decoder.decode(b"", final=True)
