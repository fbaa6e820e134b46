"""Templates and tokenizers that would take all time or memory are ended, and hold up nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from tokenizers import Regex, normalizers, pre_tokenizers

from inference.checkpoints.model_folder import UnsafeModel
from inference.prompt_process import queue as queue_module
from inference.prompt_process.queue import PromptQueue
from inference.protocol.errors import InvalidValue, NotReady, PromptTooCostly, QueueFull
from inference.protocol.requests import TokenizeRequest
from tests.inference.prompt_process.conftest import PLAIN, Open, Write, ask, complete

WHEN = "{% if 'now' in messages[-1].content %}"  # a template that behaves while it is tried
LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
# Each would take minutes or gigabytes; `one` is 1, and unknown while a template is compiled.
ENDED = {
    "loops in a loop": LOOPS,
    "a macro that calls itself twice": (
        "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}"
    ),
    "a power": "{{ ((one + 8) ** (9 ** 9)) % 7 }}",
    "a sort over and over": (
        "{% set ns = namespace(x=range(99999)|list) %}{% for a in range(99999) %}"
        "{% set ns.x = ns.x|sort(reverse=true) %}{% endfor %}"
    ),
    "long text for the tokenizer": "{{ 'ab ' * one * 20000000 }}",
}
REFUSED = {
    "a string that doubles": (
        "{% set ns = namespace(x='ab' * one * 1000000) %}{% for a in range(60) %}"
        "{% set ns.x = ns.x ~ ns.x %}{% endfor %}"
    ),
    "a long string": "{{ ('a' * one * 4000000000)|length }}",
    "padding": "{{ '%4000000000d' % one }}",
    "format": "{{ '{:>4000000000}'.format(one) }}",
    "centre": "{{ 'a'|center(one * 4000000000) }}",
    "join": "{{ (['ab' * one * 100000] * 100000)|join('-') }}",
    "a list": "{{ ([one] * 4000000000)|length }}",
    "a macro without an end": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "division by nothing": "{{ one / 0 }}",
    "a key that is not there": "{{ {}['x'].y }}",
}


async def test_a_template_that_loops_holds_no_other_model(write: Write, open_queue: Open) -> None:
    hostile = open_queue(write("hostile", f"{WHEN}{LOOPS}{{% endif %}}{PLAIN}"), seconds=600)
    honest = open_queue(write("honest"))
    held = [asyncio.ensure_future(ask(hostile, "now")) for _ in range(2)]
    for number in range(20):
        assert (await ask(honest, f"question {number}")).token_ids
    assert not any(one.done() for one in held), "the other model waited for them to end"
    await asyncio.to_thread(hostile.close)
    for one in held:
        with pytest.raises(NotReady):
            await one


async def test_a_template_that_loops_is_ended_counted_and_started_again(
    write: Write, open_queue: Open
) -> None:
    queue = open_queue(write("hostile", f"{WHEN}{LOOPS}{{% endif %}}{PLAIN}"))
    for number in range(2):
        with pytest.raises(PromptTooCostly, match=r"chat template.*longer than 1 s.*was stopped") as rejected:
            await ask(queue, "now")
        assert rejected.value.param == "messages"
        assert queue.stats().num_ended == number + 1
    assert (await ask(queue, "later")).token_ids, "it was not started again"


async def test_what_takes_all_time_or_memory_is_ended(write: Write, open_queue: Open) -> None:
    queue = open_queue(write("hostile", one_of(ENDED)))
    for number, name in enumerate(ENDED):
        assert (await ask(queue, "before")).token_ids, f"before {name}"
        with pytest.raises(PromptTooCostly):
            await ask(queue, name)
        assert queue.stats().num_ended == number + 1, name


async def test_what_fails_by_itself_is_refused_and_the_process_lives(write: Write, open_queue: Open) -> None:
    queue = open_queue(write("hostile", one_of(REFUSED)))
    before = process_of(queue)
    for name in REFUSED:
        with pytest.raises(InvalidValue) as rejected:
            await ask(queue, name)
        assert rejected.value.param == "messages", name
        assert process_of(queue) == before and queue.stats().num_ended == 0, name


def one_of(templates: dict[str, str]) -> str:
    """A template that is the one whose name a user says, and an honest one else."""
    cases = "".join(
        f"{{% if messages[-1].content == {name!r} %}}{template}{{% endif %}}"
        for name, template in templates.items()
    )
    return f"{{% set one = messages|length %}}{cases}{PLAIN}"


def backtracking(backend: Any) -> None:
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("q*q*(?!q)(?<=z)"), "isolated")


def exploding(backend: Any) -> None:
    backend.normalizer = normalizers.Sequence([normalizers.Replace("q", "q" * 1000) for _ in range(4)])


@pytest.mark.parametrize("change", [backtracking, exploding])
async def test_a_hostile_tokenizer_is_ended(
    write: Write, open_queue: Open, change: Callable[[Any], None]
) -> None:
    queue = open_queue(write("hostile", change=change))
    with pytest.raises(PromptTooCostly) as rejected:
        await complete(queue, "q" * 3000)
    assert rejected.value.param == "prompt"
    assert (await complete(queue, "later")).token_ids


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (LOOPS, "trying it took longer than 1 s"),
        ("{{ ('a' * 4000000000)|length }}", "it cannot be used: needs more than 512 MiB"),
    ],
    ids=["time", "memory"],
)
def test_a_hostile_template_is_refused_at_load_by_name(
    write: Write, open_queue: Open, template: str, reason: str
) -> None:
    queue = open_queue(write("hostile", template), is_tried=False)
    with pytest.raises(UnsafeModel, match=f"^chat_template: {reason}"):
        queue.open()


def test_a_tokenizer_that_never_ends_is_refused_at_load_by_name(
    write: Write, open_queue: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inference.prompt_process.process.LOAD_SECONDS", 3)

    def backtracking_on_what_is_tried(backend: Any) -> None:
        backend.pre_tokenizer = pre_tokenizers.Split(Regex("a*a*(?!a)(?<=z)"), "isolated")

    queue = open_queue(write("hostile", change=backtracking_on_what_is_tried), is_tried=False)
    with pytest.raises(UnsafeModel, match=r"^tokenizer: trying it took longer than 3 s"):
        queue.open()


def test_tokens_that_the_engines_thread_could_not_decode_soon_are_refused(
    write: Write, open_queue: Open
) -> None:
    def long_token(backend: Any) -> None:
        backend.add_tokens(["x" * 5000])

    queue = open_queue(write("hostile", change=long_token), is_tried=False)
    with pytest.raises(UnsafeModel, match="tokenizer: it cannot be used: a token of 5000 characters"):
        queue.open()


async def test_after_ends_in_a_row_prompts_are_refused_for_a_while(write: Write, open_queue: Open) -> None:
    queue = open_queue(write("hostile", f"{WHEN}{LOOPS}{{% endif %}}{PLAIN}"))
    for _ in range(queue_module.MAX_IN_A_ROW):
        assert queue.stats().error == ""
        with pytest.raises(PromptTooCostly):
            await ask(queue, "now")
    assert "took longer than 1 s" in queue.stats().error
    with pytest.raises(NotReady, match="cannot be prepared") as rejected:
        await ask(queue, "later")
    assert 0 < rejected.value.retry_after_seconds <= queue_module.HOLD_SECONDS
    queue._held_until = 0.0  # the while is over
    assert (await ask(queue, "later")).token_ids
    assert queue.stats().error == ""


async def test_what_waits_is_bounded_and_leaves_with_its_client(
    write: Write, open_queue: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_module, "MAX_WAITING", 3)
    queue = open_queue(write("hostile", f"{WHEN}{LOOPS}{{% endif %}}{PLAIN}"))
    first, second, third = [asyncio.ensure_future(ask(queue, "now")) for _ in range(3)]
    await asyncio.sleep(0)
    stats = queue.stats()
    assert stats.num_waiting == 3 and stats.oldest_since is not None
    with pytest.raises(QueueFull):
        await ask(queue, "later")
    for leaver in (second, third):
        leaver.cancel()
    await asyncio.gather(second, third, return_exceptions=True)
    assert queue.stats().num_waiting == 1, "a client has left and its prompt waits on"
    with pytest.raises(PromptTooCostly):
        await first
    assert (await ask(queue, "later")).token_ids
    assert queue.stats().num_ended == 1 and queue.stats().num_waiting == 0


async def test_a_prompt_that_has_waited_too_long_is_not_begun(
    write: Write, open_queue: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = open_queue(write("honest"))
    monkeypatch.setattr(queue_module, "WAIT_SECONDS", -1)
    with pytest.raises(QueueFull, match="have waited"):
        await complete(queue, "hello")


def process_of(queue: PromptQueue) -> int:
    assert queue._process is not None
    return queue._process.pid


async def test_ids_come_back_as_text(write: Write, open_queue: Open) -> None:
    queue = open_queue(write("honest"))
    tokenized = await queue.tokenize(
        TokenizeRequest("", token_ids=(72, 105)), vocab_size=300, max_model_len=4096
    )
    assert tokenized.token_ids == (72, 105) and tokenized.text is not None
