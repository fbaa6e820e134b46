"""An operator's day in one walk, on the embedded defaults and on a real PostgreSQL and Redis."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import PATIENCE, Watched
from tests.flow.house import House
from tests.flow.requests import body, streaming
from tests.services import postgresql, redis

pytestmark = pytest.mark.server


@pytest.fixture(scope="module", params=["embedded", "postgresql-and-redis"])
def house(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    variables: dict[str, str] = {}
    with ExitStack() as services:
        if request.param != "embedded":
            variables["DATABASE_URL"] = services.enter_context(postgresql())
            variables["REDIS_URL"] = services.enter_context(redis())
        yield services.enter_context(House(tmp_path_factory.mktemp("walk"), **variables))


def sign_in(page: Page, house: House, name: str, password: str) -> None:
    page.goto(f"{house.url}/")
    page.locator("input[name=login]").fill(name)
    page.locator("input[name=password]").fill(password)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("heading", name="Home", level=1).wait_for()


def issue_key(page: Page, name: str) -> str:
    room(page, "Keys")
    page.get_by_role("button", name="Issue a key").click()
    dialog = page.locator("dialog[open]")
    dialog.get_by_label("Name", exact=True).fill(name)
    dialog.get_by_role("button", name="Issue", exact=True).click()
    return page.locator("#secret").inner_text()


def room(page: Page, name: str) -> None:
    with page.expect_navigation():
        page.locator(".rail").get_by_role("link", name=name, exact=True).click()


def stream_until_cancelled(house: House, key: str) -> threading.Thread:
    """A program whose stream would take long; ends when somebody cancels it."""
    started = threading.Event()

    def read() -> None:
        with streaming(house, body("slow", max_tokens=2000), key=key) as events:
            for _ in events:
                started.set()

    program = threading.Thread(target=read, daemon=True)
    program.start()
    assert started.wait(60)
    return program


def test_an_operators_day(browser: Browser, house: House) -> None:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(PATIENCE)
    watched = Watched(context.new_page(), house.url)
    page = watched.page
    sign_in(page, house, "admin", house.password)

    secret = issue_key(page, "ticket sorter")
    headers = {"authorization": f"Bearer {secret}"}
    answer = httpx.post(f"{house.url}/v1/chat/completions", json=body(max_tokens=6), headers=headers)
    assert answer.json()["usage"]["completion_tokens"] == 6

    room(page, "Playground")
    page.get_by_label("Message").fill("slow hello")
    page.get_by_label("Message").press("Enter")
    text = page.locator(".message.assistant [data-body]").last
    expect(text).to_contain_text("w")
    page.get_by_role("button", name="Stop").click()
    expect(page.locator(".message.assistant").last).to_contain_text("Stopped.")

    program = stream_until_cancelled(house, secret)
    room(page, "Live engine")
    running = page.locator("tr", has_text="ticket sorter").first
    running.get_by_role("button", name="Cancel").click()
    page.locator("dialog[open]").get_by_role("button", name="Cancel").last.click()
    program.join(60)
    assert not program.is_alive()

    room(page, "Requests")
    page.locator("tr", has_text="ticket sorter").last.get_by_role("link").first.click()
    page.get_by_role("heading", name="Where the time went").wait_for()

    room(page, "Operators")
    page.get_by_label("Name", exact=True).fill("dana")
    page.get_by_role("button", name="Create").click()
    password = page.locator("#password").inner_text()

    room(page, "Audit")
    page.get_by_text("The chain is intact").wait_for()
    for action in ("key.issued", "user.created", "request.cancelled"):
        expect(page.locator("td", has_text=action).first, action).to_be_attached()
    page.get_by_role("link", name="Back to the console").click()

    page.locator(".account > summary").click()
    page.get_by_role("button", name="Sign out").click()
    page.locator("input[name=login]").wait_for()
    sign_in(page, house, "dana", password)
    assert watched.faults == []
    context.close()
