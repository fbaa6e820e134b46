"""Jobs as people of each role see them: they move by themselves, end, fail, are cancelled and tried again."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import LANGUAGES, ROLES, Visit
from tests.flow.house import House, eventually

pytestmark = pytest.mark.server

PHONE = {"width": 390, "height": 844}


def start(house: House, *, steps: int = 3, seconds: float = 0.05, kind: str = "test.steps") -> str:
    return str(house.ask("enqueue", {"steps": steps, "seconds": seconds}, kind))


@pytest.fixture(scope="module")
def failed(house: House) -> str:
    job = start(house, kind="test.fails")
    eventually(lambda: house.ask("job", job)["state"] == "failed")
    return job


def test_a_job_moves_and_ends_without_a_reload(visit: Visit, house: House) -> None:
    watched = visit("viewer")
    page = watched.page
    job = start(house, steps=16, seconds=0.5)
    watched.goto("/jobs/")
    row = page.locator("tbody tr", has_text="steps").first
    row.get_by_text("running").wait_for()
    row.get_by_role("link").click()
    page.wait_for_url(f"**/jobs/{job}/")
    assert page.get_by_role("button", name="Cancel").count() == 0
    page.locator(".job-log").get_by_text("step 4").wait_for()
    assert watched.axe() == []
    page.locator(".job-progress").get_by_text("done").wait_for()
    page.get_by_text("Ended", exact=True).wait_for()  # the rest of the page followed
    assert page.locator(".job-log li:has(time)").all_inner_texts()[-1].endswith("step 16")

    def num_asked() -> int:
        asked = "performance.getEntriesByType('resource').filter(one => /jobs/.test(one.name)).length"
        return int(page.evaluate(asked))

    def is_quiet() -> bool:
        before = num_asked()
        page.wait_for_timeout(2500)
        return num_asked() == before

    eventually(is_quiet)  # nothing asks any more


def test_an_operator_cancels_a_job_and_tries_it_again(visit: Visit, house: House) -> None:
    watched = visit("operator")
    page = watched.page
    watched.goto(f"/jobs/{start(house, steps=2000, seconds=0.1)}/")
    page.locator(".job-log").get_by_text("step 2").wait_for()
    page.get_by_role("button", name="Cancel").first.click()
    dialog = page.locator("dialog[open]")
    assert "nothing half done" in dialog.inner_text()
    assert watched.axe() == []
    dialog.get_by_role("button", name="Cancel the job").click()
    page.get_by_role("button", name="Try again").wait_for()
    page.get_by_role("button", name="Try again").click()
    page.get_by_role("status").filter(has_text="queued again").wait_for()
    page.get_by_role("button", name="Cancel").first.click()
    page.locator("dialog[open]").get_by_role("button", name="Cancel the job").click()
    page.get_by_role("button", name="Try again").wait_for()


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("role", ROLES)
def test_each_role_reads_why_a_job_failed(
    visit: Visit, house: House, failed: str, role: str, language: str
) -> None:
    watched = visit(role, language=language)
    watched.goto("/jobs/?state=failed")
    watched.page.locator(f"tbody a[href*='{failed}']").click()
    notice = watched.page.get_by_role("alert").first.inner_text()
    assert "The disk is full." in notice
    assert ("再重试" if language == "zh-hans" else "then retry") in notice
    assert watched.page.locator("#job-tools button").count() == (0 if role == "viewer" else 1)


def test_a_filter_is_in_the_address_and_leads_back(visit: Visit, failed: str) -> None:
    watched = visit("viewer")
    page = watched.page
    watched.goto("/jobs/")
    page.get_by_label("State").select_option("failed")
    page.wait_for_url("**/jobs/?state=failed")
    expect(page.locator("tbody .badge").first).to_have_text("failed")
    assert set(page.locator("tbody .badge").all_inner_texts()) == {"failed"}
    page.get_by_label("State").select_option("queued")
    page.get_by_text("No matching jobs").wait_for()
    page.get_by_role("link", name="Show all").click()
    page.locator("tbody tr").first.wait_for()


@pytest.mark.parametrize("theme", ["day", "night"])
def test_jobs_fit_a_phone(visit: Visit, failed: str, theme: str) -> None:
    watched = visit("operator", theme=theme)
    watched.page.set_viewport_size(PHONE)
    for path in ("/jobs/", f"/jobs/{failed}/"):
        watched.goto(path)
        assert watched.page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        assert watched.axe() == []
