"""A real, tiny engine behind the whole path: its spans and the gateway's sum to the time that passed."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from pathlib import Path

import pytest
from asgiref.sync import sync_to_async

import inference.client
from console.accounts.caller import Caller
from console.audit.actor import Actor
from console.gateway.endpoints.completions.endpoint import COMPLETIONS
from console.gateway.pipeline.admission import admit
from console.gateway.pipeline.generation import generate
from console.gateway.pipeline.request import PipelineRequest, Prompt
from console.usage.models import UsageRecord
from inference.config import EngineConfig, PlacementConfig, RevisionSpec
from inference.protocol.requests import Sampling
from inference.protocol.stats import LoadProgress
from tests.catalog_rows import serve
from tests.console.limits.requests import caller_of

NUM_TRIES = 12  # the machine may be busy with something else


@pytest.fixture
async def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    import torch

    from inference.execution.build import assemble
    from inference.host import Served
    from inference.placements.inprocess import loader
    from inference.placements.inprocess.placement import InProcess
    from tests.inference import tiny
    from tests.inference.plain_prompts import PlainQueue

    def load(spec: RevisionSpec, progress: Callable[[LoadProgress], None], _: PlacementConfig) -> Served:
        torch.set_num_threads(1)
        loaded = tiny.loaded(tiny.tiny_model("llama"))
        return Served(assemble(loaded, spec), loaded, PlainQueue(loaded))

    monkeypatch.setattr(loader, "load", load)
    client = InProcess(PlacementConfig(data_dir=tmp_path))
    monkeypatch.setattr(inference.client, "_current", client)
    await client.start()
    config = EngineConfig(max_batch_tokens=64, num_blocks=64)
    await client.load(RevisionSpec("tiny-1", Path("unused"), engine=config), lambda news: None)
    yield
    await client.stop()


async def ask(caller: Caller) -> tuple[UsageRecord, float]:
    """The row of a request, and the seconds that passed until its end."""
    prompts = (Prompt(token_ids=tuple(range(100))),)
    sampling = Sampling(max_tokens=300, ignore_eos=True)
    request = PipelineRequest(model="tiny", prompts=prompts, n=1, sampling=sampling)
    began = time.monotonic()
    accepted = await admit(
        endpoint=COMPLETIONS, caller=caller, request=request, transport="sse", arrived=began
    )
    async for _ in generate(accepted):
        pass
    passed = time.monotonic() - began
    return await UsageRecord.objects.aget(request_id=accepted.request_id), passed


@pytest.mark.django_db(transaction=True)
async def test_the_spans_of_a_real_engine_sum_to_the_time_that_passed(engine: None) -> None:
    def prepare() -> Caller:
        from console.accounts.actions import default_team
        from console.keys.actions import issue

        serve("tiny", "tiny-1")
        return caller_of(issue(actor=Actor.person("test"), name="program", team=default_team()).key)

    caller = await sync_to_async(prepare)()
    off = list[float]()
    while not off or off[-1] > 0.01:
        assert len(off) < NUM_TRIES, off
        row, passed = await ask(caller)
        off.append(abs(row.total_seconds - passed) / passed)
        spans = [span for span in row.spans if span["name"] != "answer"]
        assert spans[0]["start"] == 0.0
        assert all(before["end"] == after["start"] for before, after in pairwise(spans))
        names = [span["name"] for span in spans]
        assert names[:6] == ["parse", "choose", "prepare", "reserve", "handover", "queue"]
        assert names[-2:] == ["deliver", "settle"] and {"prefill", "decode"} <= set(names)
        decoded = sum(span["tokens"] for span in spans if span["name"] == "decode")
        assert decoded == row.completion_tokens - 1 == 299
