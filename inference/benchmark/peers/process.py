"""`python -m inference.benchmark.peers.process PEER`: another engine on our lists, its figures as JSON.

Started by peer_lists.py. The clock runs from the first request to the last token, as ours does.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from inference.benchmark.workloads import WORKLOADS, Item, fixed


class Peer(Protocol):
    """An engine that is ready."""

    vocab_size: int
    versions: dict[str, str]

    def generate(self, items: Sequence[Item]) -> int:
        """Run all items, each to exactly its length; the number of output tokens."""


def peer_of(options: argparse.Namespace) -> Peer:
    """The engine that is asked for, loaded."""
    if options.peer == "vllm":
        from inference.benchmark.peers.vllm_library import Vllm

        return Vllm(options)
    if options.peer == "llama_cpp":
        from inference.benchmark.peers.llama_cpp_library import LlamaCpp

        return LlamaCpp(options)
    from inference.benchmark.peers.transformers_library import Transformers

    return Transformers(options)


def measure(peer: Peer, items: Sequence[Item]) -> dict[str, Any]:
    started = time.perf_counter()
    num_output = peer.generate(items)
    seconds = time.perf_counter() - started
    num_prompt = sum(len(item.prompt) for item in items)
    return {
        "output_tokens": num_output,
        "prompt_tokens": num_prompt,
        "seconds": round(seconds, 3),
        "output_tokens_per_second": round(num_output / seconds, 2),
        "prompt_tokens_per_second": round(num_prompt / seconds, 2),
    }


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m inference.benchmark.peers.process")
    parser.add_argument("peer", choices=("vllm", "transformers", "llama_cpp"))
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--folder", type=Path)
    source.add_argument("--shape")
    source.add_argument("--gguf", type=Path)
    parser.add_argument("--lists", required=True, type=lambda text: text.split(","))
    parser.add_argument("--repeats", type=int, required=True)
    parser.add_argument("--figures", type=Path, required=True)
    parser.add_argument("--max-model-len", type=int, required=True)
    parser.add_argument("--prefix-caching", choices=("off", "on"), default="off")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--quantization")
    parser.add_argument("--kv-dtype")
    parser.add_argument("--threads", type=int)
    return parser.parse_args(argv)


def main() -> None:
    """Measure every list `repeats` times after a short warm-up."""
    options = arguments()
    peer = peer_of(options)
    peer.generate(fixed(8, 32, 8, vocab_size=peer.vocab_size))
    workloads = {
        name: [measure(peer, WORKLOADS[name](peer.vocab_size)) for _ in range(options.repeats)]
        for name in options.lists
    }
    part = options.figures.with_suffix(".part")
    part.write_text(json.dumps({"versions": peer.versions, "workloads": workloads}))
    part.replace(options.figures)
    os._exit(0)  # peers leave threads behind that would be waited for


if __name__ == "__main__":
    main()
