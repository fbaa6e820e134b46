"""The one list of panels. Grafana's dashboards, the console's page and the recorder are made from it."""

from __future__ import annotations

from django.utils.translation import gettext_lazy as _

from monitoring.panels.panel import Group, Line, Panel, Unit
from monitoring.panels.query import Gauge, Quantile, Rate, Ratio, Selector


def of(name: str, **where: str) -> Selector:
    """Series with the labels of an arm."""
    return Selector(f"pilothouse_{name}", tuple(where.items()))


def alone(name: str) -> Selector:
    """Series of the whole process."""
    return Selector(f"pilothouse_{name}", has_arm=False)


def quantiles(histogram: str) -> tuple[Line, ...]:
    return Line(Quantile(0.5, of(histogram)), "p50"), Line(Quantile(0.95, of(histogram)), "p95")


BY_REVISION = ("revision",)

REQUESTS = Group(
    "requests",
    _("Requests"),
    (
        Panel(
            "requests",
            _("Requests by outcome"),
            _("Accepted requests that ended, each counted once."),
            Unit.PER_SECOND,
            (Line(Rate(of("requests_total"), by=("outcome",))),),
        ),
        Panel(
            "failures",
            _("Failures by error code"),
            _("Accepted requests that failed."),
            Unit.PER_MINUTE,
            (Line(Rate(of("request_failures_total"), by=("error_code",), per=60)),),
        ),
        Panel(
            "refusals",
            _("Refusals by error code"),
            _("Requests refused before they were accepted: bad fields, unknown keys, limits, a full queue."),
            Unit.PER_MINUTE,
            (Line(Rate(alone("refusals_total"), by=("error_code",), per=60)),),
        ),
        Panel(
            "first_token",
            _("Time to first token"),
            _("From a request's arrival in the engine to its first token."),
            Unit.SECONDS,
            quantiles("time_to_first_token_seconds"),
        ),
        Panel(
            "inter_token",
            _("Time between tokens"),
            _("Every gap between two output tokens, by the engine's clock."),
            Unit.SECONDS,
            quantiles("inter_token_seconds"),
        ),
        Panel(
            "queue",
            _("Time in the queue"),
            _("From arrival to the first step that ran a part of the request."),
            Unit.SECONDS,
            quantiles("request_queue_seconds"),
        ),
        Panel(
            "duration",
            _("Whole duration"),
            _("From arrival to the end."),
            Unit.SECONDS,
            quantiles("request_seconds"),
        ),
    ),
)

ENGINE = Group(
    "engine",
    _("Engine"),
    (
        Panel(
            "tokens_out",
            _("Generated tokens by revision"),
            _("Tokens that the engine sampled, per second."),
            Unit.TOKENS,
            (Line(Rate(of("engine_generated_tokens_total"), by=BY_REVISION)),),
        ),
        Panel(
            "tokens_in",
            _("Prompt tokens by revision"),
            _("Prompt tokens of requests that the engine admitted, per second."),
            Unit.TOKENS,
            (Line(Rate(of("engine_prompt_tokens_total"), by=BY_REVISION)),),
        ),
        Panel(
            "batch",
            _("Running and waiting"),
            _("Requests in the batch, and in the engine's queue."),
            Unit.COUNT,
            (
                Line(Gauge(of("requests_running")), _("running")),
                Line(Gauge(of("requests_waiting")), _("waiting")),
            ),
        ),
        Panel(
            "kv",
            _("KV pool in use"),
            _("The part of the KV pool that requests hold; the fullest pool where there are several."),
            Unit.SHARE,
            (Line(Gauge(of("kv_usage_ratio"), how="max"), _("in use")),),
        ),
        Panel(
            "prefix",
            _("Prefix cache hits"),
            _("The part of looked-up prompt tokens that the prefix cache held."),
            Unit.SHARE,
            (
                Line(
                    Ratio(Rate(of("prefix_cache_hits_total")), Rate(of("prefix_cache_queries_total"))),
                    _("found"),
                ),
            ),
        ),
        Panel(
            "speculation",
            _("Speculation acceptance rate"),
            _("The part of the draft tokens that the model accepted."),
            Unit.SHARE,
            (
                Line(
                    Ratio(Rate(of("accepted_tokens_total")), Rate(of("drafted_tokens_total"))),
                    _("accepted"),
                ),
            ),
        ),
        Panel(
            "preemptions",
            _("Preemptions"),
            _("Requests put back into the queue because the KV pool was full."),
            Unit.PER_MINUTE,
            (Line(Rate(of("preemptions_total"), per=60), _("preempted")),),
        ),
        Panel(
            "step",
            _("Duration of a step"),
            _("The last step of the slowest engine."),
            Unit.SECONDS,
            (Line(Gauge(of("engine_step_seconds"), how="max"), _("slowest")),),
        ),
        Panel(
            "heartbeat",
            _("Heartbeat"),
            _("Time since the last step while there is work; it should stay near one step's duration."),
            Unit.SECONDS,
            (Line(Gauge(of("engine_heartbeat_age_seconds"), how="max"), _("oldest")),),
        ),
        Panel(
            "up",
            _("Engines alive"),
            _("1 while a revision's loop is alive, 0 when it has ended."),
            Unit.COUNT,
            (Line(Gauge(of("engine_up"), by=BY_REVISION, how="min")),),
        ),
        Panel(
            "memory",
            _("Memory by revision"),
            _("Weights and KV pool of what is loaded."),
            Unit.BYTES,
            (Line(Gauge(of("revision_memory_bytes"), by=BY_REVISION)),),
        ),
    ),
)

ROLLOUTS = Group(
    "rollouts",
    _("Revisions side by side"),
    (
        Panel(
            "arm_weight",
            _("Share by revision"),
            _("The share of requests that a route gives to a revision, in percent."),
            Unit.PERCENT,
            (Line(Gauge(of("route_weight"), by=("model", "revision"))),),
        ),
        Panel(
            "arm_requests",
            _("Requests by revision"),
            _("Accepted requests that ended."),
            Unit.PER_SECOND,
            (Line(Rate(of("requests_total"), by=BY_REVISION)),),
        ),
        Panel(
            "arm_failures",
            _("Part that failed, by revision"),
            _("Failed requests of all that ended."),
            Unit.SHARE,
            (
                Line(
                    Ratio(
                        Rate(of("requests_total", outcome="failed"), by=BY_REVISION),
                        Rate(of("requests_total"), by=BY_REVISION),
                    )
                ),
            ),
        ),
        Panel(
            "arm_first_token",
            _("Time to first token by revision, p95"),
            _("95 of 100 requests had their first token sooner."),
            Unit.SECONDS,
            (Line(Quantile(0.95, of("time_to_first_token_seconds"), by=BY_REVISION)),),
        ),
        Panel(
            "arm_inter_token",
            _("Time between tokens by revision, p95"),
            _("95 of 100 gaps between tokens were shorter."),
            Unit.SECONDS,
            (Line(Quantile(0.95, of("inter_token_seconds"), by=BY_REVISION)),),
        ),
    ),
)

HOUSE = Group(
    "house",
    _("Server"),
    (
        Panel(
            "http",
            _("HTTP responses by class"),
            _("Answers of pages and APIs."),
            Unit.PER_SECOND,
            (Line(Rate(alone("http_responses_total"), by=("status_class",))),),
        ),
        Panel(
            "sockets",
            _("WebSocket connections"),
            _("Connections that are open."),
            Unit.COUNT,
            (Line(Gauge(alone("websocket_connections")), _("open")),),
        ),
        Panel(
            "cpu",
            _("CPU of the process"),
            _("Seconds of CPU time per second: 1 is one core."),
            Unit.COUNT,
            (Line(Rate(alone("process_cpu_seconds_total")), _("cores")),),
        ),
        Panel(
            "memory_process",
            _("Memory of the process"),
            _("Resident memory."),
            Unit.BYTES,
            (Line(Gauge(alone("process_resident_memory_bytes")), _("resident")),),
        ),
        Panel(
            "jobs",
            _("Jobs by state"),
            _("Jobs that wait or run, and those that ended within the last day."),
            Unit.COUNT,
            (Line(Gauge(alone("jobs"), by=("state",), how="max")),),
        ),
    ),
)

GROUPS = (REQUESTS, ENGINE, ROLLOUTS, HOUSE)
PANELS = {panel.id: panel for group in GROUPS for panel in group.panels}
SAMPLE_NAMES = frozenset(name for panel in PANELS.values() for name in panel.sample_names())
