"""docs/api.md tells the truth: fields, refused values, error codes and metrics are compared with the code."""

from __future__ import annotations

import ast
import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from console.gateway.errors import ENGINE_STATUS, ApiError
from monitoring.collect import VLLM_NAMES, exposition
from tests.console.gateway.endpoints.wire_fields import schemas, wire_fields

ROOT = Path(__file__).resolve().parents[4]
OPENAI = json.loads((Path(__file__).parent / "openai_fields.json").read_text())
CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"

LEAST: dict[str, dict[str, Any]] = {
    CHAT: {"model": "m", "messages": [{"role": "user", "content": "hello"}]},
    COMPLETION: {"model": "m", "prompt": "hello"},
}

# A value of every refused field that asks for something.
ASKING: dict[str, Any] = {
    "audio": {"voice": "alloy", "format": "wav"},
    "function_call": {"name": "get_weather"},
    "functions": [{"name": "get_weather", "parameters": {}}],
    "metadata": {"ticket": "17"},
    "modalities": ["text", "audio"],
    "moderation": {"model": "omni-moderation-latest"},
    "parallel_tool_calls": 1,
    "prediction": {"type": "content", "content": "hello"},
    "prompt_cache_key": "k1",
    "prompt_cache_options": {"ttl": "30m"},
    "prompt_cache_retention": "24h",
    "reasoning_effort": "high",
    "response_format": {"type": "json_object"},
    "service_tier": "priority",
    "store": True,
    "suffix": "the end",
    "tool_choice": "required",
    "tools": [{"type": "function", "function": {"name": "get_weather", "parameters": {}}}],
    "verbosity": "low",
    "web_search_options": {"search_context_size": "low"},
}

# A value of every field that works, with what it needs beside it.
WORKING: dict[str, dict[str, Any]] = {
    "best_of": {"best_of": 2, "n": 2},
    "echo": {"echo": True},
    "frequency_penalty": {"frequency_penalty": -2},
    "ignore_eos": {"ignore_eos": True},
    "include_stop_str_in_output": {"include_stop_str_in_output": True},
    "logit_bias": {"logit_bias": {"17": -100}},
    "max_completion_tokens": {"max_completion_tokens": 5},
    "max_tokens": {"max_tokens": 5},
    "min_p": {"min_p": 0.1},
    "min_tokens": {"min_tokens": 2},
    "n": {"n": 8},
    "presence_penalty": {"presence_penalty": 2.0},
    "repetition_penalty": {"repetition_penalty": 1.1},
    "safety_identifier": {"safety_identifier": "someone"},
    "seed": {"seed": -7},
    "skip_special_tokens": {"skip_special_tokens": False},
    "stop": {"stop": ["a", "b", "c", "d"]},
    "stop_token_ids": {"stop_token_ids": [2]},
    "stream": {"stream": True},
    "stream_options": {"stream": True, "stream_options": {"include_usage": True}},
    "temperature": {"temperature": 0},
    "top_k": {"top_k": 5},
    "top_logprobs": {"logprobs": True, "top_logprobs": 20},
    "top_p": {"top_p": 0.5},
    "user": {"user": "someone"},
}
ABOUT_DELIVERY = {"stream", "stream_options", "echo"}
LOGPROBS: dict[str, Any] = {CHAT: True, COMPLETION: 5}

WHERE_CODES_ARE_RAISED = (
    "console/channel/head.py",
    "console/gateway",
    "console/keys",
    "console/accounts",
    "console/limits",
    "console/deployments/load_on_demand.py",
    "inference/protocol/errors.py",
    "inference/scheduling",
    "inference/execution",
    "inference/text",
    "inference/placements",
)
NEVER_ON_THE_WIRE = {"server_died"}  # written into a usage row by the sweep after a crash


@cache
def document() -> str:
    return (ROOT / "docs" / "api.md").read_text()


@cache
def section(title: str) -> str:
    """The text under a heading, up to the next one of any level."""
    match = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#|\Z)", document(), re.MULTILINE | re.DOTALL)
    assert match, f"docs/api.md has no heading {title!r}"
    return match[1]


@dataclass(frozen=True)
class Row:
    state: str
    notes: str

    @property
    def passes(self) -> set[str]:
        """The JSON values that the notes list as harmless."""
        _, found, values = self.notes.partition("passes:")
        return set(re.findall(r"`([^`]+)`", values)) if found else set()


@cache
def rows(title: str) -> dict[str, Row]:
    found = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*) \|$", section(title), re.MULTILINE)
    assert len({name for name, _, _ in found}) == len(found), f"a field is twice under {title!r}"
    return {name: Row(state, notes) for name, state, notes in found}


def documented(path: str) -> dict[str, Row]:
    return rows(f"POST {path}") | rows("Beyond OpenAI")


def parse(path: str, **fields: Any) -> Any:
    return schemas()[path].parse(LEAST[path] | fields).to_pipeline()


def refusal_of(path: str, **fields: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        parse(path, **fields)
    return caught.value


each_endpoint = pytest.mark.parametrize("path", [CHAT, COMPLETION])
REFUSED = [(path, one.name) for path in schemas() for one in wire_fields(path) if not one.works]
WORKS = [(path, one.name) for path in schemas() for one in wire_fields(path) if one.works]


@each_endpoint
def test_every_field_of_openais_description_has_a_row(path: str) -> None:
    assert set(OPENAI["endpoints"][path]) == set(rows(f"POST {path}"))


@each_endpoint
def test_rows_are_the_fields_that_the_schemas_have_in_the_state_that_they_have(path: str) -> None:
    assert {name: row.state for name, row in documented(path).items()} == {
        one.name: "works" if one.works else "refused" for one in wire_fields(path)
    }


@each_endpoint
def test_harmless_values_of_refused_fields_are_the_listed_ones(path: str) -> None:
    listed = {name: row.passes for name, row in documented(path).items() if row.state == "refused"}
    assert listed == {one.name: set(one.harmless) for one in wire_fields(path) if not one.works}


@pytest.mark.parametrize(("path", "name"), REFUSED)
def test_refused_field_is_refused_when_it_asks_for_something(path: str, name: str) -> None:
    refusal = refusal_of(path, **{name: ASKING[name]})
    assert (refusal.status, refusal.code, refusal.param) == (400, "unsupported_parameter", name)


@pytest.mark.parametrize(("path", "name"), REFUSED)
def test_refused_field_passes_with_its_listed_values_and_with_null(path: str, name: str) -> None:
    for value in documented(path)[name].passes:
        assert parse(path, **{name: json.loads(value)}) == parse(path)
    assert parse(path, **{name: None}) == parse(path)


@pytest.mark.parametrize(("path", "name"), WORKS)
def test_working_field_is_accepted_and_changes_what_is_asked_for(path: str, name: str) -> None:
    if name in LEAST[path]:
        assert refusal_of(path, **{name: None}).code == "missing_required_parameter"
        return
    fields = {"logprobs": LOGPROBS[path]} if name == "logprobs" else WORKING[name]
    if name in ABOUT_DELIVERY:
        before, after = (schemas()[path].parse(LEAST[path] | more) for more in ({}, fields))
        assert getattr(after, name) != getattr(before, name)
    else:
        assert parse(path, **fields) != parse(path)


@each_endpoint
def test_field_that_nobody_knows_is_refused_by_name(path: str) -> None:
    refusal = refusal_of(path, colour="red")
    assert (refusal.status, refusal.code, refusal.param) == (400, "unknown_parameter", "colour")


@pytest.mark.parametrize("role", OPENAI["message_fields_by_role"])
def test_every_role_of_openais_description_works_or_is_refused_as_the_page_says(role: str) -> None:
    works, _, refused = section("Messages").partition(" work; ")
    message = {"role": role, "content": "hello"}
    if f"`{role}`" in works:
        assert parse(CHAT, messages=[message]).prompts[0].messages[0].content == "hello"
    else:
        assert f"`{role}`" in refused.partition(".")[0]
        assert refusal_of(CHAT, messages=[message]).status == 400


@pytest.mark.parametrize("kind", OPENAI["content_part_types"])
def test_every_kind_of_content_part_works_or_is_refused_as_the_page_says(kind: str) -> None:
    works, _, refused = section("Messages").partition("parts of type")[2].partition(" work, and ")
    inside = "hello" if kind in ("text", "refusal") else {"url": "data:,", "data": "", "format": "wav"}
    fields = {"messages": [{"role": "user", "content": [{"type": kind, kind: inside}]}]}
    if f"`{kind}`" in works:
        assert parse(CHAT, **fields).prompts[0].messages[0].content == "hello"
    else:
        assert f"`{kind}`" in refused.partition(".")[0]
        assert refusal_of(CHAT, **fields).status == 400


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tool_calls", [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]),
        ("function_call", {"name": "f", "arguments": "{}"}),
        ("audio", {"id": "1"}),
        ("refusal", "no"),
        ("tool_call_id", "1"),
    ],
)
def test_parts_of_an_assistants_message_that_nothing_here_can_show_are_refused(name: str, value: Any) -> None:
    assert f"`{name}`" in section("Messages")
    message = {"role": "assistant", "content": "hello", name: value}
    assert refusal_of(CHAT, messages=[message]).status == 400


def test_every_field_of_a_message_is_on_the_page() -> None:
    names = {name for fields in OPENAI["message_fields_by_role"].values() for name in fields}
    missing = {name for name in names - {"role"} if f"`{name}`" not in section("Messages")}
    assert missing == set()


def test_every_stream_option_is_on_the_page_and_obfuscation_is_refused() -> None:
    assert all(f"`{name}`" in section("Stream options") for name in OPENAI["stream_options"])
    refusal = refusal_of(CHAT, stream=True, stream_options={"include_obfuscation": True})
    assert refusal.status == 400 and "include_obfuscation" in str(refusal.param)


def codes_in(tree: ast.Module) -> set[str]:
    """Error codes that a module names: ApiError(status, code), EngineError(code), code="..." anywhere."""
    found: list[ast.expr | None] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            position = {"ApiError": 1, "EngineError": 0}.get(name)
            if position is not None and len(node.args) > position:
                found.append(node.args[position])
            found += [keyword.value for keyword in node.keywords if keyword.arg in ("code", "error_code")]
        elif isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "code":
            found += [*ast.walk(node.value)] if isinstance(node.value, ast.IfExp) else [node.value]
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            named = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
            found += [default for argument, default in named if argument.arg == "code"]
    texts = {node.value for node in found if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return {text for text in texts if re.fullmatch(r"[a-z]+(_[a-z]+)+", text)}


def test_error_table_has_every_code_that_the_source_can_raise_and_no_other() -> None:
    places = [ROOT / place for place in WHERE_CODES_ARE_RAISED]
    modules = [path for place in places for path in ([place] if place.is_file() else place.rglob("*.py"))]
    raised = set(ENGINE_STATUS).union(*(codes_in(ast.parse(path.read_text())) for path in modules))
    table = re.findall(r"^\| \d{3} \| `(\w+)` \|", section("Errors"), re.MULTILINE)
    assert len(table) == len(set(table))
    assert set(table) == raised - NEVER_ON_THE_WIRE


def test_status_of_an_engine_error_is_the_one_in_the_table() -> None:
    for code, status in ENGINE_STATUS.items():
        assert f"| {status} | `{code}` |" in section("Errors")


def test_metrics_table_has_every_name_and_its_aliases() -> None:
    listed = dict(re.findall(r"^\| `(pilothouse_\w+)` \(\w+\) \| (.*) \|$", document(), re.MULTILINE))
    served = {family.name for family in exposition().collect() if family.name.startswith("pilothouse_")}
    assert set(listed) == served
    assert {name: tuple(re.findall(r"`(vllm:\w+)`", notes)) for name, notes in listed.items()} == {
        name: VLLM_NAMES.get(name, ()) for name in served
    }
