"""Django admin as auditors use it: they read and search the trail, and nobody can change anything."""

from __future__ import annotations

import json

import pytest

from tests.browser.conftest import LANGUAGES, ROLES, Visit, Watched
from tests.flow.house import House

pytestmark = pytest.mark.server

AUDIT = "/admin/audit/entry/"
LISTS = (
    AUDIT,
    "/admin/usage/usagerecord/",
    "/admin/keys/apikey/",
    "/admin/limits/limit/",
    "/admin/accounts/user/",
    "/admin/accounts/team/",
    "/admin/catalog/revision/",
)
WORDS = {"en": "The chain is intact", "zh-hans": "审计链完好"}
PHONE = {"width": 390, "height": 844}


def rows(watched: Watched) -> int:
    return watched.page.locator("#result_list tbody tr:has(.field-number)").count()


def test_an_auditor_comes_from_the_console_searches_the_trail_and_opens_an_entry(visit: Visit) -> None:
    auditor = visit("viewer")
    auditor.goto("/")
    auditor.page.locator(".rail").get_by_role("link", name="Audit", exact=True).click()
    auditor.page.get_by_text("The chain is intact").wait_for()
    num_all = rows(auditor)
    assert num_all > 3
    auditor.page.locator("#searchbar").fill("user:operator")
    auditor.page.keyboard.press("Enter")
    auditor.page.wait_for_url("**q=user*")
    assert 0 < rows(auditor) < num_all
    auditor.page.locator("tr", has_text="user.created").get_by_role("link").first.click()
    detail = auditor.page.locator("pre.detail-json").inner_text()
    assert json.loads(detail)["role"] == "operator"
    assert auditor.page.locator("[name=_save], [name=_continue], .deletelink").count() == 0
    auditor.page.get_by_role("link", name="Back to the console").click()
    auditor.page.get_by_role("heading", name="Home", level=1).wait_for()


def test_an_auditor_filters_by_action_actor_and_day(visit: Visit) -> None:
    auditor = visit("viewer")
    auditor.goto(AUDIT)
    auditor.page.get_by_text("Filters").first.click()
    panel = auditor.page.locator("#changelist-filter")
    panel.locator("input[name=actor]").fill("admin")
    panel.get_by_role("link", name="user.created").wait_for()
    panel.locator("#filter-form").get_by_role("button").first.click()
    auditor.page.wait_for_url("**actor=admin*")
    assert rows(auditor) > 0
    assert set(auditor.page.locator("td.field-actor_name").all_inner_texts()) == {"admin"}
    auditor.goto(f"{AUDIT}?at_from=2001-01-01&at_to=2001-01-02")
    assert rows(auditor) == 0


def test_an_auditor_takes_an_export_along(visit: Visit) -> None:
    auditor = visit("viewer")
    auditor.goto(AUDIT)
    with auditor.page.expect_download() as download:
        auditor.page.get_by_role("link", name="Export the whole log").click()
    lines = download.value.path().read_text().splitlines()
    assert [json.loads(line)["seq"] for line in lines] == list(range(1, len(lines) + 1))
    assert download.value.suggested_filename == "audit.jsonl"


@pytest.mark.parametrize("role", ROLES)
def test_nobody_can_change_the_trail(visit: Visit, role: str, house: House) -> None:
    watched = visit(role, expected=("403",))
    watched.goto(AUDIT)
    token = next(one["value"] for one in watched.page.context.cookies() if one["name"] == "csrftoken")
    for path in ("add/", "1/change/", "1/delete/"):
        answer = watched.page.request.post(
            house.url + AUDIT + path,
            form={"actor": "nobody", "post": "yes"},
            headers={"X-CSRFToken": token, "Referer": house.url},
        )
        assert answer.status == 403, path


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("role", ROLES)
def test_every_list_opens_without_a_fault(visit: Visit, role: str, language: str) -> None:
    watched = visit(role, language=language)
    for path in LISTS:
        watched.goto(path)
        assert watched.page.locator("html").get_attribute("lang") == language
        assert watched.page.locator("h1").first.inner_text().strip()
        if path == AUDIT:
            assert WORDS[language] in watched.page.locator(".chain").inner_text()


@pytest.mark.parametrize("theme", ["day", "night"])
def test_axe_finds_nothing_serious_in_the_trail(visit: Visit, theme: str) -> None:
    watched = visit("viewer", theme=theme)
    watched.goto(AUDIT)
    assert watched.page.locator("html.dark").count() == (theme == "night")
    assert watched.axe() == []
    watched.goto(f"{AUDIT}1/change/")
    assert watched.axe() == []


def test_the_trail_is_read_on_a_phone(visit: Visit) -> None:
    watched = visit("viewer")
    watched.page.set_viewport_size(PHONE)
    watched.goto(AUDIT)
    assert watched.page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    assert not watched.page.locator("#nav-sidebar").is_visible()
    watched.page.get_by_role("button", name="Show or hide the sidebar").last.click()
    watched.page.locator("#nav-sidebar").get_by_role("link", name="Usage").wait_for(state="visible")


def test_an_operator_revokes_a_selected_key(visit: Visit, house: House) -> None:
    house.new_key("to be revoked")
    operator = visit("operator")
    operator.goto("/admin/keys/apikey/?q=to+be+revoked")
    operator.page.locator("tbody .action-select").first.check()
    operator.page.locator("select[name=action]").select_option("revoke_keys")
    operator.page.get_by_role("button", name="Run").click()
    operator.page.get_by_text("Revoked 1 keys.").wait_for()


def test_the_management_apis_documentation_works_offline_under_the_policy(visit: Visit) -> None:
    watched = visit("operator")
    watched.goto("/api/v1/docs/")
    watched.page.get_by_text("/api/v1/keys/{public_id}/revoke").wait_for()
    watched.page.locator("#operations-keys-get_keys").get_by_role("button").first.click()
    watched.page.get_by_role("button", name="Try it out").click()
    with watched.page.expect_response("**/api/v1/keys?*") as answer:
        watched.page.get_by_role("button", name="Execute").click()
    assert answer.value.status == 200
    hosts = "performance.getEntriesByType('resource').map(one => new URL(one.name).host)"
    assert set(watched.page.evaluate(hosts)) == {watched.url.removeprefix("http://")}
