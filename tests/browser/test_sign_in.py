"""Signing in and out, and what happens to those who cannot."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Visit, Watched
from tests.flow.house import House

pytestmark = pytest.mark.server


def fill(watched: Watched, name: str, password: str) -> None:
    watched.page.locator("input[name=login]").fill(name)
    watched.page.get_by_label("Password").fill(password)
    watched.page.get_by_role("button", name="Sign in").click()


def test_who_signs_in_lands_where_they_wanted(visit: Visit, people: dict[str, str]) -> None:
    watched = visit()
    watched.goto("/operators/")
    assert "/account/sign-in/" in watched.page.url
    assert watched.axe() == []
    fill(watched, "operator", people["operator"])
    watched.page.wait_for_url("**/operators/")
    watched.page.locator(".account > summary").click()
    watched.page.get_by_role("button", name="Sign out").click()
    watched.page.wait_for_url("**/account/sign-in/")
    watched.goto("/")
    assert "/account/sign-in/" in watched.page.url


def test_a_wrong_password_says_so_and_keeps_the_name(visit: Visit, people: dict[str, str]) -> None:
    watched = visit()
    watched.goto("/account/sign-in/")
    fill(watched, "viewer", "wrong")
    assert watched.page.get_by_role("alert").inner_text() != ""
    assert watched.page.locator("input[name=login]").input_value() == "viewer"


def test_too_many_wrong_passwords_lock_that_name_alone(visit: Visit, people: dict[str, str]) -> None:
    watched = visit(expected=("429",))
    for _ in range(8):
        watched.goto("/account/sign-in/")
        with watched.page.expect_navigation():
            fill(watched, "nobody", "wrong")
    expect(watched.page.get_by_role("heading", name="Too many attempts")).to_be_visible()
    assert watched.axe() == []
    other = visit()
    other.goto("/account/sign-in/")
    fill(other, "viewer", people["viewer"])
    expect(other.page.get_by_role("heading", name="Home", level=1)).to_be_visible()


def test_a_session_that_ended_is_said_on_a_polling_page_which_stays(visit: Visit) -> None:
    watched = visit("viewer")
    watched.goto("/")
    watched.page.context.clear_cookies(name="pilothouse")
    watched.page.locator("#sign-in-again").wait_for()
    assert watched.page.url == f"{watched.url}/"


def test_django_admin_has_no_sign_in_page_of_its_own(visit: Visit, house: House) -> None:
    watched = visit()
    watched.goto("/admin/audit/entry/")
    assert watched.page.url.startswith(f"{house.url}/account/sign-in/")
