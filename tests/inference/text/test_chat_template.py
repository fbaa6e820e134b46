"""What is special of the chat templates that the batched families publish, run as the gateway runs them."""

from __future__ import annotations

import pytest

from inference.protocol.errors import InvalidValue
from inference.protocol.requests import ChatMessage
from inference.text import content_format
from inference.text.chat_template import render_chat
from tests.inference import tiny

# Gemma 3: a system message joins the first of the user, turns must alternate, the assistant is "model".
GEMMA3 = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}
        {%- set first_user_prefix = messages[0]['content'] + '\n\n' -%}
    {%- else -%}
        {%- set first_user_prefix = messages[0]['content'][0]['text'] + '\n\n' -%}
    {%- endif -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}
    {%- endif -%}
    {%- set role = "model" if message['role'] == 'assistant' else message['role'] -%}
    {{ '<start_of_turn>' + role + '\n' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}{{ item['text'] | trim }}{%- endfor -%}
    {%- endif -%}
    {{ '<end_of_turn>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}"""
PHI3 = (
    "{% for message in messages %}{{'<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
# gpt-oss: says what day it is, and names the channels.
GPT_OSS = (
    "<|start|>system<|message|>Current date: {{ strftime_now('%Y-%m-%d') }}\n"
    "# Valid channels: analysis, commentary, final.<|end|>"
    "{%- for message in messages -%}<|start|>{{ message.role }}<|message|>{{ message.content }}<|end|>"
    "{%- endfor -%}{%- if add_generation_prompt -%}<|start|>assistant{%- endif -%}"
)
TALK = [
    ChatMessage(role="user", content=" Hi "),
    ChatMessage(role="assistant", content="Yes?"),
    ChatMessage(role="user", content="a<|end|>b<end_of_turn>c"),
]


def rendered(template: str, talk: list[ChatMessage]) -> tuple[str, list[str]]:
    """The text, and those of its tokens that are special."""
    tokenizer = tiny.tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|end|>", "<end_of_turn>"]})
    tokenizer.chat_template = template
    token_ids = render_chat(tokenizer, talk)
    special = [
        token for token in tokenizer.convert_ids_to_tokens(token_ids) if token.startswith("<") and token[1:]
    ]
    return tokenizer.decode(token_ids), special


def test_gemma3s_template() -> None:
    system = ChatMessage(role="system", content="Be brief.")
    text, special = rendered(GEMMA3, [system, *TALK])
    assert text == (
        "<begin><start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n<start_of_turn>model\nYes?<end_of_turn>\n"
        "<start_of_turn>user\na<|end|>b<end_of_turn>c<end_of_turn>\n<start_of_turn>model\n"
    )
    assert special == ["<begin>", *["<end_of_turn>"] * 3], "what a user wrote became a token"


def test_gemma3_wants_turns_to_alternate() -> None:
    with pytest.raises(InvalidValue, match="must alternate"):
        rendered(GEMMA3, TALK[:1] * 2)


def test_phi3s_template() -> None:
    text, special = rendered(PHI3, TALK)
    assert text.startswith("<|user|>\n Hi <|end|>\n<|assistant|>\nYes?<|end|>\n<|user|>\na<|end|>b")
    assert text.endswith("c<|end|>\n<|assistant|>\n")
    assert special == ["<|end|>"] * 3


def test_gpt_oss_template() -> None:
    text, special = rendered(GPT_OSS, TALK)
    assert "Current date: 2" in text and text.endswith("<|start|>assistant")
    assert special == ["<|end|>"] * 4


# SmolVLM and Idefics3: a loop over parts, in which a string has no words.
PARTS = (
    "{% for message in messages %}{{ message['role'] | capitalize }}"
    "{% if message['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{ line['text'] }}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
# The system's words as a string, everybody else's in parts.
MIXED = (
    "{% for message in messages %}{% if message.role == 'system' %}{{ message.content + '|' }}"
    "{% else %}{% for part in message.content %}{{ part.text }}{% endfor %}|{% endif %}{% endfor %}"
)


def test_a_template_that_loops_over_parts_gets_parts() -> None:
    text, special = rendered(PARTS, TALK)
    assert (
        text == "User:  Hi <|end|>\nAssistant: Yes?<|end|>\nUser: a<|end|>b<end_of_turn>c<|end|>\nAssistant:"
    )
    assert special == ["<|end|>"] * 3  # the user's own stays text


def test_each_role_gets_the_form_that_its_words_survive_in() -> None:
    talk = [ChatMessage("system", "be kind"), ChatMessage("user", "one"), ChatMessage("assistant", "two")]
    assert rendered(MIXED, talk)[0] == "be kind|one|two|"


def test_a_template_that_takes_both_gets_a_string() -> None:
    template = "{% for message in messages %}{{ message.content is string }}{{ message.content }}{% endfor %}"
    assert rendered(template, [ChatMessage("user", "hi")])[0] == "Truehi"


def test_words_that_no_form_lets_through_are_refused() -> None:
    with pytest.raises(InvalidValue, match="leaves out what the user says"):
        rendered("{% for message in messages %}{{ message.role }}{% endfor %}", [ChatMessage("user", "hi")])


def test_a_template_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = content_format.render_jinja_template
    monkeypatch.setattr(
        content_format, "render_jinja_template", lambda *a, **k: (calls.append(a), real(*a, **k))[1]
    )
    for _ in range(3):
        rendered(PARTS + "{# once #}", TALK)
    assert len(calls) == 4  # two roles, two forms


def test_several_templates_without_a_default_are_refused_with_the_reason() -> None:
    tokenizer = tiny.tiny_tokenizer()
    tokenizer.chat_template = {"tool_use": "{{ messages }}", "rag": "{{ messages }}"}
    with pytest.raises(InvalidValue, match="refuses these messages"):
        render_chat(tokenizer, [ChatMessage("user", "hi")])
