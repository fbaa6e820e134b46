"""Log-probabilities on the wire: the chosen token is among the likeliest, offsets count characters, and parts
of characters stay apart.
"""

from __future__ import annotations

import math

import pytest

from console.gateway.endpoints.logprobs import CompletionLogprobs, chat_logprobs
from inference.protocol.events import TokenLogprob

CHEESE = "🧀".encode()  # four bytes
WHOLE = [TokenLogprob(1, "a", b"a", -0.5), TokenLogprob(2, "é", "é".encode(), -1.5)]


def part(token_id: int, raw: bytes, *top: TokenLogprob) -> TokenLogprob:
    return TokenLogprob(token_id, raw.decode(errors="replace"), raw, -1.0, top)


@pytest.mark.parametrize("num_top", [1, 2])
def test_the_chosen_token_is_among_the_likeliest(num_top: int) -> None:
    unlikely = TokenLogprob(9, "zebra", b"zebra", -11.25, tuple(WHOLE[:num_top]))
    (chat,) = chat_logprobs([unlikely], num_top=num_top)
    assert [one["token"] for one in chat["top_logprobs"]] == [*["a", "é"][:num_top], "zebra"]
    (by_token,) = CompletionLogprobs().lists([unlikely])["top_logprobs"]
    assert by_token["zebra"] == -11.25 and len(by_token) == num_top + 1


def test_a_likely_token_is_not_told_twice() -> None:
    likely = TokenLogprob(1, "a", b"a", -0.5, tuple(WHOLE))
    (chat,) = chat_logprobs([likely], num_top=2)
    assert len(chat["top_logprobs"]) == 2
    assert len(CompletionLogprobs().lists([likely])["top_logprobs"][0]) == 2


def test_none_wanted_is_the_chosen_token_alone() -> None:
    alone = TokenLogprob(1, "a", b"a", -0.5)
    assert chat_logprobs([alone], num_top=0)[0]["top_logprobs"] == []
    assert CompletionLogprobs().lists([alone])["top_logprobs"] == [{"a": -0.5}]


def test_offsets_count_the_characters_of_the_text() -> None:
    text = "x🧀é\ufffdy"  # the replacement character is the model's own
    cuts = [b"x", CHEESE[:1], CHEESE[1:3], CHEESE[3:], *[bytes([one]) for one in "é\ufffd".encode()], b"y"]
    told = CompletionLogprobs().lists([part(index, raw) for index, raw in enumerate(cuts)], text=text)
    assert told["text_offset"] == [0, 1, 1, 1, 2, 2, 3, 3, 3, 4]
    assert [text[offset] for offset in told["text_offset"]] == list("x🧀🧀🧀éé\ufffd\ufffd\ufffdy")


def test_offsets_go_on_from_chunk_to_chunk_within_a_character() -> None:
    told = CompletionLogprobs()
    offsets = [told.lists([part(index, CHEESE[index : index + 1])])["text_offset"] for index in range(4)]
    assert [*offsets, told.lists([part(9, b"z")])["text_offset"]] == [[0], [0], [0], [0], [1]]


def test_a_special_token_that_is_left_out_takes_no_place() -> None:
    hidden = TokenLogprob(3, "<|im_end|>", b"<|im_end|>", -0.1, is_shown=False)
    assert CompletionLogprobs().lists([WHOLE[0], hidden, WHOLE[1]])["text_offset"] == [0, 1, 1]


def test_what_a_stop_string_cut_off_is_at_the_end() -> None:
    assert CompletionLogprobs().lists([part(1, b"ab"), part(2, b"STOP"), part(3, b"x")], text="ab")[
        "text_offset"
    ] == [0, 2, 2]


def test_parts_of_characters_stay_apart() -> None:
    top = [part(20 + byte, bytes([0xF0, byte])) for byte in range(0x90, 0x95)]
    one = part(20, bytes([0xF0, 0x9F]), *top)
    told = CompletionLogprobs().lists([one])
    assert len(told["top_logprobs"][0]) == 6 and "\ufffd" not in "".join(told["top_logprobs"][0])
    assert told["tokens"] == [r"bytes:\xf0\x9f"] and told["tokens"][0] in told["top_logprobs"][0]
    (chat,) = chat_logprobs([one], num_top=5)
    assert len({entry["token"] for entry in chat["top_logprobs"]}) == 6
    assert chat["bytes"] == [0xF0, 0x9F] and chat["token"] == r"\xf0\x9f"


def test_tokens_of_one_text_are_told_apart() -> None:
    twins = [TokenLogprob(4, "\n", b"\n", -0.25), TokenLogprob(13, "\n", b"\n", -3.0)]
    (by_token,) = CompletionLogprobs().lists([TokenLogprob(4, "\n", b"\n", -0.25, tuple(twins))])[
        "top_logprobs"
    ]
    assert by_token == {"\n": -0.25, "token_id:13": -3.0}


def test_an_impossible_token_has_a_number_all_the_same() -> None:
    never = TokenLogprob(5, "n", b"n", -math.inf)
    assert chat_logprobs([never], num_top=0)[0]["logprob"] == -9999.0
