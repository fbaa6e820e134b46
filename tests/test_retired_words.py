"""Words that the project has given up for those of the field stay out of code, pages, tests and documents.

docs/glossary.md has the words that are used. A name that is stored or goes over the wire keeps its word.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SUFFIXES = {"console": ".py", "monitoring": ".py", "inference": ".py", "tests": ".py", "templates": ".html",
            "docs": ".md", "static/console": ".js", "static/source": ".css"}  # fmt: skip
PAGES = ("README.md", "CONTRIBUTING.md")
WRITTEN_ELSEWHERE = ("tests/browser/axe.js", "tests/test_retired_words.py")
KEPT = ("websocket_lane_full", '"allowance"', "load_on_demand")  # on the wire, in the database, or a phrase


@dataclass(frozen=True, slots=True)
class Retired:
    """`words`: an expression for a word, also as a part of an identifier; `say`: what to write instead.

    `within`: the folders where it has the retired meaning; `ordinary`: where it has another one.
    """

    words: str
    say: str
    within: tuple[str, ...] = ("",)
    ordinary: tuple[str, ...] = ()


RETIRED = (
    Retired("laps?", "span, request timeline"),
    Retired(
        "lanes?", "stream; column", ordinary=("inference/cpu/", "inference/kernels/", "tests/inference/cpu/")
    ),
    Retired("doorkeepers?", "authentication"),
    Retired("(?<!in )(?<!in_)(?<!in-)flights?", "request state; lease"),
    Retired("deeds?", "action"),
    Retired("rooms?", "page", within=("templates/", "console/dashboard/", "console/admin_site.py")),
    Retired("nibbles?", "int4"),
    Retired("crews?", "worker pool"),
    Retired("borders?", "chunk alignment", within=("inference/", "tests/inference/", "tests/gpu/")),
    Retired("guess(es|ed|ing)?", "draft", within=("inference/", "monitoring/", "docs/", "templates/")),
    Retired("stages?", "pinned buffer", within=("inference/execution/cuda/",)),
    Retired("desks?", "prompt queue", within=("inference/", "console/", "docs/")),
    Retired(
        "stretch(es)?",
        "sequence slice, span",
        within=("inference/", "tests/inference/", "docs/", "templates/"),
    ),
    Retired("standings?", "position, certificate status, state"),
    Retired("outlooks?", "snapshot"),
    Retired("residences?", "loaded revision"),
    Retired("steppers?", "step runner"),
    Retired("mixed[ _]steps", "prefill budget"),
    Retired("fusible", "supported"),
    Retired("teamwork", "thread pool"),
    Retired("scrub(s|bed|bing)?", "zero blocks"),
    Retired("demands?", "pipeline request", within=("console/gateway/", "tests/console/gateway/")),
    Retired("let[ _]go", "cancel", within=("inference/placements/", "console/gateway/")),
    Retired(
        "allowances?",
        "granted tokens",
        within=("inference/", "tests/inference/", "console/limits/", "console/gateway/"),
    ),
    Retired(
        "refusals?",
        "rejection",
        within=("inference/protocol/", "inference/placements/", "inference/client.py"),
    ),
    Retired("adjustments?", "logits processor", within=("inference/",)),
    Retired("isolations?", "step executor", within=("inference/scheduling/", "inference/execution/")),
    Retired("whole[ _]products?", "single-token matmul"),
    Retired("decode[ _]parts?", "split-KV"),
    Retired("footprints?", "KV pool size, memory estimate"),
    Retired("inbox(es)?", "event queue", within=("console/gateway/", "tests/console/gateway/")),
    Retired("conclude[sd]?", "finish and settle", within=("console/gateway/",)),
    Retired("nudges?", "signal"),
    Retired("early[ _]checks?", "startup checks"),
    Retired("storables?", "text"),
    Retired("company", "batch", within=("inference/", "docs/", "templates/")),
    Retired("in any company", "batch-invariant"),
    Retired("fewer bits", "quantization"),
    Retired("shared fairly", "nothing, until it is built"),
    Retired("as the installation says", "server default"),
)


def files() -> list[str]:
    found = [
        str(path.relative_to(ROOT))
        for folder, suffix in SUFFIXES.items()
        for path in (ROOT / folder).rglob(f"*{suffix}")
    ]
    return sorted({*found, *PAGES} - set(WRITTEN_ELSEWHERE))


def readable(text: str) -> str:
    """In small letters, with the words of CamelCase apart, and without what must be called as it is."""
    for name in KEPT:
        text = text.replace(name, "")
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", text).lower()


TEXTS = {name: readable(f"{name}\n{(ROOT / name).read_text()}") for name in files()}


def places(retired: Retired, texts: dict[str, str]) -> list[str]:
    pattern = re.compile(rf"(?<![a-z]){retired.words}(?![a-z])")
    return [
        f"{name}: {text[max(0, match.start() - 30) : match.end() + 30]!r}"
        for name, text in texts.items()
        if name.startswith(retired.within) and not (retired.ordinary and name.startswith(retired.ordinary))
        for match in pattern.finditer(text)
    ]


@pytest.mark.parametrize("text", ["MAX_LANES = 8", "class StreamLane:", "a lane of its own", "self.lanes[1]"])
def test_a_word_is_found_as_part_of_any_name(text: str) -> None:
    assert places(Retired("lanes?", "stream"), {"a.py": readable(text)})


@pytest.mark.parametrize("text", ["planes", "elapsed", "code='websocket_lane_full'"])
def test_other_words_and_names_that_are_kept_pass(text: str) -> None:
    for words in ("lanes?", "laps?"):
        assert places(Retired(words, ""), {"a.py": readable(text)}) == []


@pytest.mark.parametrize("text", ["what is in flight", "class InFlight:", "def in_flight()", "/in-flight"])
def test_what_is_in_flight_may_be_called_so(text: str) -> None:
    assert places(RETIRED[3], {"a.py": readable(text)}) == []
    assert places(RETIRED[3], {"a.py": readable("Flight")})


def test_a_word_is_only_looked_for_where_it_has_the_retired_meaning() -> None:
    retired = Retired("rooms?", "page", within=("templates/",), ordinary=("templates/other/",))
    texts = {"templates/a.html": "room", "templates/other/b.html": "room", "inference/c.py": "room"}
    assert [place.split(":")[0] for place in places(retired, texts)] == ["templates/a.html"]


@pytest.mark.parametrize("retired", RETIRED, ids=lambda r: r.words)
def test_a_retired_word_does_not_come_back(retired: Retired) -> None:
    found = places(retired, TEXTS)
    assert not found, f"say {retired.say}:\n" + "\n".join(found[:20])


RETIRED_CHINESE = {
    "词元": "token",
    "修订版本": "版本",
    "作业": "任务",
    "试验场": "演练场",
    "转正": "全量发布",
    "块池": "KV 池",
}


def test_chinese_pages_have_one_word_for_one_thing() -> None:
    text = (ROOT / "locale" / "zh_Hans" / "LC_MESSAGES" / "django.po").read_text()
    assert [f"{word}: say {say}" for word, say in RETIRED_CHINESE.items() if word in text] == []


def test_chinese_pages_have_chinese_punctuation() -> None:
    text = (ROOT / "locale" / "zh_Hans" / "LC_MESSAGES" / "django.po").read_text().replace('"\n"', "")
    assert re.findall(r"[\u4e00-\u9fff][,;:?!]|[,;:?!][\u4e00-\u9fff]", text) == []
