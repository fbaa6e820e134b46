"""The panels page in Chromium: drawn by the console, framed from a stand-in for Grafana, and never empty."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import httpx
import pytest
from playwright.sync_api import expect

from monitoring.grafana.reach import KEPT_SECONDS
from monitoring.panels.listing import GROUPS, PANELS
from tests.browser.conftest import Visit, Watched, sign_in
from tests.browser.grafana import Grafana, Mood, stand_in
from tests.flow.house import House, eventually, free_port

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def grafana() -> Iterator[Grafana]:
    with stand_in(free_port()) as grafana:
        yield grafana


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, grafana: Grafana) -> Iterator[House]:
    """A console that embeds the stand-in."""
    with House(tmp_path_factory.mktemp("framing"), GRAFANA_URL=grafana.url) as house:
        grafana.console_url = house.url
        drive(house)
        yield house


@pytest.fixture(scope="module")
def cookies(house: House) -> dict[str, list[dict[str, str]]]:
    with httpx.Client(base_url=house.url) as client:
        sign_in(client, "admin", house.password)
        jar = client.cookies.items()
        return {"admin": [{"name": name, "value": value, "url": house.url} for name, value in jar]}


def drive(house: House, *, seconds: float = 16) -> None:
    until = time.monotonic() + seconds
    with httpx.Client(base_url=house.url, headers=house.headers()) as client:
        while time.monotonic() < until:
            message = {"role": "user", "content": "hello"}
            fields = {"model": "stub", "messages": [message], "max_tokens": 9}
            client.post("/v1/chat/completions", json=fields)
            time.sleep(0.3)


def forget(grafana: Grafana) -> None:
    """What pages asked for that are closed by now may still be on its way."""

    def is_quiet() -> bool:
        before = len(grafana.shown)
        time.sleep(1)
        return len(grafana.shown) == before

    eventually(is_quiet)
    grafana.shown.clear()
    grafana.referrers.clear()


def open_until(watched: Watched, path: str, selector: str) -> None:
    """The console does not wait long for Grafana: a busy machine may need another try."""

    def is_there() -> bool:
        watched.goto(path)
        return watched.page.locator(selector).count() > 0

    eventually(is_there)


def test_the_console_draws_lines_with_figures_a_tooltip_and_a_table(visit: Visit) -> None:
    watched = visit("admin")
    page = watched.page
    watched.goto("/panels/?draw=own&range=15m")
    panel = page.locator("[data-panel=requests]")
    legend = panel.locator("[data-legend]")
    expect(legend).to_contain_text("finished")
    expect(legend.locator("td.num").first).to_have_text(re.compile(r"^[\d.,]+/s$"))
    panel.locator(".u-over").hover()
    expect(panel.locator(".chart-tip")).to_contain_text("finished")
    panel.get_by_text("Values as a table").click()
    expect(panel.locator("[data-values] tbody tr").first).to_contain_text("/s")
    for group in GROUPS:
        expect(page.get_by_role("heading", name=str(group.title), exact=True)).to_be_visible()
    seen = page.locator("[data-panel=first_token]")
    expect(seen.locator("[data-legend]")).to_contain_text(re.compile(r"p95\s*[\d.,]+ m?s"))
    assert watched.axe() == []


def test_a_choice_is_sent_at_once_and_kept_in_the_address(visit: Visit) -> None:
    watched = visit("admin")
    page = watched.page
    watched.goto("/panels/?draw=own")
    with page.expect_navigation():
        page.get_by_text("6 hours").click()
    with page.expect_navigation():
        page.get_by_label("Model", exact=True).select_option("stub")
    with page.expect_response(re.compile(r"/panels/series.*range=6h.*model=stub.*split=on")) as answer:
        page.get_by_label("Split by revision").click()
    assert answer.value.ok
    expect(page.get_by_label("6 hours")).to_be_checked()
    expect(page.locator("[data-panel=tokens_out]")).to_be_attached()


@pytest.mark.parametrize("theme", ["day", "night"])
def test_every_panel_is_framed_with_a_token_of_this_person(
    visit: Visit, grafana: Grafana, theme: str
) -> None:
    forget(grafana)
    watched = visit("admin", theme=theme, expected=("postMessage",))  # axe asks frames, which are not ours
    page = watched.page
    open_until(watched, "/panels/?range=6h", "[data-frame]")
    frames = page.locator("[data-frame] > iframe")
    expect(frames).to_have_count(len(PANELS))
    first = page.frame_locator("[data-frame=requests] > iframe")
    expect(first.locator("body")).to_contain_text("panel 1 for admin")
    for frame in frames.all()[:3]:
        assert frame.get_attribute("sandbox") == "allow-scripts allow-same-origin"
        assert frame.get_attribute("referrerpolicy") == "no-referrer"
        assert frame.get_attribute("title")
    shown = [one for one in grafana.shown if "Chrome" in one["agent"]]
    assert shown and {one["viewer"] for one in shown} == {"admin"}
    assert {one["theme"] for one in shown} == {"dark" if theme == "night" else "light"}
    assert {(one["from"], one["to"], one["var-model"]) for one in shown} == {("now-6h", "now", "$__all")}
    assert grafana.referrers == {""}
    assert watched.axe() == []


def test_frames_get_a_fresh_token_when_the_theme_changes(visit: Visit, grafana: Grafana) -> None:
    watched = visit("admin", theme="day")
    page = watched.page
    open_until(watched, "/panels/", "[data-frame]")
    frame = page.frame_locator("[data-frame=requests] > iframe")
    expect(frame.locator("body")).to_contain_text("panel 1")
    page.locator(".account > summary").click()
    grafana.shown.clear()
    page.get_by_role("button", name="Dark").click()
    eventually(lambda: [one for one in grafana.shown if one["theme"] == "dark"])


def test_only_grafanas_origin_may_be_framed(house: House, grafana: Grafana) -> None:
    with httpx.Client(base_url=house.url) as client:
        sign_in(client, "admin", house.password)
        policy = client.get("/panels/").headers["content-security-policy"]
    assert f"frame-src {grafana.url};" in f"{policy};"


def test_a_token_is_needed_and_another_keys_token_is_refused(house: House, grafana: Grafana) -> None:
    panel = f"{grafana.url}/d-solo/pilothouse-requests/pilothouse-requests?panelId=1&theme=dark"
    assert httpx.get(panel).status_code == 401
    with httpx.Client(base_url=house.url) as client:
        assert client.get("/panels/frames").status_code == 302
        sign_in(client, "admin", house.password)
        url = client.get("/panels/frames").json()["frames"]["requests"]
    assert httpx.get(url).status_code == 200
    head, _, signature = url.rpartition(".")
    assert httpx.get(f"{head}.{signature[::-1]}").status_code == 401


@pytest.mark.parametrize(
    ("mood", "words"),
    [
        (Mood.REFUSES_FRAMES, "allow embedding"),
        (Mood.LEADS_TO_LOGIN, "does not accept the console's token"),
        (Mood.IS_DOWN, "cannot be reached"),
    ],
)
def test_a_grafana_that_does_not_play_along_is_said_and_panels_are_drawn_here(
    visit: Visit, grafana: Grafana, mood: Mood, words: str
) -> None:
    time.sleep(KEPT_SECONDS)  # what was seen is remembered that long
    grafana.mood = mood
    try:
        watched = visit("admin")
        open_until(watched, "/panels/", f'[data-grafana-fault]:has-text("{words}")')
        notice = watched.page.locator("[data-grafana-fault]")
        expect(notice).to_contain_text(words)
        expect(notice).to_contain_text(grafana.url)
        assert watched.page.locator("iframe").count() == 0
        expect(watched.page.locator("[data-panel=requests] [data-legend]")).to_contain_text("finished")
    finally:
        grafana.mood = Mood.WELL
        time.sleep(KEPT_SECONDS)  # as long as the console believes what it saw last
