"""Wire requests in, pipeline requests out: each field of OpenAI works or is refused, and no other gets in."""

from __future__ import annotations

from typing import Any

import pytest

from console.gateway.endpoints.chat.schema import ChatRequest
from console.gateway.endpoints.completions.schema import CompletionRequest
from console.gateway.errors import ApiError
from inference.protocol.errors import RequestRejected
from inference.protocol.requests import ChatMessage
from tests.console.gateway.endpoints.wire_fields import schemas, wire_fields

# As OpenAI's API description names them (revision f85dbe2).
OPENAI_CHAT = """
audio frequency_penalty function_call functions logit_bias logprobs max_completion_tokens max_tokens messages
metadata modalities model moderation n parallel_tool_calls prediction presence_penalty prompt_cache_key
prompt_cache_options prompt_cache_retention reasoning_effort response_format safety_identifier seed
service_tier stop store stream stream_options temperature tool_choice tools top_logprobs top_p user verbosity
web_search_options
"""
OPENAI_COMPLETIONS = """
best_of echo frequency_penalty logit_bias logprobs max_tokens model n presence_penalty prompt seed stop stream
stream_options suffix temperature top_p user
"""


def chat(**fields: Any) -> ChatRequest:
    return ChatRequest.parse({"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields})


def completion(**fields: Any) -> CompletionRequest:
    return CompletionRequest.parse({"model": "m", "prompt": "hi", **fields})


def fault(**fields: Any) -> tuple[str, str | None]:
    with pytest.raises(ApiError) as refused:
        chat(**fields)
    assert refused.value.status == 400
    return refused.value.code, refused.value.param


@pytest.mark.parametrize(
    ("path", "names"), [("/v1/chat/completions", OPENAI_CHAT), ("/v1/completions", OPENAI_COMPLETIONS)]
)
def test_every_field_of_openai_has_a_line_in_the_table(path: str, names: str) -> None:
    assert set(names.split()) <= {field.name for field in wire_fields(path)}


def test_no_field_both_works_and_is_refused() -> None:
    for path in schemas():
        names = [field.name for field in wire_fields(path)]
        assert len(names) == len(set(names))


@pytest.mark.parametrize("name", ChatRequest.REFUSED)
def test_a_refused_field_is_named_and_its_harmless_values_pass(name: str) -> None:
    assert fault(**{name: {"any": "thing"}}) == ("unsupported_parameter", name)
    for value in [None, *ChatRequest.REFUSED[name].harmless]:
        assert chat(**{name: value}).to_pipeline() == chat().to_pipeline()


def test_harmless_is_not_confused_by_equal_numbers() -> None:
    assert fault(store=0) == ("unsupported_parameter", "store")


def test_null_means_not_given() -> None:
    optional = {name: None for name in ChatRequest.model_fields if name not in ("model", "messages")}
    assert chat(**optional).to_pipeline() == chat().to_pipeline()


def test_every_sampling_field_reaches_the_engine() -> None:
    values: dict[str, Any] = {
        "seed": 3,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 7,
        "min_p": 0.1,
        "presence_penalty": 0.2,
        "frequency_penalty": 0.3,
        "repetition_penalty": 1.1,
        "min_tokens": 2,
        "ignore_eos": True,
        "include_stop_str_in_output": True,
        "skip_special_tokens": False,
    }
    request = chat(
        **values, stop=["a", "b"], stop_token_ids=[5], logit_bias={"9": -100}, max_completion_tokens=11
    )
    sampling = request.to_pipeline().sampling
    assert {name: getattr(sampling, name) for name in values} == values
    assert (sampling.stop, sampling.stop_token_ids) == (("a", "b"), (5,))
    assert (sampling.logit_bias, sampling.max_tokens) == ({9: -100.0}, 11)
    declared = ChatRequest.model_fields.keys() - values.keys()
    assert declared - {"stop", "stop_token_ids", "logit_bias", "max_completion_tokens", "max_tokens"} == {
        *("model", "messages", "n", "stream", "stream_options", "user", "safety_identifier"),
        *("logprobs", "top_logprobs"),
    }


def test_logprobs_are_a_flag_and_a_number_in_chat_and_a_number_in_completions() -> None:
    assert chat().to_pipeline().sampling.logprobs is None
    assert chat(logprobs=True).to_pipeline().sampling.logprobs == 0
    assert chat(logprobs=True, top_logprobs=5).to_pipeline().sampling.logprobs == 5
    assert completion(logprobs=0).to_pipeline().sampling.logprobs == 0


def test_messages_become_what_the_template_sees() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    request = chat(
        messages=[
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": parts, "name": "ada"},
            {"role": "assistant", "content": "yes", "tool_calls": [], "refusal": None},
        ]
    )
    assert request.to_pipeline().prompts[0].messages == (
        ChatMessage("system", "be brief"),
        ChatMessage("user", "one\ntwo", "ada"),
        ChatMessage("assistant", "yes"),
    )


@pytest.mark.parametrize(
    ("message", "code", "param"),
    [
        ({"role": "tool", "content": "x"}, "invalid_value", "messages[0]"),
        ({"content": "x"}, "invalid_value", "messages[0]"),
        ({"role": "user", "content": None}, "missing_required_parameter", "messages[0].content"),
        ({"role": "user", "content": []}, "invalid_value", "messages[0].content"),
        (
            {"role": "user", "content": [{"type": "text", "text": 1}]},
            "invalid_type",
            "messages[0].content[0].text",
        ),
        (
            {"role": "user", "content": [{"type": "text"}]},
            "missing_required_parameter",
            "messages[0].content[0].text",
        ),
        (
            {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "AA"}}]},
            "unsupported_parameter",
            "messages[0].content[0]",
        ),
        ({"role": "user", "content": "x", "color": 1}, "unknown_parameter", "messages[0].color"),
        (
            {"role": "assistant", "content": "x", "tool_calls": [{"id": "1"}]},
            "unsupported_parameter",
            "messages[0]",
        ),
        ("hello", "invalid_type", "messages[0]"),
    ],
)
def test_a_bad_message_is_named_down_to_its_part(message: Any, code: str, param: str) -> None:
    assert fault(messages=[message]) == (code, param)


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": True},
        {"temperature": "1"},
        {"n": 1.5},
        {"stream": "yes"},
        {"stop": 5},
        {"logit_bias": []},
        {"user": 5},
        {"max_tokens": "8"},
    ],
)
def test_types_are_not_coerced(fields: dict[str, Any]) -> None:
    assert fault(**fields) == ("invalid_type", next(iter(fields)))


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 2.1},
        {"temperature": float("inf")},
        {"top_p": -0.1},
        {"min_p": 2},
        {"top_k": -2},
        {"seed": 2**63},
        {"presence_penalty": 3},
        {"repetition_penalty": 0},
        {"logit_bias": {"1": 101}},
        {"logit_bias": {"-1": 1}},
        {"stop": ""},
        {"stop": ["a", ""]},
        {"user": "a\x00b"},
        {"min_tokens": 9, "max_tokens": 8},
        {"max_completion_tokens": 0},
    ],
)
def test_values_out_of_bounds_are_refused_with_their_field(fields: dict[str, Any]) -> None:
    with pytest.raises((ApiError, RequestRejected)) as refused:
        chat(**fields).to_pipeline()
    assert refused.value.param is not None  # type: ignore[union-attr]
    assert refused.value.param.split("[")[0].split(".")[0] == next(iter(fields))  # type: ignore[union-attr]


def test_both_limits_may_be_given_only_when_they_agree() -> None:
    assert chat(max_tokens=4, max_completion_tokens=4).to_pipeline().sampling.max_tokens == 4
    assert fault(max_tokens=4, max_completion_tokens=5) == ("invalid_value", "max_tokens")


@pytest.mark.parametrize(
    ("prompt", "num_prompts"), [("a", 1), (["a", "b"], 2), ([1, 2, 3], 1), ([[1], [2, 3]], 2)]
)
def test_a_prompt_has_four_forms(prompt: Any, num_prompts: int) -> None:
    request = completion(prompt=prompt, n=2).to_pipeline()
    assert len(request.prompts) == num_prompts
    assert request.num_choices == 2 * num_prompts


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"suffix": "x"}, "suffix"),
        ({"best_of": 3, "n": 2}, "best_of"),
        ({"echo": True, "logprobs": 1}, "echo"),
    ],
)
def test_completions_refuse_what_they_cannot_do(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as refused:
        completion(**fields)
    assert (refused.value.code, refused.value.param) == ("unsupported_parameter", param)


def test_completions_stop_after_sixteen_tokens_unless_asked_otherwise() -> None:
    assert completion().to_pipeline().max_tokens == 16
    assert completion(best_of=2, n=2, suffix="").to_pipeline().n == 2


SDK_FIELDS = [
    {"annotations": None, "parsed": None, "reasoning_content": None},
    {"annotations": [], "provider_specific_fields": {}, "tool_calls": []},
    {"refusal": None, "audio": None, "function_call": None, "name": None, "reasoning": ""},
]


@pytest.mark.parametrize("fields", SDK_FIELDS)
def test_an_answer_that_is_handed_back_with_empty_fields_of_an_sdk_passes(fields: dict[str, Any]) -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello", **fields}]
    (prompt,) = chat(messages=messages).to_pipeline().prompts
    assert prompt.messages is not None and prompt.messages[1].content == "hello"


@pytest.mark.parametrize("fields", [{"annotations": [1]}, {"parsed": {"a": 1}}, {"reasoning_content": "so"}])
def test_what_such_a_field_says_is_not_ignored(fields: dict[str, Any]) -> None:
    code, param = fault(messages=[{"role": "assistant", "content": "hello", **fields}])
    assert (code, param) == ("unknown_parameter", f"messages[0].{next(iter(fields))}")


def test_no_top_logprobs_asks_for_nothing() -> None:
    assert chat(top_logprobs=0).to_pipeline().sampling.logprobs is None


def test_a_completion_without_max_tokens_needs_no_room_for_sixteen() -> None:
    request = completion().to_pipeline()
    assert request.sampling.max_tokens is None and request.max_tokens == 16
