"""The console speaks every language that it offers, wholly. Needs no GNU gettext."""

from __future__ import annotations

import ast
import gettext
import io
import re
import tokenize
from pathlib import Path

import pytest
from django.conf import settings
from django.utils.translation import to_locale
from django.utils.translation.template import templatize

ROOT = Path(__file__).resolve().parent.parent
LINES = r'((?:"(?:[^"\\]|\\.)*"\n?)+)'
ENTRY = re.compile(rf"^(msgid|msgstr(?:\[0\])?) {LINES}", re.MULTILINE)
LANGUAGES = [to_locale(code) for code, _ in settings.LANGUAGES if code != "en"]
CALLS = {"_", "gettext", "gettext_lazy", "gettext_noop", "ngettext", "ngettext_lazy"}
PLACEHOLDER = re.compile(r"%\((\w+)\)[sd]")

each_language = pytest.mark.parametrize("language", LANGUAGES)


def entries(language: str) -> dict[str, tuple[str, bool]]:
    """msgid -> (translation, is it fuzzy), as the .po file has them; plurals by their singular."""
    found: dict[str, tuple[str, bool]] = {}
    text = (ROOT / f"locale/{language}/LC_MESSAGES/django.po").read_text()
    for block in re.split(r"\n\n+", text.strip()):
        parts = dict(
            re.findall(r'^(msgid|msgstr(?:\[0\])?) ((?:"(?:[^"\\]|\\.)*"\n?)+)', block, re.MULTILINE)
        )
        if "msgid" in parts:
            translation = parts.get("msgstr") or parts["msgstr[0]"]
            found[unquoted(parts["msgid"])] = (unquoted(translation), "#, fuzzy" in block)
    return found


def unquoted(lines: str) -> str:
    return "".join(ast.literal_eval(line) for line in lines.strip().splitlines())


def texts_in_python(source: str) -> set[str]:
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    return {
        call.args[0].value
        for call in calls
        if isinstance(call.func, ast.Name)
        and call.func.id in CALLS
        and call.args
        and isinstance(call.args[0], ast.Constant)
        and isinstance(call.args[0].value, str)
    }


def texts_in_template(source: str) -> set[str]:
    """Django turns a template into something like Python, for xgettext: its calls, from the tokens."""
    tokens = list(tokenize.generate_tokens(io.StringIO(templatize(source)).readline))
    found = set()
    for name, bracket, text in zip(tokens, tokens[1:], tokens[2:], strict=False):
        if name.string in CALLS and bracket.string == "(" and text.type == tokenize.STRING:
            found.add(ast.literal_eval(text.string))
    return found


def texts() -> set[str]:
    python = [path for folder in ("console", "monitoring") for path in (ROOT / folder).rglob("*.py")]
    templates = [path for path in (ROOT / "templates").rglob("*") if path.suffix in {".html", ".txt"}]
    return {
        *(text for path in python for text in texts_in_python(path.read_text())),
        *(text for path in templates for text in texts_in_template(path.read_text())),
    }


def test_texts_are_found_in_code_and_in_templates() -> None:
    code = '_("one"); gettext("two"); ngettext("three", "threes", 3); other("four")'
    assert texts_in_python(code) == {"one", "two", "three"}
    template = """{% load i18n %}<c-x y="{% translate 'one' %}" />
        {% blocktranslate with a=b %}two {{ a }}{% endblocktranslate %}"""
    assert texts_in_template(template) == {"one", "two %(a)s"}


@each_language
def test_every_text_of_the_console_is_translated(language: str) -> None:
    done = {text for text, (meant, is_fuzzy) in entries(language).items() if meant and not is_fuzzy}
    assert sorted(texts() - done) == [], "run `make messages` and translate what is empty"


@each_language
def test_no_translation_has_lost_its_text(language: str) -> None:
    assert sorted(entries(language).keys() - texts() - {""}) == [], "run `make messages`"


@each_language
def test_translations_keep_their_placeholders(language: str) -> None:
    for text, (translation, _) in entries(language).items():
        if translation:
            assert set(PLACEHOLDER.findall(text)) == set(PLACEHOLDER.findall(translation)), text


@each_language
def test_compiled_file_is_current(language: str) -> None:
    with (ROOT / f"locale/{language}/LC_MESSAGES/django.mo").open("rb") as file:
        compiled = gettext.GNUTranslations(file)
    for text, (translation, _) in entries(language).items():
        if text and translation:
            assert translation in {compiled.gettext(text), compiled.ngettext(text, text, 1)}, text
