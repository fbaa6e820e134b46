"""What /metrics shows after requests ended and while the engine runs, under our names and under vLLM's."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
from django.test import RequestFactory
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from inference.protocol.events import Timings, Usage
from inference.protocol.stats import PromptStats, RevisionStats
from monitoring import collect, views
from monitoring.collect import VLLM_NAMES, EngineCollector, exposition
from monitoring.metrics import observe_refusal, observe_request, observe_response
from tests.monitoring.conftest import Configure

Labels = frozenset[tuple[str, str]]


def samples(families: Iterable[Metric] | None = None) -> dict[tuple[str, Labels], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in (exposition().collect() if families is None else families)
        for sample in family.samples
    }


def value(name: str, **labels: str) -> float:
    return samples().get((name, frozenset(labels.items())), 0.0)


def end_a_request(model: str, **changes: object) -> None:
    facts: dict[str, object] = {
        "model": model,
        "revision": "r1",
        "endpoint": "chat.completions",
        "transport": "sse",
        "outcome": "finished",
        "finish_reason": "stop",
        "error_code": "",
        "usage": Usage(prompt_tokens=100, cached_tokens=48, completion_tokens=4),
        "timings": Timings(
            queue_seconds=0.25,
            first_token_seconds=0.75,
            total_seconds=1.5,
            inter_token_seconds=(0.2, 0.25, 0.3),
        ),
    }
    observe_request(**(facts | changes))  # type: ignore[arg-type]


def test_a_request_that_ended_is_counted_once_with_its_tokens() -> None:
    end_a_request("counted")
    arm = {"model": "counted", "revision": "r1"}
    assert (
        value(
            "pilothouse_requests_total",
            **arm,
            endpoint="chat.completions",
            transport="sse",
            outcome="finished",
            finish_reason="stop",
        )
        == 1
    )
    assert value("pilothouse_request_prompt_tokens_sum", **arm) == 100
    assert value("pilothouse_request_output_tokens_sum", **arm) == 4
    assert value("pilothouse_cached_prompt_tokens_total", **arm) == 48


def test_times_are_split_into_queue_prefill_and_decode() -> None:
    end_a_request("timed")
    arm = {"model": "timed", "revision": "r1"}
    assert value("pilothouse_request_queue_seconds_sum", **arm) == 0.25
    assert value("pilothouse_request_prefill_seconds_sum", **arm) == 0.5
    assert value("pilothouse_time_to_first_token_seconds_sum", **arm) == 0.75
    assert value("pilothouse_request_decode_seconds_sum", **arm) == 0.75
    assert value("pilothouse_request_seconds_sum", **arm) == 1.5
    assert value("pilothouse_inter_token_seconds_count", **arm) == 3
    assert value("pilothouse_request_seconds_per_token_sum", **arm) == pytest.approx(0.25)


def test_request_that_failed_in_the_queue_has_no_first_token() -> None:
    end_a_request(
        "failed",
        outcome="failed",
        finish_reason="failed",
        error_code="queue_timeout",
        timings=Timings(queue_seconds=120.0, total_seconds=120.0),
    )
    arm = {"model": "failed", "revision": "r1"}
    assert value("pilothouse_request_failures_total", **arm, error_code="queue_timeout") == 1
    assert value("pilothouse_time_to_first_token_seconds_count", **arm) == 0
    assert value("pilothouse_request_queue_seconds_count", **arm) == 1


def test_refusals_are_counted_by_code_and_responses_by_status_class() -> None:
    observe_refusal(endpoint="chat.completions", error_code="unsupported_parameter")
    observe_response(route="chat", method="POST", status=404)
    observe_response(route="chat", method="BREW", status=405)
    assert (
        value("pilothouse_refusals_total", endpoint="chat.completions", error_code="unsupported_parameter")
        == 1
    )
    assert value("pilothouse_http_responses_total", route="chat", method="POST", status_class="4xx") == 1
    assert value("pilothouse_http_responses_total", route="chat", method="other", status_class="4xx") == 1


def test_engine_figures_are_read_from_the_snapshot(engine_tells: Configure) -> None:
    engine_tells(
        RevisionStats(
            "r7", num_running=3, num_waiting=2, num_blocks=40, num_blocks_used=10, num_generated_tokens=99
        )
    )
    arm = {"model": "r7", "revision": "r7"}
    assert value("pilothouse_requests_running", **arm) == 3
    assert value("pilothouse_requests_waiting", **arm) == 2
    assert value("pilothouse_kv_usage_ratio", **arm) == 0.25
    assert value("pilothouse_engine_generated_tokens_total", **arm) == 99
    engine_tells(RevisionStats("r7", num_running=0))
    assert value("pilothouse_requests_running", **arm) == 0


def test_engine_figures_carry_the_public_model_name_once_it_is_known(
    engine_tells: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collect, "_model_names", {})
    collect.name_revision(revision="r7", model="smollm2-135m")
    engine_tells(RevisionStats("r7", num_running=3))
    assert value("vllm:num_requests_running", model_name="smollm2-135m", revision="r7") == 3


def test_heartbeat_age_counts_only_while_there_is_work(engine_tells: Configure) -> None:
    ages = []
    for has_work in (True, False):
        engine = engine_tells(RevisionStats("r1", has_work=has_work, last_step_at=90.0))
        collector = EngineCollector(engine.stats, clock=lambda: 100.0)
        ages.append(samples(collector.collect())["pilothouse_engine_heartbeat_age_seconds", ARM])
    assert ages == [10.0, 0.0]


def test_prompts_that_wait_and_processes_that_were_ended_are_told(engine_tells: Configure) -> None:
    prompts = PromptStats(num_waiting=2, oldest_since=90.0, num_ended=3, error="stopped")
    engine = engine_tells(RevisionStats("r1", prompts=prompts))
    told = samples(EngineCollector(engine.stats, clock=lambda: 100.0).collect())
    assert told["pilothouse_prompts_waiting", ARM] == 2
    assert told["pilothouse_prompt_oldest_age_seconds", ARM] == 10.0
    assert told["pilothouse_prompts_up", ARM] == 0
    assert told["pilothouse_prompt_processes_ended_total", ARM] == 3


ARM = frozenset({("model", "r1"), ("revision", "r1")})


def test_every_alias_tells_the_same_values_under_vllms_labels(engine_tells: Configure) -> None:
    engine_tells(RevisionStats("r1", num_running=3, num_blocks=4, num_blocks_used=1, num_prefix_hits=5))
    end_a_request("aliased")
    families = {family.name: family for family in exposition().collect()}
    for name, aliases in VLLM_NAMES.items():
        ours = [sample for sample in families[name].samples if not sample.name.endswith("_created")]
        for alias in aliases:
            theirs = families[alias].samples
            assert [sample.value for sample in theirs] == [sample.value for sample in ours]
            assert all("model_name" in sample.labels and "model" not in sample.labels for sample in theirs)
            assert all(sample.name.startswith(alias) for sample in theirs)


def test_no_two_series_are_the_same(engine_tells: Configure) -> None:
    engine_tells(RevisionStats("r1"), RevisionStats("r2"))
    for reason in ("stop", "length", "budget", "cancelled", "failed"):
        end_a_request("reasons", finish_reason=reason)
    series = [
        (sample.name, frozenset(sample.labels.items()))
        for family in exposition().collect()
        for sample in family.samples
    ]
    assert len(series) == len(set(series))


def test_no_label_can_hold_a_key_a_user_or_a_request() -> None:
    end_a_request("labels")
    labels = {label for family in exposition().collect() for one in family.samples for label in one.labels}
    ours = "model revision endpoint transport outcome finish_reason error_code route method status_class le"
    console = "state act"
    vllms = "model_name finished_reason"
    pythons = "generation version implementation major minor patchlevel"
    assert labels <= {*ours.split(), *console.split(), *vllms.split(), *pythons.split()}


@pytest.mark.parametrize(
    ("accept", "parse"),
    [
        ("text/plain", parse_text),
        ("application/openmetrics-text;version=1.0.0,text/plain;q=0.5", parse_openmetrics),
    ],
)
async def test_view_answers_in_the_format_that_the_scraper_accepts(
    engine_tells: Configure, accept: str, parse: Callable[[str], Iterable[Metric]]
) -> None:
    engine_tells(RevisionStats("r1", num_generated_tokens=17))
    response = await views.metrics(RequestFactory().get("/metrics", headers={"accept": accept}))
    families = list(parse(response.content.decode()))
    assert response["Content-Type"].startswith(accept.split(";", maxsplit=1)[0])
    assert samples(families)["vllm:generation_tokens_total", ARM_VLLM] == 17


ARM_VLLM = frozenset({("model_name", "r1"), ("revision", "r1")})


async def test_health_view_answers_503_with_the_reason_for_a_dead_engine(engine_tells: Configure) -> None:
    engine_tells(RevisionStats("r1", is_alive=False, error="CUDA fault"))
    response = await views.health(RequestFactory().get("/health"))
    assert response.status_code == 503
    assert b"CUDA fault" in response.content
    engine_tells(RevisionStats("r1"))
    assert (await views.health(RequestFactory().get("/health"))).status_code == 200


async def test_probes_refuse_to_be_posted_to() -> None:
    assert (await views.health(RequestFactory().post("/health"))).status_code == 405
