"""What an open page says while its server is gone, hangs, drains, comes back, or forgets its session."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator

import httpx
import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import Visit, Watched, rooms, sign_in
from tests.flow.house import House, eventually
from tests.flow.requests import body, streaming

pytestmark = pytest.mark.server

NOTICED = 6_000  # milliseconds: five seconds, and one for the browser to paint on a busy machine
PROVOKED = ("ERR_", "htmx:", "Failed to load resource", "WebSocket connection")


@pytest.fixture
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with House(tmp_path_factory.mktemp("gone")) as house:
        yield house


@pytest.fixture
def cookies(house: House) -> dict[str, list[dict[str, str]]]:
    with httpx.Client(base_url=house.url) as client:
        sign_in(client, "admin", house.password)
        jar = client.cookies.items()
        return {"admin": [{"name": name, "value": value, "url": house.url} for name, value in jar]}


def bar(page: Page) -> Locator:
    return page.locator("#contact:not([hidden]) [data-when]:not([hidden])")


def open_all(visit: Visit) -> list[Watched]:
    """Every room of the console at once, each in its page; and Django admin."""
    first = visit("admin", expected=PROVOKED)
    first.goto("/")
    paths = [*rooms(first), "/admin/audit/entry/", "/api/v1/docs/"]
    pages = [first]
    for path in paths:
        page = first.page.context.new_page()
        page.goto(first.url + path)
        pages.append(Watched(page, first.url, expected=PROVOKED))
    return pages


def test_every_page_says_that_the_server_was_killed_and_what_was_lost(visit: Visit, house: House) -> None:
    pages = open_all(visit)
    key = house.key
    started = threading.Event()

    def ask() -> None:
        try:
            with streaming(house, body("slow", max_tokens=2000), key=key) as events:
                for _ in events:
                    started.set()
        except httpx.TransportError:
            pass

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    assert started.wait(60)
    house.kill()
    for watched in pages:
        watched.page.bring_to_front()
        expect(bar(watched.page), watched.page.url).to_contain_text(
            "No answer from the server since", timeout=NOTICED
        )
    home = pages[0].page
    home.bring_to_front()
    expect(home.locator("#engine-pill")).to_have_text("Engine unknown")
    assert float(home.locator(".tile").first.evaluate("one => getComputedStyle(one).opacity")) < 1
    posting = home.locator(".rail form[method=post] button")
    assert posting.evaluate_all("all => all.every(one => one.disabled)")

    house.restart()
    for watched in pages:
        watched.page.bring_to_front()
        said = bar(watched.page)
        expect(said, watched.page.url).to_contain_text("Back after")
        expect(said).to_contain_text("The server restarted at")
        expect(said).to_contain_text("Requests lost: 1.")
        assert watched.faults == []
    home.bring_to_front()
    assert not posting.evaluate_all("all => all.some(one => one.disabled)")
    expect(home.locator("#engine-pill")).not_to_have_text("Engine unknown")
    bar(home).get_by_role("link").click()
    expect(home.locator("tbody tr")).to_have_count(1)


def test_a_server_that_hangs_is_noticed_too(visit: Visit, house: House) -> None:
    watched = visit("admin", expected=PROVOKED)
    watched.goto("/keys/")
    house.process.send_signal(signal.SIGSTOP)
    try:
        expect(bar(watched.page)).to_contain_text("No answer", timeout=NOTICED)
    finally:
        house.process.send_signal(signal.SIGCONT)
    expect(watched.page.locator("#contact.lost")).to_have_count(0)


def test_a_server_that_drains_takes_no_more_changes(visit: Visit, house: House) -> None:
    watched = visit("admin", expected=PROVOKED)
    watched.goto("/operators/")
    with streaming(house, body("slow", max_tokens=2000), key=house.key) as events:
        next(iter(events))
        house.process.send_signal(signal.SIGTERM)
        expect(bar(watched.page)).to_contain_text("shutting down", timeout=NOTICED)
        expect(watched.page.get_by_role("button", name="Create")).to_be_disabled()
        house.process.send_signal(signal.SIGTERM)


def test_an_ended_session_is_renewed_in_place_and_the_form_is_kept(visit: Visit, house: House) -> None:
    watched = visit("admin")
    watched.goto("/operators/")
    page = watched.page
    page.get_by_label("Name", exact=True).fill("half-typed")
    page.context.clear_cookies(name="pilothouse")
    dialog = page.locator("#sign-in-again")
    expect(dialog).to_be_visible(timeout=NOTICED)
    dialog.get_by_label("Password").fill("not the password")
    dialog.get_by_role("button", name="Sign in").click()
    expect(dialog.get_by_role("alert")).to_be_visible()
    dialog.get_by_label("Password").fill(house.password)
    dialog.get_by_role("button", name="Sign in").click()
    expect(dialog).not_to_be_visible()
    assert page.get_by_label("Name", exact=True).input_value() == "half-typed"
    page.get_by_role("button", name="Create").click()  # with the token of the new session
    expect(page.locator("#password")).to_be_visible()


def test_a_crash_is_told_in_the_audit_log_and_counted_by_the_panels(house: House, visit: Visit) -> None:
    key = house.key
    with (
        pytest.raises(httpx.TransportError),
        streaming(house, body("slow", max_tokens=2000), key=key) as events,
    ):
        next(iter(events))
        house.kill()
        list(events)
    house.restart()
    watched = visit("admin")
    watched.goto("/")
    expect(watched.page.locator(".feed")).to_contain_text("crashed")
    watched.goto("/admin/audit/entry/?action=server.crashed")
    watched.page.locator("#result_list tbody").get_by_role("link").first.click()
    detail = json.loads(watched.page.locator("pre.detail-json").inner_text())
    assert detail["lost_requests"] == 1
    assert "killed from outside" in detail["cause"]

    def counted() -> bool:
        answer = watched.page.request.get(f"{house.url}/panels/series?panel=failures&range=15m").json()
        return any(
            line["name"] == "server_died" and any(line["values"])
            for panel in answer["panels"]
            for line in panel["series"]
        )

    eventually(counted)
