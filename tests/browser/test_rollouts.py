"""Rollouts: start one, watch it move, promote it, take it back; switch a route; a viewer only looks."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Route, expect

from tests.browser.conftest import LANGUAGES, Visit
from tests.flow.house import House, eventually

pytestmark = pytest.mark.server

PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module", autouse=True)
def offered(house: House) -> None:
    """A route of its own, so that other tests keep theirs."""
    house.ask("serve_also", "canary", "canary-1")
    house.ask("offer", "canary", "canary-2")


def test_a_canary_is_started_promoted_and_undone(visit: Visit) -> None:
    operator = visit("operator")
    page = operator.page
    operator.goto("/rollouts/")
    page.get_by_role("link", name="Start a rollout").click()
    page.get_by_label("Route", exact=True).select_option("canary")
    page.locator("#about").get_by_text("canary-1").first.wait_for()
    page.get_by_label("Candidate").select_option("canary-2")
    page.locator("#about").get_by_text("not needed: an original").wait_for()
    page.get_by_label("Share of step 1, percent").fill("25")
    page.get_by_label("Reason").fill("shorter answers")
    assert operator.axe() == []
    page.get_by_role("button", name="Start", exact=True).click()
    page.get_by_role("heading", name="canary #").wait_for()
    page.locator(".walk .on").get_by_text("25 %").wait_for()  # by itself, once the candidate is loaded
    assert operator.axe() == []

    page.get_by_role("button", name="Promote").click()
    dialog = page.locator("dialog[open]")
    dialog.get_by_text("canary-2 answers every new request for canary").wait_for()
    dialog.get_by_label("Skip the steps that are left").check()
    dialog.get_by_role("button", name="Promote").click()
    page.get_by_role("status").filter(has_text="Promoted").wait_for()
    page.locator("p:visible", has_text="Undo is instant: both revisions are loaded").wait_for()

    page.get_by_role("button", name="Undo").click()
    page.locator("dialog[open]").get_by_label("Reason").fill("too long")
    page.locator("dialog[open]").get_by_role("button", name="Undo now").click()
    page.get_by_role("status").filter(has_text="Undone").wait_for()
    trail = ["rollout.undo", "rollout.promote", "rollout.step", "rollout.start"]
    expect(page.locator(".feed code")).to_have_text(trail)
    assert operator.axe() == []


def test_what_is_typed_while_a_choice_is_looked_up_stays(visit: Visit) -> None:
    operator = visit("operator")
    page = operator.page
    operator.goto("/rollouts/new?route=canary")
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    page.route("**/rollouts/new?*", hold)
    page.get_by_label("Candidate").select_option("canary-2")
    page.wait_for_function("() => document.querySelector('.htmx-request')")
    share, reason = page.get_by_label("Share of step 1, percent"), page.get_by_label("Reason")
    share.fill("33")
    reason.fill("typed meanwhile")
    held[0].continue_()
    page.locator("#about").get_by_text("canary-2").wait_for()
    expect(share).to_have_value("33")
    expect(reason).to_have_value("typed meanwhile")
    expect(page.get_by_label("Candidate")).to_have_value("canary-2")
    expect(page.locator("#presets a").first).to_have_attribute("href", re.compile("candidate=canary-2"))


def test_a_route_is_switched_after_a_preview_and_undone(visit: Visit) -> None:
    operator = visit("operator")
    page = operator.page
    operator.goto("/rollouts/routes/canary/")
    page.get_by_label("Share of revision 1, percent").fill("40")
    page.get_by_label("Revision 2", exact=True).select_option("canary-2")
    page.get_by_label("Share of revision 2, percent").fill("60")
    page.get_by_role("button", name="Preview").click()
    page.locator("#preview").get_by_text("from the next request on").wait_for()
    assert operator.axe() == []
    page.get_by_role("button", name="Switch", exact=True).click()
    page.get_by_role("status").filter(has_text="Switched").wait_for()
    expect(page.locator("table").first.get_by_text("60 %")).to_be_visible()
    page.get_by_role("button", name="Undo the last change").click()
    page.locator("dialog[open]").get_by_role("button", name="Undo now").click()
    page.get_by_role("status").filter(has_text="Undone").wait_for()


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("theme", ["day", "night"])
def test_the_pages_are_sound_on_a_phone(visit: Visit, house: House, theme: str, language: str) -> None:
    operator = visit("operator", theme=theme, language=language)
    operator.page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    for path in ("/rollouts/", "/rollouts/new", "/rollouts/routes/canary/", "/rollouts/routes/new"):
        operator.goto(path)
        assert operator.axe() == []
        assert operator.page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], path


def test_a_viewer_sees_a_running_rollout_move_and_no_way_to_change_it(visit: Visit, house: House) -> None:
    from tests.flow.traffic import Steering

    steering = Steering(house)
    rollout = steering.start(route="canary", candidate="canary-2", steps=[(10, 2), (50, None)])
    try:
        viewer = visit("viewer")
        viewer.goto("/rollouts/")
        viewer.page.locator(".walk .on").get_by_text("50 %").wait_for()
        for button in ("Pause", "Promote", "Abort"):
            assert viewer.page.get_by_role("button", name=button, exact=True).count() == 0
        viewer.goto(f"/rollouts/{rollout}/")
        assert viewer.page.get_by_role("button", name="Abort").count() == 0
        assert viewer.axe() == []
    finally:
        steering.call("POST", f"rollouts/{rollout}/abort")
    eventually(lambda: steering.look(rollout)["state"] == "aborted")
