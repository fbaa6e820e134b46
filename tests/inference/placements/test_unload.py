"""An unload leaves nothing of a revision: no object, no tensor, no freed page that the allocator keeps."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from inference.config import EngineConfig, PlacementConfig, RevisionSpec
from inference.host import give_back
from inference.placements.inprocess.placement import InProcess
from inference.protocol.events import Event
from inference.protocol.requests import GenerateRequest, Owner, Sampling, TokenizeRequest
from tests.inference.quantization.wide import wide_folder

# how a revision is served: by compiled layers, by torch's, by transformers' own, one request at a time
WAYS: dict[str, dict[str, Any]] = {
    "int8": {"dtype": "float32", "quantization": "int8", "quantize_head": True},
    "int4": {"dtype": "float32", "quantization": "int4"},
    "bfloat16": {"dtype": "bfloat16"},
    "float32": {"dtype": "float32", "fused_layers": False},
    "drafts": {"dtype": "float32", "num_draft_tokens": 3},
    "sequential": {"dtype": "float32", "batching": False},
}
NUM_CYCLES = 3
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def no_collector() -> Iterator[None]:
    """What waits for the collector of cycles may wait for hours."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def num_tensor_bytes() -> int:
    """Of all storages that a tensor holds."""
    found = {}
    for one in gc.get_objects():
        if type(one) in (torch.Tensor, torch.nn.Parameter) and not one.is_meta:
            found[one.untyped_storage().data_ptr()] = one.untyped_storage().nbytes()
    return sum(found.values())


async def use(client: InProcess) -> None:
    tokenized = await client.tokenize(TokenizeRequest("r", text="a text of some words"))
    request = GenerateRequest("x", "r", tokenized.token_ids, Owner("o", "s"), Sampling(max_tokens=5))
    events: list[Event] = [event async for event in client.generate(request)]
    assert events


async def cycle(client: InProcess, spec: RevisionSpec) -> dict[str, weakref.ref[Any]]:
    """Loads, uses and unloads; weak references to what there was in between."""
    await client.load(spec, lambda _: None)
    await use(client)
    held = client._revisions.serving("r")
    loaded, engine = held.served.loaded, held.served.engine
    found = {
        "model": loaded.model,
        "a weight": next(loaded.model.parameters()),
        "tokenizer": loaded.tokenizer,
        "engine": engine,
        "runner": engine.runner,
        "sampler": engine.sampler,
        "threaded engine": held.engine,
    }
    references = {name: weakref.ref(one) for name, one in found.items()}
    del held, loaded, engine, found
    await client.unload("r")
    return references


async def all_gone(references: dict[str, weakref.ref[Any]]) -> None:
    """A thread of asyncio's may hold the last of them until its next turn."""
    for _ in range(200):
        alive = [name for name, reference in references.items() if reference() is not None]
        if not alive:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"after the unload there are still {alive}")


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("way", WAYS)
def test_no_object_and_no_tensor_stays(way: str, tmp_path: Path) -> None:
    folder = wide_folder(tmp_path / "model")
    config = EngineConfig(device="cpu", num_blocks=64, num_threads=1, **WAYS[way])

    async def cycles() -> tuple[list[int], list[list[str]]]:
        client = InProcess(PlacementConfig(data_dir=tmp_path / "data"))
        await client.start()
        sizes, threads = [], []
        for _ in range(NUM_CYCLES):
            references = await cycle(client, RevisionSpec("r", folder, config))
            await all_gone(references)
            sizes.append(num_tensor_bytes())
            threads.append(sorted(thread.name for thread in threading.enumerate()))
        await client.stop()
        return sizes, [[name for name in names if not name.startswith("asyncio")] for names in threads]

    sizes, threads = asyncio.run(cycles())
    assert sizes == sizes[:1] * NUM_CYCLES
    assert threads == threads[:1] * NUM_CYCLES


LOADS_AND_GIVES_BACK = """
import ctypes, mmap, pathlib, threading
from inference.execution.host_memory import return_freed_pages

size, count, kept = 60_000, 2000, []
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]

def load():
    pieces = []
    for number in range(count):
        pieces.append(libc.malloc(size))
        ctypes.memset(pieces[-1], number % 256, size)
        kept.append(libc.malloc(100))
    for piece in pieces:
        libc.free(piece)

def resident_bytes():
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE

thread = threading.Thread(target=load)
thread.start()
thread.join()
before = resident_bytes()
return_freed_pages()
print((before - resident_bytes()) / (size * count))
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="the C library has its own ways")
def test_freed_pages_go_back_to_the_system() -> None:
    """A load's thread frees small pieces between others that stay, as quantizing layer by layer does.

    In a process of its own: what other tests left in the allocator's arenas would be counted, too.
    """
    run = subprocess.run(
        [sys.executable, "-c", LOADS_AND_GIVES_BACK], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert float(run.stdout) > 0.5  # of what was freed


def test_what_is_given_back_after_an_unload_are_those_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[None] = []
    monkeypatch.setattr("inference.host.return_freed_pages", lambda: called.append(None))
    give_back()
    assert called == [None]
