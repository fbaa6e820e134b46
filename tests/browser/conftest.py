"""A real server, people of every role, and Debian's Chromium, which tells of every fault."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, expect, sync_playwright

from tests.flow.house import House, found

CHROMIUM = "/usr/bin/chromium"
PATIENCE = 60_000  # milliseconds; what is there ends the wait
expect.set_options(timeout=PATIENCE)
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
ROLES = ("viewer", "operator", "admin")
LANGUAGES = ("en", "zh-hans")
AXE = Path(__file__).with_name("axe.js").read_text()
HREFS = "all => all.map(one => one.getAttribute('href'))"
SERIOUS = ("serious", "critical")


@dataclass
class Watched:
    """A page and everything wrong that was seen on it."""

    page: Page
    url: str
    faults: list[str] = field(default_factory=list)
    expected: tuple[str, ...] = ()  # parts of messages that the test provokes

    def __post_init__(self) -> None:
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not any(part in message.text for part in self.expected):
            self.faults.append(f"{message.type} on {self.page.url}: {message.text}")

    def goto(self, path: str) -> None:
        self.page.goto(self.url + path)

    def axe(self) -> list[str]:
        """What axe finds serious on the page as it is now."""
        # The evaluation runs in the page but outside its Content-Security-Policy.
        self.page.evaluate(AXE)
        result = self.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        return [
            f"{one['id']} at {node['target']}: {node['failureSummary']}"
            for one in result["violations"]
            if one["impact"] in SERIOUS
            for node in one["nodes"]
        ]


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    serve = ["-m", "tests.flow.serve_with_kinds"]  # so that there are jobs to look at
    with House(tmp_path_factory.mktemp("console"), command=serve) as house:
        for words in ("hello", "fail-after-3"):  # so that pages have rows
            body = {"model": "stub", "messages": [{"role": "user", "content": words}], "max_tokens": 20}
            httpx.post(f"{house.url}/v1/chat/completions", json=body, headers=house.headers())
        yield house


@pytest.fixture(scope="session")
def people(house: House) -> dict[str, str]:
    """Role -> password of the person named like it, made as an admin makes them: on the operators' page."""
    passwords = {"admin": house.password}
    with httpx.Client(base_url=house.url, follow_redirects=True) as client:
        sign_in(client, "admin", house.password)
        for role in ("viewer", "operator"):
            page = client.post("/operators/create", data={"username": role, "role": role} | csrf(client))
            passwords[role] = found(r'id="password">([^<]+)<', page.text)
    assert all(passwords.values()), passwords
    return passwords


def sign_in(client: httpx.Client, name: str, password: str) -> httpx.Response:
    client.get("/account/sign-in/")
    return client.post("/account/sign-in/", data={"login": name, "password": password} | csrf(client))


def csrf(client: httpx.Client) -> dict[str, str]:
    return {"csrfmiddlewaretoken": client.cookies["csrftoken"]}


@pytest.fixture(scope="session")
def cookies(house: House, people: dict[str, str]) -> dict[str, list[dict[str, str]]]:
    """Role -> the cookies of somebody who has signed in, for tests about something else."""
    jars = {}
    for role, password in people.items():
        with httpx.Client(base_url=house.url) as client:
            sign_in(client, role, password)
            jars[role] = [
                {"name": name, "value": value, "url": house.url} for name, value in client.cookies.items()
            ]
    return jars


# Playwright leaves its event loop marked as running, which asyncio tests of other modules would trip over.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not Path(CHROMIUM).exists():
        pytest.fail(f"{CHROMIUM} is missing. On Debian or Ubuntu: sudo apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS, timeout=2 * PATIENCE)
        yield browser
        browser.close()


Visit = Callable[..., Watched]


@pytest.fixture
def visit(browser: Browser, house: House, cookies: dict[str, list[dict[str, str]]]) -> Iterator[Visit]:
    """visit("admin", language="zh-hans", theme="night") -> a watched page; its faults fail the test."""
    contexts: list[BrowserContext] = []
    watched: list[Watched] = []

    def open_page(
        role: str | None = None,
        *,
        language: str = "en",
        theme: str = "",
        expected: tuple[str, ...] = (),
        **options: Any,
    ) -> Watched:
        context = browser.new_context(viewport={"width": 1280, "height": 900}, **options)
        contexts.append(context)
        context.set_default_timeout(PATIENCE)
        jar = [*(cookies[role] if role else []), cookie(house, "django_language", language)]
        if theme:
            jar.append(cookie(house, "theme", theme))
        context.add_cookies(jar)  # type: ignore[arg-type]
        watched.append(Watched(context.new_page(), house.url, expected=expected))
        return watched[-1]

    yield open_page
    for context in contexts:
        context.close()
    assert [fault for one in watched for fault in one.faults] == []


def cookie(house: House, name: str, value: str) -> dict[str, str]:
    return {"name": name, "value": value, "url": house.url}


def rooms(watched: Watched) -> list[str]:
    """The paths that the rail offers on the page that is open; Django admin has looks of its own."""
    links = watched.page.locator(".rail a[href]").evaluate_all(
        "all => all.map(one => one.getAttribute('href'))"
    )
    return sorted({path for path in links if not re.match(r"/admin/", path)})
