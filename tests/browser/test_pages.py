"""Every room, as every role, in both languages: no error, no violation, nothing serious for axe."""

from __future__ import annotations

import pytest

from tests.browser.conftest import LANGUAGES, ROLES, Visit, rooms

pytestmark = pytest.mark.server

PHONE = {"width": 390, "height": 844}


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("role", ROLES)
def test_every_room_opens_without_a_fault(visit: Visit, role: str, language: str) -> None:
    watched = visit(role, language=language)
    watched.goto("/")
    paths = rooms(watched)
    assert {"/", "/operators/", "/account/password/", "/account/sessions/"} <= set(paths)
    for path in paths:
        watched.goto(path)
        assert watched.page.locator("html").get_attribute("lang") == language
        assert watched.page.locator("h1").inner_text().strip()
        assert watched.page.locator(".rail [aria-current=page]").count() <= 1


@pytest.mark.parametrize("theme", ["day", "night"])
@pytest.mark.parametrize("width", ["desk", "phone"])
def test_axe_finds_nothing_serious_in_any_room(visit: Visit, theme: str, width: str) -> None:
    watched = visit("admin", theme=theme)
    if width == "phone":
        watched.page.set_viewport_size(PHONE)
    watched.goto("/")
    for path in rooms(watched):
        watched.goto(path)
        assert watched.axe() == [], path


def test_no_room_is_wider_than_a_phone(visit: Visit) -> None:
    watched = visit("admin")
    watched.page.set_viewport_size(PHONE)
    watched.goto("/")
    for path in rooms(watched):
        watched.goto(path)
        assert watched.page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], path


def test_on_a_phone_the_rail_is_a_drawer(visit: Visit) -> None:
    watched = visit("admin")
    watched.page.set_viewport_size(PHONE)
    watched.goto("/")
    rail = watched.page.locator("#rail")
    assert not rail.is_visible()
    watched.page.get_by_role("button", name="Navigation").click()
    rail.get_by_role("link", name="Operators").wait_for(state="visible")
    watched.page.keyboard.press("Escape")
    rail.wait_for(state="hidden")


def test_the_theme_is_kept_and_rendered_by_the_server(visit: Visit) -> None:
    watched = visit("viewer", color_scheme="light")
    watched.goto("/")
    assert watched.page.locator("html").get_attribute("data-theme") is None
    watched.page.locator(".account > summary").click()
    watched.page.get_by_role("button", name="Dark").click()
    assert watched.page.evaluate("document.cookie").count("theme=night") == 1
    answer = watched.page.request.get(watched.url + "/").text()
    assert '<html lang="en" data-theme="night">' in answer


def test_the_language_is_switched_and_the_page_stays(visit: Visit) -> None:
    watched = visit("viewer")
    watched.goto("/operators/")
    watched.page.locator(".account > summary").click()
    watched.page.get_by_role("button", name="简体中文").click()
    watched.page.wait_for_function("document.documentElement.lang === 'zh-hans'")
    assert watched.page.url.endswith("/operators/")


def test_the_palette_finds_a_room_by_keyboard(visit: Visit) -> None:
    watched = visit("admin")
    watched.goto("/")
    watched.page.keyboard.press("Control+k")
    watched.page.keyboard.type("oper")
    watched.page.keyboard.press("Enter")
    watched.page.wait_for_url("**/operators/")


def test_the_pill_and_the_figures_refresh_themselves(visit: Visit) -> None:
    watched = visit("viewer")
    watched.goto("/")
    for fragment in ("engine/pill", "home/figures", "home/requests"):
        with watched.page.expect_response(f"**/{fragment}") as answer:
            pass
        assert answer.value.ok
    assert "ngine" in watched.page.locator("#engine-pill").inner_text()
