"""The queue of spans, its thread, and what `traceparent` says."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from console.audit.actor import Actor
from monitoring import otlp, tracing
from monitoring.metrics import TRACES
from monitoring.otlp import OtlpShipper, read_headers
from monitoring.tracing import Parent, Span, parent_of
from tests.otlp_receiver import Receiver, receiving

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver
    tracing.stop(1.0)


def span(number: int = 1) -> Span:
    now = time.time_ns()
    return Span("one", "internal", number, number, None, now, now + 1, children=[("inner", now, now + 1, {})])


def shipper(endpoint: str) -> OtlpShipper:
    return OtlpShipper(endpoint=endpoint, headers="", version="1")


def count(outcome: str) -> float:
    return float(TRACES.labels(outcome)._value.get())


def test_a_full_queue_drops_and_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otlp, "MAX_WAITING", 10)
    monkeypatch.setattr(otlp, "BATCH", 5)
    monkeypatch.setattr(otlp, "TIMEOUT_SECONDS", 120.0)
    with receiving(delay=60) as receiver:
        ships, dropped = shipper(receiver.url), count("dropped")
        began = time.monotonic()
        for number in range(1, 101):
            ships.add(span(number))
        assert time.monotonic() - began < 30
        assert count("dropped") - dropped >= 2 * (100 - 10 - 5)
        ships.stop(0.2)
        assert count("dropped") - dropped >= 2 * (100 - 5)  # what was late at the end counts as well
        receiver.hurry.set()
        ships._thread.join()  # or it would count what it sent in the next test


def test_stopping_sends_what_waits(receiver: Receiver) -> None:
    ships, sent = shipper(receiver.url), count("sent")
    for number in range(1, 251):
        ships.add(span(number))
    ships.stop(60.0)
    assert len(receiver.spans) == 500 and count("sent") - sent == 500


def test_after_the_end_spans_are_dropped(receiver: Receiver) -> None:
    ships, dropped = shipper(receiver.url), count("dropped")
    ships.stop(60.0)
    ships.add(span())
    assert count("dropped") - dropped == 2


def test_without_an_endpoint_nothing_is_opened() -> None:
    tracing.start(endpoint="")
    with tracing.opened("work", kind="consumer") as place:
        assert place is None and tracing.here() is None


def test_work_that_raises_is_a_failed_span(receiver: Receiver) -> None:
    tracing.start(endpoint=receiver.url)
    with pytest.raises(ValueError), tracing.opened("work", kind="consumer", attributes={"a": 1}):
        raise ValueError("words of a caller")
    tracing.stop(60.0)
    (told,) = receiver.spans
    assert told.is_failed and told.attributes == {"a": 1, "error.type": "ValueError"}
    assert b"words of a caller" not in receiver.raw


@pytest.mark.parametrize(
    ("given", "parent"),
    [
        (f"00-{TRACE}-{SPAN}-01", Parent(int(TRACE, 16), int(SPAN, 16), True)),
        (f"00-{TRACE}-{SPAN}-00", Parent(int(TRACE, 16), int(SPAN, 16), False)),
        (f"cc-{TRACE}-{SPAN}-01-what-may-come", Parent(int(TRACE, 16), int(SPAN, 16), True)),
        (f"ff-{TRACE}-{SPAN}-01", None),
        (f"00-{'0' * 32}-{SPAN}-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (f"00-{TRACE.upper()}-{SPAN}-01", None),
        ("00-1-2-01", None),
        ("", None),
    ],
)
def test_only_a_well_formed_traceparent_counts(given: str, parent: Parent | None) -> None:
    assert parent_of([(b"traceparent", given.encode())]) == parent


@pytest.mark.django_db(transaction=True)
def test_a_jobs_run_is_a_trace_of_its_own(receiver: Receiver) -> None:
    from console.jobs.actions import enqueue
    from console.jobs.execute import run
    from console.jobs.transitions import take
    from tests.console.jobs import kinds_of_work  # noqa: F401 - registers the kinds

    tracing.start(endpoint=receiver.url)
    job = enqueue(actor=Actor.person("mia"), kind="test.steps", subject="a model", arguments={"steps": 1})
    mine = take(job.pk)
    assert mine is not None
    run(mine)
    tracing.stop(60.0)
    (told,) = receiver.spans
    assert told.name == "job test.steps" and not told.parent_id and not told.is_failed
    assert told.attributes == {"pilothouse.job.id": job.pk, "pilothouse.job.kind": "test.steps"}


def test_two_traceparents_count_as_none() -> None:
    header = (b"traceparent", f"00-{TRACE}-{SPAN}-01".encode())
    assert parent_of([header, header]) is None


def test_headers_are_read_as_the_standard_writes_them() -> None:
    assert read_headers("Authorization=Basic%20abc%3D, x-team = one,,nothing") == {
        "authorization": "Basic abc=",
        "x-team": "one",
    }
