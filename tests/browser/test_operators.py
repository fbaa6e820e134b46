"""The operators' page: an admin makes, changes and disables accounts; others look."""

from __future__ import annotations

import pytest

from tests.browser.conftest import Visit, Watched

pytestmark = pytest.mark.server


def row(watched: Watched, name: str):  # type: ignore[no-untyped-def]
    return watched.page.locator("tr", has=watched.page.get_by_title(name, exact=True))


def test_an_admin_creates_an_operator_who_signs_in_until_disabled(visit: Visit) -> None:
    admin = visit("admin")
    admin.goto("/operators/")
    admin.page.get_by_label("Name", exact=True).fill("dana")
    admin.page.get_by_role("button", name="Create").click()
    password = admin.page.locator("#password").inner_text()
    admin.page.get_by_role("button", name="Copy").wait_for()
    assert admin.axe() == []

    dana = visit()
    dana.goto("/account/sign-in/")
    dana.page.locator("input[name=login]").fill("dana")
    dana.page.locator("input[name=password]").fill(password)
    dana.page.get_by_role("button", name="Sign in").click()
    dana.page.get_by_role("heading", name="Home", level=1).wait_for()

    admin.goto("/operators/")
    assert password not in admin.page.content()
    row(admin, "dana").get_by_role("button", name="Disable").click()
    admin.page.locator("dialog[open]").get_by_role("button", name="Disable").click()
    admin.page.get_by_role("status").filter(has_text="dana is disabled").wait_for()
    dana.goto("/")
    assert "/account/sign-in/" in dana.page.url


def test_the_only_admin_stays_one(visit: Visit) -> None:
    admin = visit("admin")
    admin.goto("/operators/")
    row(admin, "admin").get_by_role("button", name="Disable").click()
    admin.page.locator("dialog[open]").get_by_role("button", name="Disable").click()
    admin.page.get_by_role("status").filter(has_text="only admin").wait_for()


def test_a_viewer_sees_people_and_no_way_to_change_them(visit: Visit) -> None:
    viewer = visit("viewer")
    viewer.goto("/operators/")
    assert row(viewer, "admin").count() == 1
    assert viewer.page.get_by_role("button", name="Disable").count() == 0
    assert viewer.page.get_by_role("button", name="Create").count() == 0
