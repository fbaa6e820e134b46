"""The memory budget: what revisions may take together, what each may plan with, and what fits beside what."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from django.db.models import Max

from console.catalog.engine_settings import in_play
from console.catalog.models import Deployment, ReconcilerLease, Revision
from console.deployments.memory_estimate import pool_of, weight_bytes
from console.environment import environment
from inference import client
from inference.config import EngineConfig
from inference.protocol.stats import Device

CPU_SHARE = 0.60  # of what was available at start: conversions, the page cache and others need the rest
CUDA_SHARE = 0.90  # of a GPU's total: the rest is the driver's, and fragmentation
IN_MEMORY = (Deployment.State.LOADING, Deployment.State.READY, Deployment.State.UNLOADING)


@dataclass(frozen=True, slots=True)
class Need:
    """What a revision takes, weights and KV pool."""

    bytes: int
    is_measured: bool  # at its last load on this device; else estimated from its files


@dataclass(frozen=True, slots=True)
class Fit:
    """Whether revisions fit into memory together, beside those that cannot leave."""

    need: int
    free: int  # now
    budget: int
    fits: bool
    would_leave: tuple[str, ...]  # of those in memory, the least recently used first


def device() -> Device:
    """Where models are loaded; in a process without an engine, as the reconciler wrote it down."""
    try:
        return client.current().device()
    except RuntimeError:
        row = ReconcilerLease.objects.exclude(device={}).first()
    if row is not None:
        return Device(**row.device)
    page_bytes = os.sysconf("SC_PAGE_SIZE")
    total, free = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_AVPHYS_PAGES")
    return Device("cpu", "float32", total_bytes=total * page_bytes, free_bytes=free * page_bytes)


def budget() -> int:
    """Bytes that revisions may take together."""
    given = environment().memory_budget
    if given is not None:
        return int(given)
    on = device()
    return int(on.total_bytes * CUDA_SHARE if on.name == "cuda" else on.free_bytes * CPU_SHARE)


def settings_of(revision: Revision) -> EngineConfig:
    """The revision's own settings over those of the environment."""
    return EngineConfig(**in_play(revision))


def allowance(revision: Revision) -> int:
    """What a revision may take in all: its share of the budget; more where its weights alone need that.

    Then one whole context is what its pool should hold. Never more than the budget, unless not even the
    smallest useful pool fits: then what that would take, so that it can be refused.
    """
    on, config, total = device(), settings_of(revision), budget()
    weights, pool = weight_bytes(revision, config, on), pool_of(revision, config, on)
    if pool is None:
        return max(int(total * environment().memory_share), weights)
    if config.num_blocks:
        return weights + config.num_blocks * pool.block_bytes
    one_context = weights + pool.blocks_per_context * pool.block_bytes
    least = weights + pool.least_blocks * pool.block_bytes
    return max(min(max(int(total * environment().memory_share), one_context), total), least)


def need(revision: Revision) -> Need:
    """What a revision takes: as measured at its last load on this device, or as estimated."""
    return need_of(Deployment.objects.filter(revision=revision).first() or Deployment(revision=revision))


def need_of(deployment: Deployment) -> Need:
    """`need`, where the row is at hand."""
    revision = deployment.revision
    on, most = device(), allowance(revision)
    if deployment.memory_bytes:
        was_on = str(deployment.card.get("device", "")).partition(":")[0]
        if was_on == on.name and deployment.memory_bytes <= most:
            return Need(deployment.memory_bytes, is_measured=True)
    return Need(_estimate(revision, on, most), is_measured=False)


def fits(*, wanted: Sequence[str]) -> Fit:
    """Whether these revisions fit into memory together, and which others would have to leave for them."""
    total = budget()
    revisions = Revision.objects.filter(id__in=wanted)
    needed = sum(need(revision).bytes for revision in revisions)
    others = (
        Deployment.objects.filter(state__in=IN_MEMORY)
        .exclude(revision_id__in=wanted)
        .select_related("revision")
        .annotate(weight=Max("revision__arms__weight"))
        .order_by("last_used_at")
    )
    sizes = {other.revision_id: need_of(other).bytes for other in others}
    free = total - sum(sizes.values())
    leaving, room = list[str](), free
    for other in others:
        if room < needed and not (other.is_pinned or other.is_forced or other.weight):
            leaving.append(other.revision_id)
            room += sizes[other.revision_id]
    return Fit(needed, free, total, needed <= room, tuple(leaving) if needed <= room else ())


def _estimate(revision: Revision, on: Device, most: int) -> int:
    config = settings_of(revision)
    weights, pool = weight_bytes(revision, config, on), pool_of(revision, config, on)
    if pool is None or config.num_blocks:
        return most
    if not config.batching:  # a request's cache may grow to a whole context
        return weights + pool.max_model_len * pool.token_bytes
    return max(weights + pool.blocks_within(most - weights) * pool.block_bytes, weights)
