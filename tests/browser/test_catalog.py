"""The models' pages in a browser: sound for every role, live advice, and two revisions side by side."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import LANGUAGES, ROLES, Visit

pytestmark = pytest.mark.server

PHONE = {"width": 390, "height": 844}
REVISION = "/models/stub/stub-1/"
PAGES = ("/models/", "/models/stub/", REVISION)
FOR_OPERATORS = ("/models/import", f"{REVISION}settings")


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("role", ROLES)
def test_every_page_opens_for_every_role_in_every_language(visit: Visit, role: str, language: str) -> None:
    watched = visit(role, language=language)
    for path in PAGES if role == "viewer" else (*PAGES, *FOR_OPERATORS):
        watched.goto(path)
        assert watched.page.locator("h1").inner_text().strip()
        assert watched.page.locator(".rail [aria-current=page]").count() == 1


@pytest.mark.parametrize("theme", ["day", "night"])
@pytest.mark.parametrize("width", ["desk", "phone"])
def test_nothing_is_serious_for_axe_and_nothing_wider_than_the_screen(
    visit: Visit, theme: str, width: str
) -> None:
    watched = visit("operator", theme=theme)
    if width == "phone":
        watched.page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    for path in (*PAGES, *FOR_OPERATORS):
        watched.goto(path)
        assert watched.axe() == [], path
        screen = watched.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert screen[0] <= screen[1], path


def test_advice_follows_what_is_typed_and_what_cannot_be_stands_beside_its_field(visit: Visit) -> None:
    operator = visit("operator", expected=("422",))
    operator.goto(f"{REVISION}settings")
    page = operator.page
    before = page.locator("#advice_dtype").inner_text()
    page.get_by_label("Data type").select_option("float16")
    expect(page.locator("#advice_dtype")).not_to_have_text(before)
    expect(page.locator("#advice_dtype")).to_contain_text("slow in float16")
    page.get_by_label("Device").select_option("cuda")
    page.get_by_role("button", name="Make the revision").click()
    expect(page.locator("#id_device_error")).to_be_visible()
    expect(page.get_by_label("Data type")).to_have_value("float16")


def test_the_fields_of_an_import_follow_its_source(visit: Visit) -> None:
    operator = visit("operator", expected=("422",))
    operator.goto("/models/import")
    page = operator.page
    page.get_by_label("Model id").fill("Owner/Some-Model")
    page.get_by_label("Commit or branch").focus()
    expect(page.get_by_label("Name here")).to_have_attribute("placeholder", "some-model")
    page.get_by_label("Where it comes from").select_option("folder")
    expect(page.get_by_label("Commit or branch")).to_have_count(0)
    page.get_by_label("Folder", exact=True).fill("/nowhere/at/all")
    page.get_by_role("button", name="Import", exact=True).click()
    expect(page.locator("#id_location_error")).to_contain_text("not a folder")
    expect(page.get_by_label("Folder", exact=True)).to_have_value("/nowhere/at/all")


def test_two_panes_open_by_address_and_both_answer(visit: Visit) -> None:
    operator = visit("operator")
    operator.goto("/playground/?pane=stub&pane=stub%40stub-1")
    page = operator.page
    assert page.locator(".pane").count() == 2
    expect(page.locator(".pane").nth(1).locator("[data-share]")).to_have_text("100 %")
    page.locator("#message").fill("hello")
    page.locator("#message").press("Enter")
    for place in (0, 1):
        expect(page.locator(".pane").nth(place).locator(".assistant [data-out]")).not_to_be_empty()
