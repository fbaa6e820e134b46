"""From a model folder to tokens: loaded as the settings say, served through the engine's door."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from inference.checkpoints.model_folder import CannotLoad
from inference.config import EngineConfig, PlacementConfig, RevisionSpec
from inference.execution.sequential.engine import SequentialEngine
from inference.host import Served, load
from inference.placements.inprocess.placement import InProcess
from inference.protocol.errors import NotReady
from inference.protocol.events import Finish
from inference.protocol.requests import ChatMessage, GenerateRequest, Owner, PrepareRequest, Sampling
from inference.protocol.stats import LoadProgress
from inference.scheduling.engine import Engine
from tests.inference import tiny

SETTINGS = {"num_threads": 1, "device": "cpu", "dtype": "float32", "block_size": 4, "max_batch_tokens": 16}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny.tiny_model("llama").save_pretrained(folder)
    tiny.tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("batching", [True, False])
async def test_a_folder_is_served_through_the_door(folder: Path, tmp_path: Path, batching: bool) -> None:
    prompt = tuple(tiny.prompt(21))
    spec = RevisionSpec("tiny", folder, EngineConfig(batching=batching, **SETTINGS))  # type: ignore[arg-type]
    news: list[LoadProgress] = []
    client = InProcess(PlacementConfig(tmp_path))
    await client.start()
    card = await client.load(spec, news.append)
    assert card.batching == batching and bool(card.note) != batching
    prepared = await client.prepare(PrepareRequest("tiny", token_ids=prompt))
    request = GenerateRequest(
        request_id="r",
        revision="tiny",
        token_ids=prepared.token_ids,
        owner=Owner("o", "s"),
        sampling=Sampling(max_tokens=12, temperature=0, ignore_eos=True),
    )
    token_ids: list[int] = []
    async for event in client.generate(request):
        if not isinstance(event, Finish):
            token_ids += event.token_ids
    await client.stop()
    assert token_ids == tiny.generated(tiny.tiny_model("llama"), list(prompt), 12)
    assert news[0].stage == "reading weights"


def served(spec: RevisionSpec, data_dir: Path) -> Served:
    return load(spec, lambda news: None, PlacementConfig(data_dir))


async def test_batching_decides_the_engine_and_the_pool_bounds_the_context(
    folder: Path, tmp_path: Path
) -> None:
    batched = served(RevisionSpec("tiny", folder, EngineConfig(num_blocks=8, **SETTINGS)), tmp_path)  # type: ignore[arg-type]
    assert type(batched.engine) is Engine
    assert batched.engine.card.max_model_len == 32
    assert (await batched.prepare(PrepareRequest("tiny", token_ids=(1, 2)))).max_output_tokens == 30
    batched.prompts.close()
    spec = RevisionSpec("tiny", folder, EngineConfig(batching=False, **SETTINGS))  # type: ignore[arg-type]
    sequential = served(spec, tmp_path)
    assert type(sequential.engine) is SequentialEngine
    sequential.prompts.close()


async def test_a_model_answers_while_the_template_of_another_never_ends(folder: Path, tmp_path: Path) -> None:
    hostile = tmp_path / "hostile"
    shutil.copytree(folder, hostile)
    (hostile / "chat_template.jinja").write_text(
        "{% if messages[-1].content == 'now' %}{% for a in range(99999) %}{% for b in range(99999) %}"
        "{% endfor %}{% endfor %}{% endif %}{{ messages[-1].content }}"
    )
    client = InProcess(PlacementConfig(tmp_path / "data", prepare_seconds=600))
    await client.start()
    for name, place in (("honest", folder), ("hostile", hostile)):
        await client.load(RevisionSpec(name, place, EngineConfig(**SETTINGS)), lambda news: None)  # type: ignore[arg-type]
    endless = PrepareRequest("hostile", messages=(ChatMessage("user", "now"),))
    held = [asyncio.ensure_future(client.prepare(endless)) for _ in range(2)]
    for number in range(5):
        prepared = await client.prepare(PrepareRequest("honest", text=f"question {number}"))
        request = GenerateRequest(
            request_id=str(number),
            revision="honest",
            token_ids=prepared.token_ids,
            owner=Owner("o", "s"),
            sampling=Sampling(max_tokens=3, ignore_eos=True),
        )
        last = [event async for event in client.generate(request)][-1]
        assert isinstance(last, Finish) and last.usage.completion_tokens == 3
    waiting = {one.revision: one.prompts.num_waiting for one in client.stats().revisions}
    assert waiting == {"honest": 0, "hostile": 2} and not any(one.done() for one in held)
    await client.stop()
    for one in held:
        with pytest.raises(NotReady):
            await one


def test_warming_up_leaves_no_trace_in_the_pool(folder: Path, tmp_path: Path) -> None:
    one = served(RevisionSpec("tiny", folder, EngineConfig(**SETTINGS)), tmp_path)  # type: ignore[arg-type]
    one.prompts.close()
    one.engine.check_integrity()
    assert one.engine.stats().num_blocks_used == one.engine.stats().num_blocks_cached == 0
    assert one.engine.stats().num_steps == 0


def test_what_cannot_be_loaded_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(CannotLoad):
        served(RevisionSpec("empty", tmp_path), tmp_path)
