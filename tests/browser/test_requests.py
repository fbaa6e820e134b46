"""The request log, a request's waterfall, and the live engine, as people of each role use them."""

from __future__ import annotations

import csv
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from playwright.sync_api import expect

from tests.browser.conftest import LANGUAGES, ROLES, Visit, Watched
from tests.flow.house import House
from tests.flow.requests import body, post, streaming

pytestmark = pytest.mark.server

PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def key(house: House) -> str:
    """Its requests: one that waited, one that failed, one of several choices."""
    key = house.new_key("waterfall-program")
    post(house, body("queue slow", max_tokens=12), key=key)
    post(house, body("fail-after-3"), key=key)
    post(house, body(n=2), key=key)
    return key


@contextmanager
def running(house: House, key: str, **fields: object) -> Iterator[list[object]]:
    """A stream that runs until somebody cancels it; what it ended with."""
    ended: list[object] = []
    started = threading.Event()

    def read() -> None:
        try:
            with streaming(house, body("slow", max_tokens=2000, **fields), key=key) as events:
                for event in events:
                    ended[:] = [event]
                    started.set()
        except httpx.TransportError:
            started.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    assert started.wait(60)
    yield ended
    reader.join(60)
    assert not reader.is_alive()


def first_row(watched: Watched, text: str):  # type: ignore[no-untyped-def]
    return watched.page.locator("tbody tr", has_text=text).first


def test_a_reader_filters_the_log_and_finds_out_why_a_request_was_slow(visit: Visit, key: str) -> None:
    watched = visit("viewer")
    page = watched.page
    watched.goto("/")
    page.get_by_role("link", name="Requests", exact=True).first.click()
    page.get_by_label("Key or person").fill("waterfall")
    page.get_by_label("Status").select_option("finished")
    page.get_by_role("button", name="Filter").click()
    page.wait_for_url(lambda url: "key=waterfall" in url and "outcome=finished" in url)
    expect(page.locator("tbody tr")).to_have_count(2)
    page.locator("tbody tr a").last.click()
    page.get_by_role("heading", name="Where the time went").wait_for()
    assert re.search(r"It waited ([3-9]\d\d ms|\d+\.\d+ s)", page.locator(".why").inner_text())
    assert "for KV blocks" in page.locator(".why").inner_text()
    bars = page.locator(".fall rect")
    assert bars.count() >= 7
    widths = bars.evaluate_all("all => all.map(one => one.getBoundingClientRect().width)")
    assert all(width > 0 for width in widths)
    track = page.locator(".fall .track svg").first.bounding_box()
    assert track is not None and sum(widths) == pytest.approx(track["width"], rel=0.1)
    assert watched.axe() == []


def test_an_id_and_a_code_find_their_requests(visit: Visit, key: str) -> None:
    watched = visit("operator")
    page = watched.page
    watched.goto("/requests/?error=engine_error&key=waterfall")
    assert page.locator("details.more").get_attribute("open") is not None
    page.locator("tbody tr a").first.click()
    request_id = page.locator("#request-id").inner_text()
    watched.goto("/requests/")
    page.get_by_label("Request id").fill(request_id)
    page.get_by_role("button", name="Filter").click()
    page.wait_for_url(f"**/requests/{request_id}/")
    assert "engine_error" in page.locator("#content").inner_text()


def test_the_log_is_taken_home_as_csv(visit: Visit, key: str) -> None:
    watched = visit("viewer")
    watched.goto("/requests/?key=waterfall")
    num_shown = watched.page.locator("tbody tr:has(a)").count()
    assert num_shown >= 3
    with watched.page.expect_download() as download:
        watched.page.get_by_role("link", name="CSV").click()
    with download.value.path().open() as file:
        rows = list(csv.DictReader(file))
    assert [row["caller_name"] for row in rows] == ["waterfall-program"] * num_shown


def test_an_operator_sees_a_request_run_and_cancels_it(visit: Visit, house: House, key: str) -> None:
    watched = visit("operator")
    page = watched.page
    watched.goto("/requests/?outcome=cancelled&key=waterfall")
    num_before = page.locator("tbody tr:has(a)").count()
    watched.goto("/live/")
    page.get_by_text("Nothing is in flight").wait_for()
    with running(house, key) as ended:
        row = first_row(watched, "waterfall-program")
        row.wait_for()
        row.get_by_text("decoding").wait_for()
        before = int(row.locator("td").nth(5).inner_text())
        page.wait_for_function(
            "before => Number(document.querySelector('#live tbody tr td:nth-child(6)').innerText) > before",
            arg=before,
        )
        assert watched.axe() == []
        row.get_by_role("button", name="Cancel").click()
        dialog = page.locator("dialog[open]")
        page.wait_for_timeout(2500)  # the page does not refresh under an open dialog
        assert "request_cancelled" in dialog.inner_text()
        assert watched.axe() == []
        dialog.get_by_role("button", name="Let it run").click()
        row.get_by_role("button", name="Cancel").click()
        page.locator("dialog[open]").get_by_role("button", name="Cancel the request").click()
        page.get_by_role("status").filter(has_text="Cancelled").wait_for()
    assert isinstance(ended[0], dict) and ended[0]["error"]["code"] == "request_cancelled"
    watched.goto("/requests/?outcome=cancelled&key=waterfall")
    assert page.locator("tbody tr:has(a)").count() == num_before + 1


def test_a_viewer_looks_on_and_cannot_cancel(visit: Visit, house: House, key: str) -> None:
    operator, viewer = visit("operator"), visit("viewer")
    with running(house, key):
        viewer.goto("/live/")
        row = first_row(viewer, "waterfall-program")
        row.wait_for()
        assert row.get_by_role("button").count() == 0
        request_id = row.locator("code").get_attribute("title")
        operator.goto("/live/")
        action = operator.page.locator("tbody form").first.get_attribute("action")
        assert action == f"/live/{request_id}/cancel"
        token = viewer.page.locator("body").get_attribute("hx-headers") or ""
        headers = {"X-CSRFToken": token.split('"')[3]}
        answer = viewer.page.request.post(viewer.url + action, headers=headers)
        assert answer.status == 403
        assert row.count() == 1
        operator.page.request.post(
            operator.url + action,
            headers={
                "X-CSRFToken": (operator.page.locator("body").get_attribute("hx-headers") or "").split('"')[3]
            },
        )


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("role", ROLES)
def test_each_role_reads_a_request_in_each_language(
    visit: Visit, house: House, key: str, role: str, language: str
) -> None:
    watched = visit(role, language=language)
    watched.goto("/requests/?key=waterfall")
    watched.page.locator("tbody tr a").last.click()
    words = watched.page.locator(".why").inner_text()
    assert ("KV 块" if language == "zh-hans" else "KV blocks") in words


@pytest.mark.parametrize("theme", ["day", "night"])
def test_a_request_fits_a_phone(visit: Visit, key: str, theme: str) -> None:
    watched = visit("viewer", theme=theme)
    watched.page.set_viewport_size(PHONE)
    for path in ("/requests/?key=waterfall&min_seconds=0", "/live/"):
        watched.goto(path)
        assert watched.page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        assert watched.axe() == []
    watched.goto("/requests/?key=waterfall")
    watched.page.locator("tbody tr a").last.click()
    watched.page.locator(".fall rect").first.wait_for()
    assert watched.page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    assert watched.axe() == []
