"""Chunks are written out by hand for speed: they say what the same chunk made of dictionaries would say."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from console.gateway.endpoints.base import data_frame
from console.gateway.endpoints.chat.response import ChatResponse
from console.gateway.endpoints.completions.endpoint import COMPLETIONS
from console.gateway.endpoints.completions.response import CompletionResponse
from console.gateway.endpoints.response import GenerationResponse
from console.gateway.pipeline.events import ChoiceEvent, KeepAlive, PipelineEvent, Settled
from console.gateway.pipeline.request import UsageInStream
from console.gateway.websocket.frames import chunk_frame, server_frame
from inference.protocol.events import Delta, Finish, FinishReason, TokenLogprob, Usage
from inference.protocol.requests import Sampling
from tests.console.gateway.accepted import accepted

TEXTS = [
    "plain",
    'a "quote" and \\',
    "line\nbreak\ttab\x00\x1f\x7f",
    "\u00e9\u4e2d\U0001f600",
    "\u2028 </script>",
    "\u0085 and \u2029\u2028",
    "".join(map(chr, [*range(0x20), *range(0x7F, 0xA1)])),
    "{}",
]
ENVELOPE = {
    "id": "chatcmpl-test",
    "created": 1_700_000_000,
    "model": "stub",
    "system_fingerprint": "stub-1",
}
FINISH = Finish(FinishReason.LENGTH, Usage(1, 0, 2))


async def steps(*made: PipelineEvent) -> AsyncGenerator[PipelineEvent, None]:
    for one in made:
        yield one


async def told(answer: GenerationResponse, *made: PipelineEvent) -> list[Any]:
    return [None if one is None else json.loads(one) async for one in answer.chunks(steps(*made))]


def chat(*, n: int = 1, wants_usage: bool = False, logprobs: int | None = None) -> ChatResponse:
    one = accepted(n=n, sampling=Sampling(logprobs=logprobs), slice_tokens=8)
    return ChatResponse(one, usage=UsageInStream(at_end=wants_usage))


def completion(*, wants_usage: bool = False, logprobs: int | None = None) -> CompletionResponse:
    one = accepted(sampling=Sampling(logprobs=logprobs), slice_tokens=8, endpoint=COMPLETIONS)
    return CompletionResponse(one, usage=UsageInStream(at_end=wants_usage), echo=False)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("wants_usage", [False, True])
async def test_a_chat_chunk(text: str, wants_usage: bool) -> None:
    *_, chunk = await told(chat(n=2, wants_usage=wants_usage), ChoiceEvent(1, Delta(text, (5,))))
    assert chunk == {
        **ENVELOPE,
        "object": "chat.completion.chunk",
        "choices": [{"index": 1, "delta": {"content": text}, "logprobs": None, "finish_reason": None}],
        **({"usage": None} if wants_usage else {}),
    }
    assert next(iter(chunk)) == "id"


@pytest.mark.parametrize("text", TEXTS)
async def test_a_completion_chunk(text: str) -> None:
    (chunk,) = await told(completion(), ChoiceEvent(0, Delta(text, (5,))))
    assert chunk == {
        **ENVELOPE,
        "object": "text_completion",
        "choices": [{"index": 0, "text": text, "logprobs": None, "finish_reason": None}],
    }


@pytest.mark.parametrize("answer", [chat(logprobs=0), completion(logprobs=0)], ids=["chat", "completion"])
async def test_logprobs_ride_along(answer: GenerationResponse) -> None:
    delta = Delta("hi", (5,), (TokenLogprob(5, "hi", b"hi", -0.5),))
    *_, chunk = await told(answer, ChoiceEvent(0, delta))
    assert chunk["choices"][0]["logprobs"] is not None
    assert "-0.5" in json.dumps(chunk["choices"][0]["logprobs"])


async def test_what_shows_nothing_is_no_chunk() -> None:
    assert await told(completion(), ChoiceEvent(0, Delta("", (5,)))) == []


async def test_a_whole_stream() -> None:
    made = [KeepAlive(), ChoiceEvent(0, Delta("a", (1,))), ChoiceEvent(0, FINISH), Settled(Usage(1, 0, 2))]
    role, silence, text, finish, usage = await told(chat(wants_usage=True), *made)
    assert role["choices"][0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert silence is None
    assert text["choices"][0]["delta"] == {"content": "a"}
    assert finish["choices"][0]["finish_reason"] == "length" and finish["usage"] is None
    assert usage["choices"] == [] and usage["usage"]["completion_tokens"] == 2
    assert list(usage) == list(text)


@pytest.mark.parametrize("text", TEXTS)
async def test_a_chunk_is_one_line_of_an_event(text: str) -> None:
    """Of what ends a line of an event, nothing may stand in one: JSON escapes it."""
    (chunk,) = [one async for one in completion().chunks(steps(ChoiceEvent(0, Delta(text, (5,)))))]
    assert chunk is not None
    written = data_frame(chunk)
    assert written.startswith(b"data: {") and written.endswith(b"}\n\n")
    assert written.count(b"\n") == 2 and b"\r" not in written
    assert len(written.decode().splitlines()) == 2  # nor for clients to whom Unicode has other line ends


@pytest.mark.parametrize("stream_id", [None, "a.b-c_1"])
async def test_a_frame_of_a_socket(stream_id: str | None) -> None:
    chunk = {"id": "x", "choices": []}
    written = chunk_frame("chat.completion", stream_id, 7, json.dumps(chunk))
    expected = server_frame("chat.completion.chunk", stream_id, 7, chunk=chunk)
    assert json.loads(written) == expected and list(json.loads(written)) == list(expected)


async def test_each_chunk_can_tell_the_tokens_so_far() -> None:
    one = accepted(n=2, sampling=Sampling(), slice_tokens=8)
    answer = ChatResponse(one, usage=UsageInStream(at_end=True, so_far=True))
    made = [
        ChoiceEvent(0, Delta("a", (1,))),
        ChoiceEvent(1, Delta("", (2,))),  # shows nothing, and counts
        ChoiceEvent(1, Delta("bc", (3, 4))),
        ChoiceEvent(1, FINISH),
        Settled(Usage(1, 0, 4)),
    ]
    chunks = await told(answer, *made)
    assert [one["usage"]["completion_tokens"] for one in chunks] == [0, 0, 1, 4, 4, 4]
    assert {one["usage"]["prompt_tokens"] for one in chunks} == {1}
    assert chunks[-2]["usage"]["total_tokens"] == 5 and chunks[-1]["choices"] == []
