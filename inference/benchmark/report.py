"""A benchmark's figures as lines to read; the JSON report has all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from inference.benchmark.ceilings import Ceilings

TARGET_CACHE_RATIO = 2.5  # shared130: with the prefix cache over without
CACHE_ON, CACHE_OFF = "cache on", "cache off"


def figure_of(runs: Sequence[dict[str, Any]]) -> str:
    """The key of a list's main figure: prompt tokens per second where hardly anything is generated."""
    is_prefill = runs[0]["output_tokens"] * 20 < runs[0]["prompt_tokens"]
    return "prompt_tokens_per_second" if is_prefill else "output_tokens_per_second"


def best(runs: Sequence[dict[str, Any]], figure: str) -> float:
    """Of several runs the best: the others were disturbed."""
    return max(float(run[figure]) for run in runs)


def run_lines(name: str, run: dict[str, Any]) -> Iterator[str]:
    """One run of one list."""
    figure = figure_of([run])
    unit = "prompt tokens/s" if figure.startswith("prompt") else "tokens/s"
    percent = run["roofline_percent"]
    roofline = "" if percent is None else f", roofline {percent} %"
    busy = f", device busy {run['device_busy_percent']} %" if "device_busy_percent" in run else ""
    yield f"{name}: {run[figure]:,.1f} {unit} in {run['seconds']} s, {run['steps']} steps{roofline}{busy}"
    device = f" | device: {_stages(run['device_ms_per_step'])}" if "device_ms_per_step" in run else ""
    yield f"  ms per step, host: {_stages(run['host_ms_per_step'])}{device}"
    first, gaps = _stages(run["first_token_ms"]), _stages(run["between_tokens_ms"])
    memory = f"{run['peak_bytes'] / 2**30:.2f} GiB"
    yield f"  first token ms: {first} | between tokens ms: {gaps or 'none'} | peak memory {memory}"
    if drafted := run["drafted_tokens"]:
        yield f"  drafted {drafted} tokens, accepted {run['accepted_tokens'] / drafted:.1%}"
    if "steady_p99_over_median" in run:
        yield (
            f"  steady streams: median {run['steady_median_ms']} ms, p99 {run['steady_p99_ms']} ms, "
            f"ratio {run['steady_p99_over_median']} (target: at most {run['wanted_at_most']}); "
            f"first token of long prompts ms: {_stages(run['long_first_token_ms'])}"
        )


def cache_line(name: str, *, off: list[dict[str, Any]], on: list[dict[str, Any]]) -> str:
    """A list without the prefix cache and with it."""
    figure = "output_tokens_per_second"
    without, with_cache = best(off, figure), best(on, figure)
    found = on[0]["cached_tokens"] / on[0]["prompt_tokens"]
    return (
        f"{name}: {with_cache:,.1f} tokens/s with the prefix cache ({found:.0%} of prompt tokens found), "
        f"{without:,.1f} without: ratio {with_cache / without:.2f} "
        f"(shared130, target: at least {TARGET_CACHE_RATIO})"
    )


def ceilings_line(device: str, ceilings: Ceilings) -> str:
    """The device's peaks as one line."""
    copied, products = ceilings.copy_bytes_per_second, ceilings.flops_per_second
    return (
        f"{device}: copies {copied / 1e9:,.1f} GB/s, multiplies {products / 1e12:,.2f} TFLOP/s"
        f" ({ceilings.products})"
    )


def peer_line(name: str, peer: str, ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> str:
    """The better run of each, and the ratio."""
    figure = figure_of(ours)
    our_best, their_best = best(ours, figure), best(theirs, figure)
    ratio = our_best / their_best
    return f"{name}: ours {our_best:,.1f}, {peer} {their_best:,.1f} {figure}: ratio {ratio:.3f}"


def _stages(milliseconds: dict[str, float]) -> str:
    return " ".join(f"{stage} {value:g}" for stage, value in milliseconds.items() if value)
