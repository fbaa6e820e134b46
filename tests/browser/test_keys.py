"""Keys: issue one, call with it, watch what it used, limit it, revoke it; a viewer only looks."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from playwright.sync_api import expect

from tests.browser.conftest import LANGUAGES, Visit, Watched
from tests.flow.house import House
from tests.flow.requests import body

pytestmark = pytest.mark.server

PHONE = {"width": 390, "height": 844}


def issue(watched: Watched, name: str, **limits: str) -> str:
    """Issue a key through its dialog; the secret that the page shows."""
    watched.goto("/keys/")
    watched.page.get_by_role("button", name="Issue a key").click()
    dialog = watched.page.locator("dialog[open]")
    dialog.get_by_label("Name", exact=True).fill(name)
    for label, value in limits.items():
        dialog.get_by_label(label).fill(value)
    dialog.get_by_role("button", name="Issue", exact=True).click()
    return watched.page.locator("#secret").inner_text()


def ask(house: House, secret: str) -> httpx.Response:
    headers = {"authorization": f"Bearer {secret}"}
    return httpx.post(f"{house.url}/v1/chat/completions", json=body(max_tokens=5), headers=headers)


def test_an_operator_issues_a_key_calls_with_its_line_and_sees_the_usage(visit: Visit, house: House) -> None:
    operator = visit("operator")
    secret = issue(operator, "ticket sorter")
    assert operator.axe() == []
    line = operator.page.locator("#curl").inner_text()
    answer = subprocess.run(["sh", "-c", f"{line} -s"], capture_output=True, text=True, check=True).stdout
    assert '"chat.completion"' in answer
    operator.page.get_by_role("link", name="To the key").click()
    operator.page.get_by_role("heading", name="ticket sorter", level=1).wait_for()
    expect(operator.page.locator("table tbody tr")).to_have_count(1)
    expect(operator.page.locator("svg.days")).to_be_visible()
    assert operator.axe() == []
    assert secret not in operator.page.content()
    stored = operator.page.context.cookies()
    assert secret not in str(stored)


def test_the_secret_is_shown_once_and_kept_nowhere(visit: Visit) -> None:
    operator = visit("operator")
    with operator.page.expect_response("**/keys/issue") as shown:
        secret = issue(operator, "once")
    assert "no-store" in shown.value.headers["cache-control"]
    operator.goto("/keys/")
    assert secret not in operator.page.content()


def test_a_form_that_cannot_be_comes_back_open_and_says_why(visit: Visit) -> None:
    operator = visit("operator", expected=("422",))
    operator.goto("/keys/")
    operator.page.get_by_role("button", name="Issue a key").click()
    dialog = operator.page.locator("dialog[open]")
    dialog.get_by_label("Name", exact=True).fill("yesterday's")
    dialog.get_by_label("Expires").fill((datetime.now(UTC) - timedelta(days=1)).date().isoformat())
    dialog.get_by_role("button", name="Issue", exact=True).click()
    dialog.get_by_text("This day is over.").wait_for()
    assert dialog.get_by_label("Name", exact=True).input_value() == "yesterday's"
    assert operator.axe() == []


def test_limits_are_set_shown_and_hold_and_a_revoked_key_ends(visit: Visit, house: House) -> None:
    operator = visit("operator")
    secret = issue(operator, "limited", **{"Requests per minute": "1"})
    first, second = ask(house, secret), ask(house, secret)
    assert (first.status_code, second.status_code) == (200, 429)
    assert (first.headers["x-ratelimit-limit-requests"], first.headers["x-ratelimit-remaining-requests"]) == (
        "1",
        "0",
    )
    operator.page.get_by_role("link", name="To the key").click()
    operator.page.get_by_text("0 of 1 left now").wait_for()
    operator.page.get_by_role("button", name="Set limits").click()
    dialog = operator.page.locator("dialog[open]")
    dialog.get_by_label("Requests per minute").fill("")
    dialog.get_by_label("Budget").fill("5000")
    dialog.get_by_role("button", name="Set", exact=True).click()
    operator.page.get_by_role("status").filter(has_text="limits are set").wait_for()
    assert ask(house, secret).status_code == 200

    operator.page.get_by_role("button", name="Revoke").click()
    operator.page.locator("dialog[open]").get_by_text("will fail with 401").wait_for()
    operator.page.locator("dialog[open]").get_by_role("button", name="Revoke").click()
    operator.page.get_by_role("status").filter(has_text="limited is revoked").wait_for()
    assert ask(house, secret).status_code == 401
    expect(operator.page.get_by_role("button", name="Set limits")).to_have_count(0)


def test_a_key_is_renamed_and_limited_to_an_endpoint(visit: Visit, house: House) -> None:
    operator = visit("operator")
    secret = issue(operator, "old name")
    operator.page.get_by_role("link", name="To the key").click()
    operator.page.get_by_role("button", name="Change", exact=True).click()
    dialog = operator.page.locator("dialog[open]")
    dialog.get_by_label("Name", exact=True).fill("new name")
    dialog.get_by_label("Chat completions").uncheck()
    dialog.get_by_role("button", name="Save").click()
    operator.page.get_by_role("heading", name="new name", level=1).wait_for()
    refused = ask(house, secret)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "missing_scope")
    assert "'chat'" in refused.json()["error"]["message"]


def test_the_list_is_searched_while_typing_and_its_address_says_so(visit: Visit, house: House) -> None:
    operator = visit("operator")
    for name in ("alpha one", "beta two"):
        house.new_key(name)
    operator.goto("/keys/")
    operator.page.get_by_label("Name or id").press_sequentially("alpha")
    operator.page.wait_for_url("**/keys/?words=alpha*")
    expect(operator.page.locator("#found tbody tr")).to_have_count(1)
    operator.goto("/keys/?words=no-such-key")
    operator.page.get_by_text("No matching keys").wait_for()


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("theme", ["day", "night"])
def test_the_pages_are_sound_on_a_phone(visit: Visit, house: House, theme: str, language: str) -> None:
    name = "x" * 100
    secret = house.new_key(name)
    viewer = visit("viewer", theme=theme, language=language)
    viewer.page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    for path in ("/keys/", f"/keys/{secret.split('_')[1]}/"):
        viewer.goto(path)
        assert viewer.axe() == []
        assert viewer.page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], path


def test_a_viewer_sees_keys_and_no_way_to_change_them(visit: Visit, house: House) -> None:
    public_id = house.new_key("looked at").split("_")[1]
    viewer = visit("viewer", expected=("403",))
    viewer.goto(f"/keys/{public_id}/")
    viewer.page.get_by_role("heading", name="looked at", level=1).wait_for()
    for button in ("Revoke", "Change", "Set limits", "Issue a key"):
        assert viewer.page.get_by_role("button", name=button, exact=True).count() == 0
    answer = viewer.page.request.post(f"{viewer.url}/keys/{public_id}/revoke")
    assert answer.status == 403
    assert ask(house, house.new_key("another")).status_code == 200
