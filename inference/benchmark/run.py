"""The engine alone on request lists, without HTTP: speed, where a step's time goes, and a peer beside it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from transformers import AutoConfig, PretrainedConfig

from inference.benchmark.arrivals import ARRIVALS, measure_arrivals
from inference.benchmark.ceilings import measure_ceilings
from inference.benchmark.environment import clocks, environment, fingerprint
from inference.benchmark.measure import Meter
from inference.benchmark.peers.offline import PEERS, PeerFailed, run_peer
from inference.benchmark.report import CACHE_OFF, CACHE_ON, cache_line, ceilings_line, peer_line, run_lines
from inference.benchmark.shapes import SHAPES, random_model, shape_config
from inference.benchmark.workloads import WORKLOADS, Item
from inference.config import Attention, EngineConfig, KvDtype, Quantization, RevisionSpec
from inference.execution.build import assemble, build_engine
from inference.models.device import choose_device, choose_dtype
from inference.protocol.errors import RequestRejected
from inference.scheduling.engine import Engine

DEFAULT_MODEL_LEN = 4096  # as the peers are set; more where a list needs more
LONG_MODEL_LEN = 20_480
WARM_UP = [Item(tuple(range(3, 35)), 8)] * 2


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m inference.benchmark", description=__doc__)
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("folder", nargs="?", type=Path, help="a model folder: config, safetensors, tokenizer")
    model.add_argument("--shape", choices=SHAPES, help="instead: random weights of this shape")
    names = ", ".join([*WORKLOADS, *ARRIVALS])
    parser.add_argument("--workloads", default="chat1,chat8,chat32", help=f"of: {names}")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--peer", choices=PEERS, help="run the same lists through it first, in a child process"
    )
    parser.add_argument("--gguf", type=Path, help="what the peer llama_cpp reads")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto")
    parser.add_argument("--quantization", choices=get_args(Quantization))
    parser.add_argument("--quantize-head", action="store_true", help="the output layer, too")
    parser.add_argument("--kv-dtype", choices=get_args(KvDtype), default="auto")
    parser.add_argument("--attention", choices=get_args(Attention), default="auto")
    parser.add_argument(
        "--draft-tokens",
        type=int,
        default=0,
        help="n-gram speculation; measured on copy1, copy8, copy32",
    )
    parser.add_argument(
        "--repeating",
        type=float,
        metavar="STD",
        help="with --shape: weights that repeat the copied lists' passage, the more often the larger this "
        "standard deviation of its embeddings (1: always)",
    )
    parser.add_argument("--max-model-len", type=int)
    parser.add_argument("--threads", type=int, help="CPU threads of torch")
    parser.add_argument("--max-batch-tokens", type=int)
    parser.add_argument("--num-blocks", type=int)
    parser.add_argument(
        "--prefix-caching",
        nargs="?",
        choices=("off", "on", "both"),
        default="off",
        const="on",
        help="off by default, as in the peers; both: every list with it and without, and the ratio",
    )
    parser.add_argument(
        "--float32-logits", action="store_true", help="on a GPU: logits that are not rounded to the dtype"
    )
    parser.add_argument(
        "--without", nargs="*", choices=("graphs", "fusing", "overlap"), default=(), help="switch these off"
    )
    parser.add_argument("--json", type=Path, help="also write the report here")
    options = parser.parse_args(argv)
    options.lists = options.workloads.split(",")
    if unknown := [name for name in options.lists if name not in WORKLOADS and name not in ARRIVALS]:
        parser.error(f"there is no list {unknown[0]!r}; there are {names}")
    if options.repeating is not None and not options.shape:
        parser.error("--repeating makes random weights, so it needs --shape")
    if options.peer and options.prefix_caching == "both":
        parser.error("with --peer, --prefix-caching is on or off")
    return options


def config_of(options: argparse.Namespace) -> EngineConfig:
    """The engine's settings that the command line asks for."""
    return EngineConfig(
        dtype=options.dtype,
        attention=options.attention,
        quantization=options.quantization,
        quantize_head=options.quantize_head,
        kv_dtype=options.kv_dtype,
        num_draft_tokens=options.draft_tokens,
        max_model_len=options.max_model_len,
        num_threads=options.threads,
        max_batch_tokens=options.max_batch_tokens,
        num_blocks=options.num_blocks,
        prefix_caching=options.prefix_caching != "off",
        cuda_graphs="graphs" not in options.without,
        fused_layers="fusing" not in options.without,
        overlap="overlap" not in options.without,
        float32_logits=options.float32_logits,
    )


def engine_of(options: argparse.Namespace) -> Engine:
    """Loaded and ready."""
    config = config_of(options)
    if options.folder:
        return build_engine(RevisionSpec(options.folder.name, options.folder, config))
    loaded = random_model(
        options.shape,
        config,
        max_model_len=config.max_model_len or DEFAULT_MODEL_LEN,
        embedding_std=options.repeating,
    )
    return assemble(loaded, RevisionSpec(options.shape, Path(), config))


def describe(options: argparse.Namespace) -> PretrainedConfig:
    """The model's config, before any weight is read."""
    if options.folder:
        return AutoConfig.from_pretrained(options.folder, local_files_only=True, trust_remote_code=False)
    return shape_config(options.shape)


def choose_context(options: argparse.Namespace, config: PretrainedConfig) -> int:
    """The context that all lists need; what the command line says comes first."""
    needed = LONG_MODEL_LEN if any(name in ARRIVALS for name in options.lists) else DEFAULT_MODEL_LEN
    own: int | None = getattr(config, "max_position_embeddings", None)
    return int(options.max_model_len or min(needed, own or needed))


def measure_peer(
    options: argparse.Namespace, dtype: torch.dtype, say: Callable[[str], None]
) -> dict[str, Any]:
    """Before this process has touched the device, of which the peer gets all. `dtype`: what ours is."""
    lists = [name for name in options.lists if name in WORKLOADS]
    if len(lists) < len(options.lists):
        say("the peer runs no lists with arrivals")
    say(f"{options.peer} runs the lists first")
    try:
        return run_peer(options.peer, options, lists, dtype=str(dtype).removeprefix("torch."))
    except PeerFailed as error:
        raise SystemExit(str(error)) from error


def measure_list(meter: Meter, name: str, repeats: int) -> list[dict[str, Any]]:
    """The runs of one list."""
    if name in ARRIVALS:
        return [measure_arrivals(meter, ARRIVALS[name]) for _ in range(repeats)]
    items = WORKLOADS[name](meter.engine.card.vocab_size)
    return [meter.measure(items) | {"list": fingerprint(items)} for _ in range(repeats)]


def measure_modes(
    meter: Meter, name: str, options: argparse.Namespace, say: Callable[[str], None]
) -> dict[str, list[dict[str, Any]]]:
    """The runs of one list by name; two names where the prefix cache is measured on and off."""
    is_both = options.prefix_caching == "both"
    found = {}
    for mode in (CACHE_OFF, CACHE_ON) if is_both else ("",):
        if mode:
            meter.engine.prefix_cache.is_enabled = mode == CACHE_ON
        label = f"{name}, {mode}" if mode else name
        found[label] = measure_list(meter, name, options.repeats)
        for run in found[label]:
            for line in run_lines(label, run):
                say(line)
    if is_both:
        say(cache_line(name, off=found[f"{name}, {CACHE_OFF}"], on=found[f"{name}, {CACHE_ON}"]))
    return found


def main(argv: Sequence[str] | None = None, *, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Measure the lists one after the other, each `repeats` times; returns and prints the report."""
    options = arguments(argv)
    options.max_model_len = choose_context(options, describe(options).get_text_config())
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    report: dict[str, Any] = {"workloads": {}}
    config = config_of(options)
    device = choose_device(config)
    dtype = choose_dtype(config, device)
    if options.peer:
        report["peer"] = {"name": options.peer, **measure_peer(options, dtype, say)}
    is_fp8 = "fp8" in (config.quantization or "")
    ceilings = measure_ceilings(device, dtype, is_fp8=is_fp8)
    try:
        engine = engine_of(options)
    except RequestRejected as error:
        raise SystemExit(f"the model cannot be loaded: {error}") from error
    report |= {"environment": environment(engine), "ceilings": ceilings.report()}
    say(ceilings_line(engine.card.device, ceilings))
    meter = Meter(engine, ceilings)
    meter.measure(WARM_UP)
    for name in options.lists:
        report["workloads"] |= measure_modes(meter, name, options, say)
        if options.peer and name in report["peer"]["workloads"]:
            theirs = report["peer"]["workloads"][name]
            say(peer_line(name, options.peer, report["workloads"][name], theirs))
    report["environment"]["clocks_after"] = clocks()
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))
    return report
