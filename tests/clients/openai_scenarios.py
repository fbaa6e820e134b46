"""What programs do with the official SDK, in an environment that holds the SDK alone: BASE_URL KEY MODEL.

Prints one JSON object: the scenario's name -> "ok", or what went wrong.
"""

from __future__ import annotations

import asyncio
import json
import sys
import traceback
from collections.abc import Callable

import openai
from openai import AsyncOpenAI, OpenAI

BASE_URL, KEY, MODEL = sys.argv[1:4]
client = OpenAI(base_url=BASE_URL, api_key=KEY, max_retries=0, timeout=120)
MESSAGES = [{"role": "user", "content": "Name three colours of the rainbow."}]
ASK = {"model": MODEL, "messages": MESSAGES, "temperature": 0, "max_tokens": 24}


def streamed(stream) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)


def raised(kind: type[openai.APIStatusError], call: Callable[[], object]) -> openai.APIStatusError:
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"{kind.__name__} was not raised")


def plain_and_streamed_text_are_the_same_at_temperature_0() -> None:
    plain = client.chat.completions.create(**ASK)
    assert plain.object == "chat.completion" and plain.model == MODEL
    assert plain.choices[0].message.role == "assistant"
    assert plain.choices[0].message.content
    assert streamed(client.chat.completions.create(**ASK, stream=True)) == plain.choices[0].message.content


def role_comes_first_and_the_finish_reason_last() -> None:
    chunks = list(client.chat.completions.create(**ASK, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks][-1] in ("stop", "length")
    assert all(chunk.choices[0].finish_reason is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1


def usage_chunk_says_what_the_plain_answer_says() -> None:
    plain = client.chat.completions.create(**ASK)
    *others, last = client.chat.completions.create(**ASK, stream=True, stream_options={"include_usage": True})
    assert last.choices == [] and last.usage is not None
    assert all(chunk.usage is None for chunk in others)
    assert last.usage.completion_tokens == plain.usage.completion_tokens
    assert last.usage.prompt_tokens == plain.usage.prompt_tokens
    assert last.usage.total_tokens == last.usage.prompt_tokens + last.usage.completion_tokens
    assert last.usage.prompt_tokens_details.cached_tokens > 0  # the same prompt was asked before


def helper_that_accumulates_a_stream_understands_every_event() -> None:
    word = client.chat.completions.create(**ASK).choices[0].message.content.split()[2]
    ask = {**ASK, "stop": [word]}  # the helper takes an answer that was cut by its length for an error
    with client.chat.completions.stream(**ask) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds
    plain = client.chat.completions.create(**ask)
    assert final.choices[0].message.content == plain.choices[0].message.content


def async_client_runs_streams_side_by_side() -> None:
    async def one(number: int) -> str:
        parts = []
        async with AsyncOpenAI(base_url=BASE_URL, api_key=KEY, max_retries=0) as other:
            ask = {**ASK, "messages": [{"role": "user", "content": f"Count from {number}."}]}
            async for chunk in await other.chat.completions.create(**ask, stream=True):
                if chunk.choices:
                    parts.append(chunk.choices[0].delta.content or "")
        return "".join(parts)

    async def all_of_them() -> list[str]:
        return list(await asyncio.gather(*(one(number) for number in range(4))))

    texts = asyncio.run(all_of_them())
    assert all(texts) and len(set(texts)) > 1


def several_choices_are_counted_with_one_prompt() -> None:
    answer = client.chat.completions.create(**{**ASK, "temperature": 1, "seed": 7, "n": 3, "max_tokens": 8})
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    alone = client.chat.completions.create(**{**ASK, "max_tokens": 8})
    assert answer.usage.prompt_tokens == alone.usage.prompt_tokens


def same_seed_gives_the_same_text_and_another_seed_another() -> None:
    def text(seed: int) -> str:
        ask = {**ASK, "temperature": 1.2, "seed": seed}
        return client.chat.completions.create(**ask).choices[0].message.content

    assert text(1) == text(1)
    assert len({text(seed) for seed in range(4)}) > 1


def logprobs_are_probabilities_and_their_bytes_are_the_text() -> None:
    answer = client.chat.completions.create(**ASK, logprobs=True, top_logprobs=3)
    tokens = answer.choices[0].logprobs.content
    assert tokens and all(token.logprob <= 0 and len(token.top_logprobs) == 3 for token in tokens)
    assert all(
        token.top_logprobs[0].logprob == token.logprob for token in tokens
    )  # greedy takes the likeliest
    joined = b"".join(bytes(token.bytes) for token in tokens).decode()
    assert joined.startswith(answer.choices[0].message.content)


def stop_string_ends_the_text_before_it() -> None:
    whole = client.chat.completions.create(**ASK).choices[0].message.content
    word = whole.split()[2]
    cut = client.chat.completions.create(**ASK, stop=[word]).choices[0]
    assert cut.finish_reason == "stop" and word not in cut.message.content
    assert whole.startswith(cut.message.content)


def completions_endpoint_continues_text() -> None:
    ask = {"model": MODEL, "prompt": "The capital of France is", "temperature": 0, "max_tokens": 8}
    plain = client.completions.create(**ask)
    assert plain.object == "text_completion" and plain.choices[0].text
    parts = client.completions.create(**ask, stream=True)
    assert "".join(part.choices[0].text for part in parts if part.choices) == plain.choices[0].text
    echoed = client.completions.create(**ask, echo=True)
    assert echoed.choices[0].text == ask["prompt"] + plain.choices[0].text


def models_are_listed_and_found_by_name() -> None:
    assert MODEL in [model.id for model in client.models.list()]
    assert client.models.retrieve(MODEL).id == MODEL


def wrong_key_is_an_authentication_error() -> None:
    stranger = OpenAI(base_url=BASE_URL, api_key="ph_wrong", max_retries=0)
    error = raised(openai.AuthenticationError, lambda: stranger.chat.completions.create(**ASK))
    assert error.status_code == 401 and error.code == "invalid_api_key"


def unknown_model_is_a_not_found_error() -> None:
    error = raised(
        openai.NotFoundError, lambda: client.chat.completions.create(**{**ASK, "model": "gpt-none"})
    )
    assert error.code == "model_not_found" and error.param == "model"


def refused_field_is_a_bad_request_error_that_names_it() -> None:
    error = raised(
        openai.BadRequestError,
        lambda: client.chat.completions.create(**ASK, response_format={"type": "json_object"}),
    )
    assert error.code == "unsupported_parameter" and error.param == "response_format"


def value_out_of_bounds_is_a_bad_request_error_in_a_stream_too() -> None:
    ask = {**ASK, "temperature": -1}
    error = raised(openai.BadRequestError, lambda: client.chat.completions.create(**ask, stream=True))
    assert error.param == "temperature" and error.type == "invalid_request_error"


def unknown_field_is_refused_and_a_field_of_vllms_works() -> None:
    error = raised(
        openai.BadRequestError, lambda: client.chat.completions.create(**ASK, extra_body={"colour": "red"})
    )
    assert error.code == "unknown_parameter" and error.param == "colour"
    extra = {"ignore_eos": True, "top_k": 5}
    answer = client.chat.completions.create(**ASK, extra_body=extra)
    assert answer.usage.completion_tokens == ASK["max_tokens"]


def raw_response_carries_the_request_id_that_was_sent() -> None:
    raw = client.chat.completions.with_raw_response.create(**ASK, extra_headers={"x-request-id": "mine-17"})
    assert raw.headers["x-request-id"] == "mine-17"
    assert int(raw.headers["openai-processing-ms"]) >= 0
    assert raw.parse().choices[0].message.content
    assert client.chat.completions.create(**ASK)._request_id


SCENARIOS = [
    plain_and_streamed_text_are_the_same_at_temperature_0,
    role_comes_first_and_the_finish_reason_last,
    usage_chunk_says_what_the_plain_answer_says,
    helper_that_accumulates_a_stream_understands_every_event,
    async_client_runs_streams_side_by_side,
    several_choices_are_counted_with_one_prompt,
    same_seed_gives_the_same_text_and_another_seed_another,
    logprobs_are_probabilities_and_their_bytes_are_the_text,
    stop_string_ends_the_text_before_it,
    completions_endpoint_continues_text,
    models_are_listed_and_found_by_name,
    wrong_key_is_an_authentication_error,
    unknown_model_is_a_not_found_error,
    refused_field_is_a_bad_request_error_that_names_it,
    value_out_of_bounds_is_a_bad_request_error_in_a_stream_too,
    unknown_field_is_refused_and_a_field_of_vllms_works,
    raw_response_carries_the_request_id_that_was_sent,
]


def outcome(scenario: Callable[[], None]) -> str:
    try:
        scenario()
    except Exception:
        return traceback.format_exc()
    return "ok"


if __name__ == "__main__":
    results = {scenario.__name__: outcome(scenario) for scenario in SCENARIOS}
    print(json.dumps({"version": openai.__version__, "results": results}))
