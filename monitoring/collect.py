"""What is read at a scrape: the engine's gauges and counters, and everything again under vLLM's names.

An alias is the same family renamed while it is written out, so both names always tell the same value.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

import inference.client
from inference.protocol.stats import ModelCard, RevisionStats, Stats
from monitoring.metrics import ARM, REGISTRY, begin_failures
from monitoring.provided import PROVIDED

Reading = Callable[[RevisionStats, float], float]  # the snapshot and time.monotonic() -> value

GAUGES: tuple[tuple[str, str, Reading], ...] = (
    ("requests_running", "Requests in the running batch.", lambda stats, _: stats.num_running),
    ("requests_waiting", "Requests in the engine's queue.", lambda stats, _: stats.num_waiting),
    ("kv_blocks", "Blocks of the KV pool.", lambda stats, _: stats.num_blocks),
    ("kv_blocks_used", "KV blocks that requests hold.", lambda stats, _: stats.num_blocks_used),
    (
        "kv_blocks_cached",
        "KV blocks that are free but remembered by the prefix cache.",
        lambda stats, _: stats.num_blocks_cached,
    ),
    (
        "kv_usage_ratio",
        "Part of the KV pool that requests hold, 0 to 1.",
        lambda stats, _: stats.num_blocks_used / stats.num_blocks if stats.num_blocks else 0.0,
    ),
    ("engine_step_seconds", "Duration of the last step.", lambda stats, _: stats.last_step_seconds),
    (
        "engine_heartbeat_age_seconds",
        "Time since the last step, 0 while there is nothing to do.",
        lambda stats, now: now - stats.last_step_at if stats.has_work and stats.last_step_at else 0.0,
    ),
    ("engine_up", "1 while the engine's loop is alive.", lambda stats, _: float(stats.is_alive)),
    (
        "prompts_waiting",
        "Prompts that wait for chat template and tokenizer, or are in work there.",
        lambda stats, _: stats.prompts.num_waiting,
    ),
    (
        "prompt_oldest_age_seconds",
        "Time since the first of them came, 0 while there is none.",
        lambda stats, now: now - stats.prompts.oldest_since if stats.prompts.oldest_since else 0.0,
    ),
    (
        "prompts_up",
        "1 while prompts can be prepared, 0 after the process for it was ended several times in a row.",
        lambda stats, _: float(not stats.prompts.error),
    ),
)
COUNTERS: tuple[tuple[str, str, Reading], ...] = (
    ("engine_steps", "Steps of the engine.", lambda stats, _: stats.num_steps),
    ("engine_prompt_tokens", "Prompt tokens of admitted requests.", lambda stats, _: stats.num_prompt_tokens),
    ("engine_generated_tokens", "Tokens sampled.", lambda stats, _: stats.num_generated_tokens),
    (
        "preemptions",
        "Requests put back into the queue.",
        lambda stats, _: stats.num_preemptions,
    ),
    (
        "prefix_cache_queries",
        "Prompt tokens looked up.",
        lambda stats, _: stats.num_prefix_queries,
    ),
    ("prefix_cache_hits", "Prompt tokens found cached.", lambda stats, _: stats.num_prefix_hits),
    (
        "drafted_tokens",
        "Draft tokens that were verified (speculative decoding).",
        lambda stats, _: stats.num_drafted_tokens,
    ),
    ("accepted_tokens", "Draft tokens that were accepted.", lambda stats, _: stats.num_accepted_tokens),
    (
        "prompt_processes_ended",
        "Processes for chat template and tokenizer that took too much and were ended, or died.",
        lambda stats, _: stats.prompts.num_ended,
    ),
)

# Several old and new names of vLLM point to one family, because dashboards of several years are in use.
VLLM_NAMES: dict[str, tuple[str, ...]] = {
    "pilothouse_requests_running": ("vllm:num_requests_running",),
    "pilothouse_requests_waiting": ("vllm:num_requests_waiting",),
    "pilothouse_kv_usage_ratio": ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
    "pilothouse_preemptions": ("vllm:num_preemptions",),
    "pilothouse_prefix_cache_queries": ("vllm:prefix_cache_queries",),
    "pilothouse_prefix_cache_hits": ("vllm:prefix_cache_hits",),
    "pilothouse_drafted_tokens": ("vllm:spec_decode_num_draft_tokens",),
    "pilothouse_accepted_tokens": ("vllm:spec_decode_num_accepted_tokens",),
    "pilothouse_engine_prompt_tokens": ("vllm:prompt_tokens",),
    "pilothouse_engine_generated_tokens": ("vllm:generation_tokens",),
    "pilothouse_cached_prompt_tokens": ("vllm:prompt_tokens_cached",),
    "pilothouse_requests": ("vllm:request_success",),
    "pilothouse_time_to_first_token_seconds": ("vllm:time_to_first_token_seconds",),
    "pilothouse_inter_token_seconds": (
        "vllm:inter_token_latency_seconds",
        "vllm:time_per_output_token_seconds",
    ),
    "pilothouse_request_seconds_per_token": ("vllm:request_time_per_output_token_seconds",),
    "pilothouse_request_seconds": ("vllm:e2e_request_latency_seconds",),
    "pilothouse_request_queue_seconds": ("vllm:request_queue_time_seconds",),
    "pilothouse_request_prefill_seconds": ("vllm:request_prefill_time_seconds",),
    "pilothouse_request_decode_seconds": ("vllm:request_decode_time_seconds",),
    "pilothouse_request_prompt_tokens": ("vllm:request_prompt_tokens",),
    "pilothouse_request_output_tokens": ("vllm:request_generation_tokens",),
}
VLLM_LABELS = {"model": "model_name", "finish_reason": "finished_reason"}
VLLM_FINISH_REASONS = {"cancelled": "abort", "failed": "error"}  # one to one, or two series would collide

# The process under our own name, too: every other process that Prometheus scrapes has the common one.
PROCESS = ProcessCollector(namespace="pilothouse", registry=None)

_model_names: dict[str, str] = {}


def name_revision(*, revision: str, model: str) -> None:
    """Show the engine's figures of a revision under its public model name, instead of its own id."""
    if _model_names.get(revision) != model:
        _model_names[revision] = model
        begin_failures(model=model, revision=revision)


class EngineCollector(Collector):
    """Reads the engine's snapshot once per scrape; a process without an engine shows the names alone."""

    def __init__(
        self,
        read_stats: Callable[[], Stats],
        read_cards: Callable[[], Iterable[ModelCard]] = tuple,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read_stats = read_stats
        self._read_cards = read_cards
        self._clock = clock

    def describe(self) -> list[Metric]:
        """The names, without a reading: a registry asks for them once to find duplicates."""
        return list(self._families(Stats(), ()))

    def collect(self) -> Iterator[Metric]:
        try:
            stats, cards = self._read_stats(), tuple(self._read_cards())
        except RuntimeError:  # no engine in this process
            stats, cards = Stats(), ()
        yield from self._families(stats, cards)

    def _families(self, stats: Stats, cards: Iterable[ModelCard]) -> Iterator[Metric]:
        now = self._clock()
        for family_class, table in ((GaugeMetricFamily, GAUGES), (CounterMetricFamily, COUNTERS)):
            for name, help_text, reading in table:
                family = family_class(f"pilothouse_{name}", help_text, labels=ARM)
                for revision in stats.revisions:
                    family.add_metric(_arm(revision.revision), reading(revision, now))
                yield family
        memory = GaugeMetricFamily(
            "pilothouse_revision_memory_bytes", "Memory that a loaded revision takes.", labels=ARM
        )
        for card in cards:
            memory.add_metric(_arm(card.revision), _memory_bytes(card))
        yield memory
        yield GaugeMetricFamily(
            "pilothouse_draining", "1 while the process lets its last requests end.", float(stats.is_draining)
        )


def _arm(revision: str) -> tuple[str, str]:
    return _model_names.get(revision, revision), revision


def _memory_bytes(card: ModelCard) -> float:
    return card.memory_bytes or card.weight_bytes  # a placement that measures no pool tells the weights


class WithAliases(Collector):
    """A registry's families, each followed by its copies under vLLM's names."""

    def __init__(self, registry: Collector) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        for family in self._registry.collect():
            yield family
            for alias in VLLM_NAMES.get(family.name, ()):
                yield renamed(family, alias)


def renamed(family: Metric, alias: str) -> Metric:
    """The same samples under another family name and vLLM's labels."""
    copy = Metric(alias, family.documentation, family.type, family.unit)
    for sample in family.samples:
        if sample.name.endswith("_created"):
            continue
        labels = {VLLM_LABELS.get(label, label): value for label, value in sample.labels.items()}
        if "finished_reason" in labels:
            reason = labels["finished_reason"]
            labels["finished_reason"] = VLLM_FINISH_REASONS.get(reason, reason)
        copy.samples.append(Sample(alias + sample.name.removeprefix(family.name), labels, *sample[2:]))
    return copy


def exposition() -> Collector:
    """All that `/metrics` shows."""
    return WithAliases(REGISTRY)


def recorded(names: frozenset[str]) -> Iterator[Metric]:
    """The families of these samples alone: a recorder asks every few seconds."""
    yield from REGISTRY.restricted_registry(names).collect()
    yield from PROCESS.collect()  # these two tell no names beforehand
    yield from PROVIDED.collect()


def _register(registry: CollectorRegistry) -> None:
    registry.register(
        EngineCollector(
            lambda: inference.client.current().stats(), lambda: inference.client.current().models()
        )
    )
    registry.register(PROVIDED)
    registry.register(PROCESS)
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)


_register(REGISTRY)
