"""What a key looks like, and what is refused without asking the database."""

from __future__ import annotations

import math
import random

from console.keys.token import ALPHABET, NUM_SECRET_CHARS, Token, checksum, generate, parse


def test_a_generated_key_is_parsed_back() -> None:
    for _ in range(200):
        token = generate()
        assert parse(token.text) == token


def test_the_secret_has_at_least_190_bits() -> None:
    assert NUM_SECRET_CHARS * math.log2(len(ALPHABET)) >= 190
    assert len({generate().text for _ in range(1000)}) == 1000


def test_every_single_typo_is_noticed() -> None:
    text = generate().text
    for position in range(3, len(text)):
        for typo in ALPHABET:
            if typo != text[position] and text[position] != "_":
                assert parse(text[:position] + typo + text[position + 1 :]) is None


def test_swapped_neighbours_are_noticed() -> None:
    text = generate().text
    for i in range(3, len(text) - 1):
        swapped = text[:i] + text[i + 1] + text[i] + text[i + 2 :]
        assert swapped == text or parse(swapped) is None


def test_ten_thousand_random_strings_of_the_right_shape_are_refused() -> None:
    draw = random.Random(5)

    def chars(count: int) -> str:
        return "".join(draw.choices(ALPHABET, k=count))

    assert not any(parse(f"ph_{chars(12)}_{chars(39)}") for _ in range(10_000))


def test_what_is_no_key_is_refused() -> None:
    good = generate().text
    for text in (
        "",
        "ph_",
        good + "\n",
        " " + good,
        good[:-1],
        good.upper(),
        "sk-" + good,
        good + "é",
        "\x00" * 55,
    ):
        assert parse(text) is None


def test_the_checksum_has_a_fixed_length() -> None:
    assert {len(checksum(str(number))) for number in range(5000)} == {6}


def test_the_secret_is_in_no_repr() -> None:
    token = generate()
    assert token.text[16:] not in repr(token)


def test_the_digest_depends_on_key_and_pepper() -> None:
    one, other = generate(), generate()
    assert len({one.digest(pepper="a"), one.digest(pepper="b"), other.digest(pepper="a")}) == 3
    assert one.digest(pepper="a") == Token(one.public_id, one.text).digest(pepper="a")
