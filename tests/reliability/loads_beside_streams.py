"""Streams of revisions of every kind of weights while other models are loaded and unloaded, in one process.

A program of its own, so that a crash ends it and not the tests. It says as JSON how many texts it compared
with those that the same requests gave before, and which differed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from inference.config import EngineConfig, PlacementConfig, RevisionSpec
from inference.placements.inprocess.placement import InProcess
from inference.protocol.events import Delta, Finish, FinishReason
from inference.protocol.requests import GenerateRequest, Owner, Sampling
from tests.inference.quantization.wide import wide_model
from tests.inference.tiny import prompt, tiny_tokenizer

VOCAB_SIZE = 4096  # logits are what an int8 product writes most of
NUM_TOKENS = 12
# Long enough that keys are shared out, and more than one chunk. Nobody's prompt begins as another's.
PROMPTS = [tuple(prompt(length, seed=length)) for length in (3, 17, 40, 90, 150, 290)]
SHARED: dict[str, Any] = {"device": "cpu", "num_blocks": 256, "block_size": 16, "max_batch_tokens": 128}
SERVED: dict[str, dict[str, Any]] = {
    "int8": {"quantization": "int8", "quantize_head": True, "dtype": "float32"},
    "int8-own-layers": {"quantization": "int8", "dtype": "float32", "fused_layers": False},
    "int4": {"quantization": "int4", "quantize_head": True, "dtype": "float32"},
    "narrow": {"dtype": "float32"},  # bfloat16 files that stay 16 bits wide
    # whose roundings depend on the company, if they may
    "bfloat16": {"dtype": "bfloat16", "batch_invariant": True},
}
LOADED: dict[str, dict[str, Any]] = {
    "loaded-bfloat16": {"dtype": "bfloat16"},
    "loaded-float16": {"dtype": "float16", "quantization": "int8"},
    "loaded-int4": {"dtype": "bfloat16", "quantization": "int4"},
}


def write_models(folder: Path) -> dict[str, Path]:
    """Two to serve, in float32 and bfloat16, and one of many layers, which takes its time to load."""
    made = {
        "float32": wide_model("llama", vocab_size=VOCAB_SIZE),
        "bfloat16": wide_model("llama", vocab_size=VOCAB_SIZE).to(torch.bfloat16),
        "deep": wide_model("qwen3", num_hidden_layers=24),
    }
    for name, model in made.items():
        model.save_pretrained(folder / name)
        tiny_tokenizer().save_pretrained(folder / name)
    return {name: folder / name for name in made}


class Traffic:
    """Greedy requests to every served revision, and what came of them."""

    def __init__(self, client: InProcess, revisions: tuple[str, ...]) -> None:
        self.client, self.revisions = client, revisions
        self.wanted: dict[tuple[str, int], tuple[int, ...]] = {}
        self.num_compared: Counter[str] = Counter()
        self.differing: list[str] = []
        self._number = 0

    async def learn(self) -> None:
        """What each request gives while nothing else happens."""
        for revision in self.revisions:
            for index in range(len(PROMPTS)):
                self.wanted[revision, index] = await self.ask(revision, index)

    async def stream(self, stop: asyncio.Event, first: int) -> None:
        """Asks one thing after another until it is told to stop."""
        cases = list(self.wanted)
        turn = first * 7
        while not stop.is_set():
            revision, index = cases[turn % len(cases)]
            found = await self.ask(revision, index)
            if found != self.wanted[revision, index]:
                self.differing.append(
                    f"{revision}, prompt {index}: {found}, not {self.wanted[revision, index]}"
                )
            self.num_compared[revision] += 1
            turn += 1

    async def ask(self, revision: str, index: int) -> tuple[int, ...]:
        self._number += 1
        request = GenerateRequest(
            request_id=str(self._number),
            revision=revision,
            token_ids=PROMPTS[index],
            owner=Owner(id="o", salt=str(self._number % 3)),
            sampling=Sampling(temperature=0.0, max_tokens=NUM_TOKENS, ignore_eos=True),
        )
        tokens: list[int] = []
        async for event in self.client.generate(request):
            if isinstance(event, Delta):
                tokens += event.token_ids
            elif isinstance(event, Finish) and event.reason is not FinishReason.LENGTH:
                return (-1,)  # no token has that number: it differs
        return tuple(tokens)


async def campaign(folder: Path, model: Path | None, *, num_streams: int, num_cycles: int) -> dict[str, Any]:
    """`model`: a folder of another one, to be served and loaded as well."""
    made = write_models(folder)
    served = {
        name: spec_of(name, made["float32" if settings.get("quantization") else "bfloat16"], settings)
        for name, settings in SERVED.items()
    }
    loaded = {name: spec_of(name, made["deep"], settings) for name, settings in LOADED.items()}
    if model is not None:
        served["given-int8"] = spec_of("given-int8", model, SERVED["int8"])
        loaded["loaded-bfloat16"] = spec_of("loaded-bfloat16", model, LOADED["loaded-bfloat16"])
    client = InProcess(PlacementConfig(data_dir=folder / "data"))
    await client.start()
    for spec in served.values():
        await client.load(spec, lambda _: None)
    traffic = Traffic(client, tuple(served))
    await traffic.learn()
    stop = asyncio.Event()
    streams = [asyncio.create_task(traffic.stream(stop, first)) for first in range(num_streams)]
    started = time.monotonic()
    await asyncio.gather(*(load_again(client, spec, num_cycles) for spec in loaded.values()))
    seconds = time.monotonic() - started
    stop.set()
    await asyncio.gather(*streams)
    await client.stop()
    return {
        "compared": dict(traffic.num_compared),
        "differing": traffic.differing,
        "loads": num_cycles * len(loaded),
        "seconds": round(seconds, 1),
    }


async def load_again(client: InProcess, spec: RevisionSpec, num_cycles: int) -> None:
    for _ in range(num_cycles):
        await client.load(spec, lambda _: None)
        await client.unload(spec.revision)


def spec_of(revision: str, folder: Path, settings: dict[str, Any]) -> RevisionSpec:
    return RevisionSpec(revision=revision, folder=folder, engine=EngineConfig(**SHARED, **settings))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--cycles", type=int, default=50)
    parser.add_argument("--model", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(
            campaign(Path(folder), options.model, num_streams=options.streams, num_cycles=options.cycles)
        )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
