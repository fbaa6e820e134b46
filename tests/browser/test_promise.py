"""Quantize, prove, canary, undo: the whole of it in one walk, on the real engine with a tiny model.

On the embedded defaults, and with a real PostgreSQL, Redis and Celery worker.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import PATIENCE, Watched
from tests.browser.test_walk import issue_key, room, sign_in
from tests.flow.house import ROOT, House, eventually
from tests.inference.tiny import tiny_model, tiny_tokenizer
from tests.services import postgresql, redis

pytestmark = [pytest.mark.server, pytest.mark.slow]

JOB_MILLISECONDS = 240_000
UNDO = timedelta(seconds=2)
CHAT_TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"


@contextmanager
def worker(house: House) -> Iterator[None]:
    """The Celery worker that `make worker` starts."""
    command = [sys.executable, "-m", "celery", "-A", "console.celery", "worker", "--loglevel", "warning"]
    log = house.output.with_name("worker.log").open("wb")
    with log, subprocess.Popen(command, cwd=ROOT, env=house.environment, stdout=log, stderr=log) as process:
        try:
            yield
        finally:
            process.terminate()


@pytest.fixture(scope="module", params=["embedded", "services"])
def house(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Serves one tiny model, `starter`; another lies in a folder and waits to be imported."""
    folder = tmp_path_factory.mktemp("promise")
    for seed, name in enumerate(("sailor", "starter")):
        tokenizer = tiny_tokenizer()
        tokenizer.chat_template = CHAT_TEMPLATE
        tiny_model("llama", seed=seed).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    variables: dict[str, str] = {"ENGINE": "inprocess", "NUM_THREADS": "1", "DTYPE": "float32"}
    with ExitStack() as services:
        if request.param == "services":
            variables["DATABASE_URL"] = services.enter_context(postgresql())
            variables["REDIS_URL"] = services.enter_context(redis())
        before = [["import_folder", "starter", str(folder / "starter")]]
        house = services.enter_context(House(folder / "data", before=before, **variables))
        if request.param == "services":
            services.enter_context(worker(house))
        yield house


def import_model(page: Page, name: str, folder: Path) -> None:
    """Through the form; waits on the job's page until the model is there, and follows the link to it."""
    room(page, "Models")
    page.get_by_role("link", name="Import a model").first.click()
    page.get_by_label("Where it comes from").select_option("folder")
    page.get_by_label("Folder").fill(str(folder))
    page.get_by_label("Name here").fill(name)
    page.get_by_role("button", name="Import", exact=True).click()
    wait_for_job(page)


def wait_for_job(page: Page) -> None:
    """A job's page: progress, then its end, then the revision that it made."""
    progress = page.locator(".job-progress").first
    expect(progress).to_contain_text("done", timeout=JOB_MILLISECONDS)
    page.locator(".notice", has_text="Its result:").get_by_role("link").click()


def wait_until_ready(page: Page) -> None:
    expect(page.locator(".revision-state").first).to_contain_text("ready", timeout=2 * PATIENCE)


def confirm(page: Page, button: str, answer: str) -> None:
    page.get_by_role("button", name=button, exact=True).first.click()
    page.locator("dialog[open]").get_by_role("button", name=answer, exact=True).click()


def answers(house: House, key: str, count: int) -> Counter[str]:
    """Which revisions answered `count` requests of different users."""
    found: Counter[str] = Counter()
    for number in range(count):
        body = {
            "model": "sailor",
            "messages": [{"role": "user", "content": "Ahoy!"}],
            "max_tokens": 2,
            "user": f"user-{number}",
        }
        answer = httpx.post(
            f"{house.url}/v1/chat/completions",
            json=body,
            headers={"authorization": f"Bearer {key}"},
            timeout=60,
        )
        assert answer.status_code == 200, answer.text
        found[answer.json()["system_fingerprint"]] += 1
    return found


def test_quantize_prove_canary_undo(browser: Browser, house: House) -> None:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(PATIENCE)
    watched = Watched(context.new_page(), house.url)
    page = watched.page
    sign_in(page, house, "admin", house.password)
    key = issue_key(page, "deck hand")

    import_model(page, "sailor", house.output.parent.parent / "sailor")
    original = page.locator("h1 .id").inner_text()
    wait_until_ready(page)
    assert answers(house, key, 3) == {original: 3}

    page.get_by_role("button", name="Quantize to int8").click()
    wait_for_job(page)
    quantized = page.locator("h1 .id").inner_text()
    assert quantized != original
    certificate = page.locator("#certificate")
    expect(certificate).to_contain_text("Quality matches the original (within all limits).")
    expect(certificate).to_contain_text(original)
    assert watched.axe() == []

    page.get_by_role("button", name="Load", exact=True).click()
    wait_until_ready(page)
    page.get_by_role("link", name="Compare").first.click()
    expect(page.get_by_role("status").filter(has_text="Connected")).to_be_visible()
    page.get_by_label("Max tokens").fill("40")
    page.get_by_label("Message").fill("Which of you is the quantized one?")
    page.get_by_label("Message").press("Enter")
    for pane in range(2):
        expect(page.locator(".message.assistant [data-body]").nth(pane)).not_to_be_empty()

    page.goto(f"{house.url}/rollouts/new?route=sailor&candidate={quantized}&preset=by-hand")
    page.get_by_role("button", name="Start", exact=True).click()
    expect(page.locator(".legend").first).to_contain_text("10 %")
    mixed = answers(house, key, 100)
    assert set(mixed) == {original, quantized} and mixed[quantized] < mixed[original]
    promote(page)
    expect(page.locator(".card").first).to_contain_text("promoted")
    assert answers(house, key, 5) == {quantized: 5}
    expect(page.locator("body")).to_contain_text("Undo is instant")
    assert watched.axe() == []

    confirm(page, "Undo", "Undo now")
    eventually(lambda: answers(house, key, 1) == {original: 1})
    undone = datetime.fromisoformat(house.ask("done_at", "rollout.undo"))
    arrived = [row["created_at"] for row in house.ask("usage", key) if row["revision"] == quantized]
    assert datetime.fromisoformat(max(arrived)) - undone < UNDO
    expect(page.locator(".card").first).to_contain_text("undone")

    room(page, "Panels")
    by_revision = page.locator("[data-panel=arm_requests]")
    by_revision.scroll_into_view_if_needed()
    expect(by_revision.locator("[data-legend]")).to_contain_text(quantized)
    room(page, "Audit")
    for action in ("rollout.undo", "rollout.promote", "rollout.start", "catalog.import", "catalog.certify"):
        expect(page.locator("td", has_text=action).first, action).to_be_attached()
    assert watched.faults == []
    context.close()


def promote(page: Page) -> None:
    """Before the last step, which has to be said."""
    page.get_by_role("button", name="Promote", exact=True).first.click()
    dialog = page.locator("dialog[open]")
    dialog.get_by_label("Skip the steps that are left").check()
    dialog.get_by_role("button", name="Promote", exact=True).click()
