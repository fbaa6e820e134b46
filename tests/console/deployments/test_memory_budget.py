"""The memory budget: where it comes from, what a revision may take, and what is expected against what is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ByteSize

import inference.client
from console.audit.actor import Actor
from console.catalog.actions import spec
from console.catalog.models import Deployment, Revision
from console.deployments import actions as deployments
from console.deployments import memory_budget
from console.environment import environment
from inference.config import PlacementConfig
from inference.protocol.stats import Device
from tests.catalog_rows import make_revision, serve

pytestmark = pytest.mark.django_db

MB, GIB = 10**6, 2**30
KV_BYTES_PER_TOKEN = 100_000  # in facts, which count two bytes an element


class Telling:
    """An engine that only tells its devices."""

    def __init__(self, device: Device) -> None:
        self._device = device

    def devices(self) -> tuple[Device, ...]:
        return (self._device,)


@pytest.fixture(autouse=True)
def on(monkeypatch: pytest.MonkeyPatch) -> Any:
    def settle(
        name: str = "cpu", dtype: str = "float32", free: int = 20_000 * MB, *, keeps_bfloat16: bool = False
    ) -> None:
        device = Device(name, dtype, total_bytes=2 * free, free_bytes=free, keeps_bfloat16=keeps_bfloat16)
        monkeypatch.setattr(inference.client, "_current", Telling(device))

    settle()
    monkeypatch.setattr(environment(), "memory_budget", None)
    monkeypatch.setattr(environment(), "memory_share", 0.45)
    return settle


def model(name: str, *, parameters: int = 100 * MB, **columns: Any) -> Revision:
    facts = {
        "num_parameters": parameters,
        "weight_bytes": 2 * parameters,
        "dtype": "bfloat16",
        "max_model_len": 4096,
        "kv_bytes_per_token": KV_BYTES_PER_TOKEN,
    }
    return make_revision("stub", name, folder=f"nowhere/{name}", facts=facts, **columns)


def observe(revision: Revision, **columns: Any) -> None:
    Deployment.objects.filter(pk=revision.pk).update(**columns)


def test_the_budget_comes_from_the_device_or_is_given(on: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert memory_budget.budget() == 12_000 * MB  # 60 % of what was free
    on("cuda", "bfloat16", 10_000 * MB)
    assert memory_budget.budget() == 18_000 * MB  # 90 % of the total
    monkeypatch.setattr(environment(), "memory_budget", ByteSize(8 * GIB))
    assert memory_budget.budget() == 8 * GIB


def test_weights_count_in_the_dtype_that_they_will_have(on: Any) -> None:
    small = model("small", engine={"num_blocks": 1})
    block = 16 * 2 * KV_BYTES_PER_TOKEN  # float32
    assert memory_budget.need(small) == memory_budget.Need(400 * MB + block, is_measured=False)
    on("cuda", "bfloat16")
    assert memory_budget.need(small).bytes == 200 * MB + block // 2


def test_two_revisions_fit_beside_each_other_and_a_large_one_gets_one_context(on: Any) -> None:
    on("cuda", "bfloat16", 10_000 * MB)
    small = model("small")
    assert memory_budget.allowance(small) == int(18_000 * MB * 0.45)
    assert 2 * memory_budget.need(small).bytes <= memory_budget.budget()
    large = model("large", parameters=7_000 * MB)  # 14 GB of weights, more than its share
    context = 4096 * KV_BYTES_PER_TOKEN
    assert memory_budget.allowance(large) == 14_000 * MB + context
    assert memory_budget.need(large).bytes <= memory_budget.budget()


def test_what_was_measured_on_this_device_counts_more_than_an_estimate(on: Any) -> None:
    small = model("small")
    observe(small, memory_bytes=123 * MB, card={"device": "cpu"})
    assert memory_budget.need(small) == memory_budget.Need(123 * MB, is_measured=True)
    on("cuda", "bfloat16")
    assert not memory_budget.need(small).is_measured


def test_what_can_never_fit_is_refused(on: Any) -> None:
    with pytest.raises(deployments.DeploymentRefused, match="MEMORY_BUDGET"):
        deployments.load(actor=Actor.person("test"), revision=model("huge", parameters=4_000 * MB))


def test_what_fits_beside_what(on: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment(), "memory_budget", ByteSize(100 * MB))
    for name, size in (("stable", 40), ("old", 30), ("new", 20), ("candidate", 40)):
        observe(model(name), memory_bytes=size * MB, card={"device": "cpu"})
    serve("stub", "stable")
    for name in ("stable", "old", "new"):
        observe(Revision.objects.get(pk=name), state=Deployment.State.READY)
    fit = memory_budget.fits(wanted=["candidate"])
    assert (fit.need, fit.free, fit.fits) == (40 * MB, 10 * MB, True)
    assert fit.would_leave == ("old",) or fit.would_leave == ("new", "old")
    observe(Revision.objects.get(pk="old"), is_pinned=True)
    assert not memory_budget.fits(wanted=["candidate"]).fits
    assert memory_budget.fits(wanted=["stable", "candidate"]).need == 80 * MB


@pytest.mark.model
@pytest.mark.parametrize("engine", [{"dtype": "float32"}, {"dtype": "float32", "quantization": "int8"}])
def test_the_default_model_takes_what_was_expected(
    default_model: Path, engine: dict[str, Any], on: Any, tmp_path: Path
) -> None:
    from inference.host import device, load  # torch, which no other test of this module needs

    on(free=8_000 * MB, keeps_bfloat16=device().keeps_bfloat16)
    revision = make_revision("smollm2", "smollm2-1", folder=str(default_model), engine=engine)
    expected = memory_budget.need(revision).bytes
    asked = replace(spec(revision), memory_bytes=memory_budget.allowance(revision))
    served = load(asked, lambda news: None, PlacementConfig(data_dir=tmp_path))
    served.prompts.close()
    card = served.engine.card
    print(f"{engine}: expected {expected / MB:.0f} MB, measured {card.memory_bytes / MB:.0f} MB")
    assert card.memory_bytes <= memory_budget.allowance(revision)
    assert abs(expected - card.memory_bytes) <= card.memory_bytes // 50
