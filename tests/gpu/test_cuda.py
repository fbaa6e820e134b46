"""The engine on an NVIDIA GPU: the same tokens as `generate`, planned memory, int8 weights, both engines.

Run by hand on a GPU machine, which needs no Django: see docs/benchmarks.md. Skipped where torch sees no GPU.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from inference.config import EngineConfig, PlacementConfig, RevisionSpec
from inference.execution.build import build_engine
from inference.models.loader import load_model
from inference.placements.inprocess.placement import InProcess
from inference.protocol.events import Delta, Event, Finish, FinishReason
from inference.protocol.requests import GenerateRequest, Owner, Sampling
from inference.quantization.int8 import Int8Linear
from inference.scheduling.engine import Engine
from tests.gpu.device import DEVICE, IS_DRY_RUN, needs_gpu, sized
from tests.inference import tiny
from tests.inference.quantization.wide import wide_folder

pytestmark = pytest.mark.gpu

NUM_TOKENS = 24
PROMPTS = [tiny.prompt(length) for length in (30, 1, 11, 45, 30)]  # the last is the first once more


@pytest.fixture(autouse=True)
def exact_products() -> Iterator[None]:
    """Without TF32, which would round differently for different batches."""
    torch.backends.cuda.matmul.allow_tf32 = False
    yield


@pytest.fixture(scope="module", params=list(tiny.LLAMA_LIKE))
def tiny_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp(request.param)
    tiny.tiny_model(request.param).save_pretrained(folder)
    tiny.tiny_tokenizer().save_pretrained(folder)
    return request.param, folder


def requests() -> list[GenerateRequest]:
    sampling = Sampling(temperature=0.0, max_tokens=NUM_TOKENS, ignore_eos=True)
    owner = Owner(id="o", salt="s")
    return [
        GenerateRequest(str(index), "tiny", tuple(prompt), owner, sampling)
        for index, prompt in enumerate(PROMPTS)
    ]


def run(engine: Engine, *, steps_between_arrivals: int) -> tuple[list[list[int]], list[Finish]]:
    events: list[list[Event]] = [[] for _ in PROMPTS]
    for request, own_events in zip(requests(), events, strict=True):
        engine.submit(request, own_events.append)
        for _ in range(steps_between_arrivals):
            engine.step()
    while engine.has_work:
        engine.step()
    engine.check_integrity()
    return [tokens_of(one) for one in events], [one[-1] for one in events if isinstance(one[-1], Finish)]


def tokens_of(events: list[Event]) -> list[int]:
    return [token_id for event in events if isinstance(event, Delta) for token_id in event.token_ids]


PATHS: dict[str, dict[str, Any]] = {
    "all fast paths": {},
    "no overlap": {"overlap": False},
    "no graphs": {"cuda_graphs": False},
    "transformers' layers": {"fused_layers": False},
    "reference": {"attention": "reference"},
}
PATHS_HERE = sized(list(PATHS), dry=["all fast paths", "reference"])  # the others differ on GPUs alone


@pytest.mark.parametrize("path", PATHS_HERE)
@pytest.mark.parametrize(("num_blocks", "steps_between_arrivals"), [(100, 3), (22, 0)])
def test_chunks_prefix_hits_and_preemption_change_no_token(
    tiny_folder: tuple[str, Path], num_blocks: int, steps_between_arrivals: int, path: str
) -> None:
    name, folder = tiny_folder
    config = EngineConfig(
        **PATHS[path],
        device=DEVICE,
        dtype="float32",
        block_size=4,
        num_blocks=num_blocks,
        max_batch_tokens=17,
        max_num_seqs=4,
    )
    engine = build_engine(RevisionSpec("tiny", folder, config))
    outputs, ends = run(engine, steps_between_arrivals=steps_between_arrivals)
    expected = [tiny.generated(tiny.tiny_model(name), prompt, NUM_TOKENS) for prompt in PROMPTS]
    assert outputs == expected
    assert [end.reason for end in ends] == [FinishReason.LENGTH] * len(PROMPTS)
    num_preemptions = sum(end.timings.num_preemptions for end in ends)
    assert num_preemptions > 0 if num_blocks == 22 else ends[-1].usage.cached_tokens >= 4


@needs_gpu
def test_memory_is_planned_and_left_over(tmp_path: Path) -> None:
    tiny.tiny_model("llama").save_pretrained(tmp_path)
    tiny.tiny_tokenizer().save_pretrained(tmp_path)
    engine = build_engine(RevisionSpec("tiny", tmp_path, EngineConfig(device=DEVICE)))
    assert engine.card.dtype == "bfloat16"
    assert engine.card.device.startswith("cuda")
    outputs, _ = run(engine, steps_between_arrivals=0)
    assert [len(one) for one in outputs] == [NUM_TOKENS] * len(PROMPTS)
    free_bytes, _ = torch.cuda.mem_get_info()
    assert free_bytes > 0


def test_int8_weights_are_the_same_after_saving_and_loading(tmp_path: Path) -> None:
    tiny.tiny_model("llama").save_pretrained(tmp_path / "exact")
    tiny.tiny_tokenizer().save_pretrained(tmp_path / "exact")
    config = EngineConfig(device=DEVICE, dtype="bfloat16", quantization="int8", fused_layers=not IS_DRY_RUN)
    on_load = load_model(tmp_path / "exact", config)
    on_load.model.save_pretrained(tmp_path / "int8")
    on_load.tokenizer.save_pretrained(tmp_path / "int8")
    reloaded = load_model(
        tmp_path / "int8", EngineConfig(device=DEVICE, dtype="bfloat16", fused_layers=not IS_DRY_RUN)
    )
    layers = [module for module in reloaded.model.modules() if isinstance(module, Int8Linear)]
    assert layers and all(layer.weight.abs().max() > 0 for layer in layers)
    for name, tensor in on_load.model.state_dict().items():
        assert torch.equal(tensor, reloaded.model.state_dict()[name]), name


def test_int8_weights_are_served_by_graphs_as_by_the_reference(tmp_path: Path) -> None:
    tiny.tiny_model("llama").save_pretrained(tmp_path)
    tiny.tiny_tokenizer().save_pretrained(tmp_path)
    outputs = []
    for path in ("all fast paths", "reference"):
        config = EngineConfig(
            **PATHS[path], device=DEVICE, dtype="float32", quantization="int8", num_blocks=200
        )
        outputs.append(run(build_engine(RevisionSpec("tiny", tmp_path, config)), steps_between_arrivals=2)[0])
    assert outputs[0] == outputs[1]


def test_two_revisions_take_turns_on_one_gpu(tmp_path: Path) -> None:
    """Loaded, streamed from at the same time, one unloaded while the other goes on."""
    folders = {name: tmp_path / name for name in ("llama", "qwen3")}
    for name, folder in folders.items():
        tiny.tiny_model(name).save_pretrained(folder)
        tiny.tiny_tokenizer().save_pretrained(folder)

    async def both() -> dict[str, list[int]]:
        client = InProcess(PlacementConfig(data_dir=tmp_path / "data"))
        await client.start()
        config = EngineConfig(device=DEVICE, dtype="float32", num_blocks=200)
        try:
            cards = [
                await client.load(RevisionSpec(name, folders[name], config), lambda _: None)
                for name in folders
            ]
            assert all(card.memory_bytes > card.weight_bytes > 0 for card in cards)

            async def one(name: str) -> list[int]:
                sampling = Sampling(temperature=0.0, max_tokens=NUM_TOKENS, ignore_eos=True)
                request = GenerateRequest(name, name, tuple(PROMPTS[0]), Owner("o", "s"), sampling)
                return tokens_of([event async for event in client.generate(request)])

            outputs = await asyncio.gather(*map(one, folders))
            await client.unload("llama")
            return dict(zip(folders, outputs, strict=True)) | {"after": await one("qwen3")}
        finally:
            await client.stop()

    found = asyncio.run(both())
    expected = {name: tiny.generated(tiny.tiny_model(name), PROMPTS[0], NUM_TOKENS) for name in folders}
    assert found == expected | {"after": expected["qwen3"]}


@pytest.mark.parametrize("quantization", [None, "int8", "int4"])
def test_a_revision_is_loaded_while_another_one_streams(tmp_path: Path, quantization: str | None) -> None:
    """Graphs are captured in one thread while steps run in another: neither may disturb the other."""
    folders = {name: wide_folder(tmp_path / name, name) for name in ("llama", "qwen3")}
    dtype: Any = sized("bfloat16", dry="float32")
    config = EngineConfig(device=DEVICE, dtype=dtype, num_blocks=400, quantization=quantization)

    async def outputs() -> list[list[int]]:
        client = InProcess(PlacementConfig(data_dir=tmp_path / "data"))
        await client.start()

        async def one(index: int) -> list[int]:
            sampling = Sampling(temperature=0.0, max_tokens=NUM_TOKENS, ignore_eos=True)
            request = GenerateRequest(str(index), "llama", tuple(PROMPTS[0]), Owner("o", "s"), sampling)
            return tokens_of([event async for event in client.generate(request)])

        try:
            await client.load(RevisionSpec("llama", folders["llama"], config), lambda _: None)
            found = [await one(0)]
            for _ in range(2):
                load = client.load(RevisionSpec("qwen3", folders["qwen3"], config), lambda _: None)
                loading = asyncio.ensure_future(load)
                while not loading.done():
                    found.append(await one(len(found)))
                await loading
                await client.unload("qwen3")
            return found
        finally:
            await client.stop()

    found = asyncio.run(outputs())
    assert len(found) > sized(10, dry=1), "too few answers were given meanwhile to show anything"
    assert all(one == found[0] for one in found)


def test_a_seed_draws_the_same_tokens_alone_and_in_company(tmp_path: Path) -> None:
    tiny.tiny_model("llama").save_pretrained(tmp_path)
    tiny.tiny_tokenizer().save_pretrained(tmp_path)
    config = EngineConfig(device=DEVICE, dtype="float32", num_blocks=200)
    engine = build_engine(RevisionSpec("tiny", tmp_path, config))
    sampling = Sampling(temperature=0.8, top_p=0.9, seed=7, max_tokens=NUM_TOKENS, ignore_eos=True)

    def drawn(num_others: int) -> list[int]:
        events: list[Event] = []
        own = GenerateRequest(f"own-{num_others}", "tiny", tuple(PROMPTS[0]), Owner("o", "s"), sampling)
        engine.submit(own, events.append)
        for index in range(num_others):
            other = GenerateRequest(f"other-{index}", "tiny", tuple(PROMPTS[1]), Owner("o", "s"), sampling)
            engine.submit(other, lambda event: None)
        while engine.has_work:
            engine.step()
        return tokens_of(events)

    assert drawn(0) == drawn(7)


async def served(folder: Path, data_dir: Path) -> list[list[int]]:
    client = InProcess(PlacementConfig(data_dir=data_dir))
    await client.start()
    try:
        config = EngineConfig(device=DEVICE, dtype="float32", num_blocks=200)
        await client.load(RevisionSpec("tiny", folder, config), lambda _: None)

        async def one(request: GenerateRequest) -> list[int]:
            return tokens_of([event async for event in client.generate(request)])

        return await asyncio.gather(*(one(request) for request in requests()))
    finally:
        await client.stop()


def test_the_inprocess_placement_serves_from_the_gpu(tmp_path: Path) -> None:
    tiny.tiny_model("qwen3").save_pretrained(tmp_path)
    tiny.tiny_tokenizer().save_pretrained(tmp_path)
    outputs = asyncio.run(served(tmp_path, tmp_path / "data"))
    assert outputs == [tiny.generated(tiny.tiny_model("qwen3"), prompt, NUM_TOKENS) for prompt in PROMPTS]
