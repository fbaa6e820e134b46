"""A waterfall in words: what each of its rows is, and what a request's time went to."""

from __future__ import annotations

from dataclasses import dataclass

from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from console.dashboard.templatetags.console import number, seconds
from console.usage.models import UsageRecord
from inference.protocol.events import WaitReason
from monitoring.waterfall import Row, Waterfall

NAMES: dict[str, str | Promise] = {
    "parse": gettext_lazy("Parse, sign-in"),
    "choose": gettext_lazy("Choose the revision"),
    "load": gettext_lazy("Load the model"),
    "prepare": gettext_lazy("Tokenise"),
    "reserve": gettext_lazy("Limits, reservation"),
    "handover": gettext_lazy("Waiting for the current step"),
    "queue": gettext_lazy("Queue"),
    "prefill": gettext_lazy("Prefill"),
    "decode": gettext_lazy("Decode"),
    "preempted": gettext_lazy("Preempted"),
    "allowance": gettext_lazy("Wait for more of the budget"),
    "engine": gettext_lazy("Engine, without detail"),
    "rest": gettext_lazy("More of the same"),
    "deliver": gettext_lazy("Deliver to the client"),
    "settle": gettext_lazy("Write the ledger"),
}
REASONS: dict[str, str | Promise] = {
    WaitReason.BLOCKS: gettext_lazy("KV pool full"),
    WaitReason.BATCH: gettext_lazy("batch full"),
    WaitReason.STEP: gettext_lazy("step full"),
    WaitReason.PREFIX: gettext_lazy("same beginning being computed"),
}
WORTH_A_WORD_PERCENT = 5.0
TRUSTED_SECONDS = 0.001  # shorter than this no rate is told


@dataclass(frozen=True, slots=True)
class Line:
    """A row as the page shows it."""

    row: Row
    label: str
    duration: str


def lines(waterfall: Waterfall) -> list[Line]:
    return [Line(row, label_of(row), duration_of(row.seconds)) for row in waterfall.rows]


def duration_of(span_seconds: float) -> str:
    """As everywhere, but with a decimal where whole milliseconds would say nothing."""
    milliseconds = 1000 * span_seconds
    return (
        _("%(number)s ms") % {"number": number(milliseconds, 1)}
        if milliseconds < 10
        else seconds(span_seconds)
    )


def label_of(row: Row) -> str:
    name = str(NAMES.get(row.name, row.name))
    if reason := row.attributes.get("reason"):
        return _("%(name)s: %(reason)s") % {"name": name, "reason": REASONS.get(reason, reason)}
    if row.name == "decode" and (tokens := row.attributes.get("tokens")):
        batch = row.attributes.get("batch", 1)
        counted = {"name": name, "tokens": number(tokens), "batch": number(batch)}
        return _("%(name)s, %(tokens)s tokens, batch up to %(batch)s") % counted
    return name


def sentences(waterfall: Waterfall, request: UsageRecord) -> list[str]:
    """What the time went to, the largest surprises first."""
    said = [
        _woken(waterfall),
        _waited(waterfall),
        _preempted(waterfall),
        _held(waterfall),
        _prefilled(waterfall, request),
        _decoded(waterfall),
        _delivered(waterfall),
    ]
    return [one for one in said if one]


def _woken(waterfall: Waterfall) -> str:
    if not waterfall.count("load"):
        return ""
    return _("Its model was not in memory: it waited %(time)s for the load.") % {
        "time": seconds(waterfall.seconds("load"))
    }


def _waited(waterfall: Waterfall) -> str:
    waited = waterfall.seconds("handover", "queue")
    if waterfall.percent("handover", "queue") < WORTH_A_WORD_PERCENT:
        return _("It did not have to wait.") if waterfall.count("queue") else ""
    facts = {"time": seconds(waited), "percent": number(waterfall.percent("handover", "queue"))}
    reason = waterfall.main_reason("queue")
    if not reason:
        return _("It waited %(time)s in the queue, %(percent)s %% of its time.") % facts
    because: dict[str, str] = {
        WaitReason.BLOCKS: _("It waited %(time)s in the queue for KV blocks, %(percent)s %% of its time."),
        WaitReason.BATCH: _(
            "It waited %(time)s in the queue for a place in the batch, %(percent)s %% of its time."
        ),
        WaitReason.STEP: _(
            "It waited %(time)s in the queue while other prompts ran, %(percent)s %% of its time."
        ),
        WaitReason.PREFIX: _(
            "It waited %(time)s in the queue for the same beginning to be computed by another request, "
            "%(percent)s %% of its time."
        ),
    }
    return because[reason] % facts


def _preempted(waterfall: Waterfall) -> str:
    times = waterfall.count("preempted")
    if not times:
        return ""
    text = ngettext(
        "It was preempted %(times)d time and paused for %(time)s.",
        "It was preempted %(times)d times and paused for %(time)s.",
        times,
    )
    return text % {"times": times, "time": seconds(waterfall.seconds("preempted"))}


def _held(waterfall: Waterfall) -> str:
    if waterfall.percent("allowance") < 1:
        return ""
    return _("It waited %(time)s for more tokens to be granted from its budget.") % {
        "time": seconds(waterfall.seconds("allowance"))
    }


def _prefilled(waterfall: Waterfall, request: UsageRecord) -> str:
    if not waterfall.count("prefill"):
        return ""
    facts = {
        "time": seconds(waterfall.seconds("prefill")),
        "prompt": number(request.prompt_tokens),
        "cached": number(request.cached_tokens),
    }
    if request.cached_tokens:
        text = _("Its prompt of %(prompt)s tokens took %(time)s; %(cached)s came from the prefix cache.")
    else:
        text = _("Its prompt of %(prompt)s tokens took %(time)s.")
    return text % facts


def _decoded(waterfall: Waterfall) -> str:
    tokens, spent = waterfall.sum("decode", "tokens"), waterfall.seconds("decode")
    if not tokens or spent < TRUSTED_SECONDS:
        return ""
    facts = {
        "tokens": number(tokens),
        "time": seconds(spent),
        "rate": number(tokens / spent, 1),
        "batch": number(waterfall.largest("decode", "batch")),
    }
    return (
        _(
            "After the first token, %(tokens)s more took %(time)s: %(rate)s tokens per second, "
            "in batches of up to %(batch)s."
        )
        % facts
    )


def _delivered(waterfall: Waterfall) -> str:
    if waterfall.percent("deliver") < WORTH_A_WORD_PERCENT:
        return _("The client read at full speed.") if waterfall.count("decode") else ""
    return _("The answer waited %(time)s for its client to read it.") % {
        "time": seconds(waterfall.seconds("deliver"))
    }
