"""`make screenshots`: every room, light, dark, Chinese and on a phone, with real traffic behind it."""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
from playwright.sync_api import Browser, Page, sync_playwright

from tests.browser.conftest import ARGUMENTS, CHROMIUM, HREFS, csrf, sign_in
from tests.flow.house import ROOT, House, eventually

MODEL = "smollm2-135m"
KEPT = ROOT / "build"  # where the tests keep the converted default model
PICTURES = ROOT / "docs/pictures"
QUESTIONS = (
    "Summarise the incident in two sentences for the status page.",
    "Name three uses of a paged KV cache.",
    "Write a haiku about a harbour at night.",
    "Explain continuous batching to a new colleague.",
    "What is the difference between a canary and a rollback?",
)
VARIANTS = {
    "light": {"theme": "day"},
    "dark": {"theme": "night"},
    "chinese": {"theme": "day", "language": "zh-hans"},
    "phone": {"theme": "day"},
}
NAMES = {"/admin/audit/entry/": "audit"}
INSIDE = {"key": "/keys/", "request": "/requests/", "job": "/jobs/"}  # the first one of each list
STEPS = {"weight_0": 10, "pause_0": "", "weight_1": 50, "pause_1": "", "weight_2": 100, "pause_2": ""}
SIGNED_OUT = {"sign-in": "/account/sign-in/"}


class RealHouse(House):
    """The house with its own engine and the default model, which is fetched where it is not kept yet."""

    start_seconds = 600.0


def traffic(house: House, keys: list[str], *, rounds: int) -> None:
    """Requests of three programs that share a system prompt, a few at a time; some are given up."""

    def ask(number: int) -> None:
        system = "You are a careful assistant of the operations team. Answer briefly and plainly. " * 4
        body = {
            "model": MODEL,
            "stream": True,
            "messages": [
                {"role": "system", "content": system},
                {"role": "user", "content": QUESTIONS[number % len(QUESTIONS)]},
            ],
            "max_tokens": 24 + number % 40,
        }
        headers = house.headers(keys[number % len(keys)])
        url = f"{house.url}/v1/chat/completions"
        with httpx.stream("POST", url, json=body, headers=headers, timeout=120) as answer:
            for count, _ in enumerate(answer.iter_lines()):
                if number % 9 == 4 and count > 12:
                    return

    with ThreadPoolExecutor(5) as pool:
        list(pool.map(ask, range(rounds)))


class Operator:
    """Quantizes the model, loads what came of it and lets it answer a tenth of the requests."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def roll_out(self) -> dict[str, str]:
        """Name -> path of the pages to look at."""
        original = self._get("/api/v1/revisions")["data"][0]["id"]
        self._post(f"/models/{MODEL}/{original}/quantize")
        quantized = self._wait(
            "/api/v1/jobs", lambda found: found["data"][0]["result"].get("revision"), seconds=600
        )
        self._post(f"/models/{MODEL}/{quantized}/load")
        self._wait(
            f"/api/v1/revisions/{quantized}",
            lambda found: found["deployment"]["state"] == "ready",
            seconds=120,
        )
        self._post("/rollouts/start", {"route": MODEL, "candidate": quantized, **STEPS})
        rollout = self._get("/api/v1/rollouts")["data"][0]["id"]
        return {
            "model": f"/models/{MODEL}/",
            "certificate": f"/models/{MODEL}/{quantized}/",
            "settings": f"/models/{MODEL}/{original}/settings",
            "rollout": f"/rollouts/{rollout}/",
        }

    def _get(self, path: str) -> Any:
        return self._client.get(path).raise_for_status().json()

    def _post(self, path: str, data: dict[str, Any] | None = None) -> None:
        self._client.post(path, data={**(data or {}), **csrf(self._client)}).raise_for_status()

    def _wait(self, path: str, what: Callable[[Any], Any], *, seconds: float) -> Any:
        return eventually(lambda: what(self._get(path)), seconds=seconds)


def shoot(
    browser: Browser, house: House, jar: list[dict[str, str]], folder: Path, pages: dict[str, str]
) -> None:
    """One picture of each room in each variant, and of `pages`."""
    for variant, wish in VARIANTS.items():
        size = {"width": 390, "height": 844} if variant == "phone" else {"width": 1360, "height": 900}
        context = browser.new_context(viewport=size, device_scale_factor=1)  # type: ignore[arg-type]
        extra = {"theme": wish["theme"], "django_language": wish.get("language", "en")}
        page = context.new_page()
        context.add_cookies([{"name": n, "value": v, "url": house.url} for n, v in extra.items()])
        for name, path in SIGNED_OUT.items():
            page.goto(house.url + path)
            page.screenshot(path=folder / f"{name}-{variant}.png")
        context.add_cookies(jar)  # type: ignore[arg-type]
        page.goto(house.url)
        for path in dict.fromkeys(page.locator(".rail a[href]").evaluate_all(HREFS)):
            page.goto(house.url + path)
            name = NAMES.get(path) or re.sub(r"[^a-z0-9]+", "-", path.strip("/")) or "home"
            if name == "playground":
                converse(page)
            page.wait_for_timeout(700)  # charts fetch their series
            page.screenshot(path=folder / f"{name}-{variant}.png", full_page=name == "home")
        for name, path in INSIDE.items():
            page.goto(house.url + path)
            page.locator("#content tbody a[href]").first.click()
            page.wait_for_timeout(700)
            page.screenshot(path=folder / f"{name}-{variant}.png", full_page=variant != "phone")
        for name, path in pages.items():
            page.goto(house.url + path)
            page.wait_for_timeout(700)
            if name == "certificate":
                page.locator("#certificate").screenshot(path=folder / f"{name}-{variant}.png")
            else:
                page.screenshot(path=folder / f"{name}-{variant}.png", full_page=variant != "phone")
        context.close()


def converse(page: Page) -> None:
    """Ask something and wait for the answer."""
    page.locator("#message").fill("Write a haiku about a harbour at night.")
    page.locator("#message").press("Enter")
    page.wait_for_timeout(12_000)


def furnish(house: House) -> tuple[list[dict[str, str]], list[str], dict[str, str]]:
    """People, keys and a rollout: the cookies of an admin, the keys of three programs, pages to look at."""
    with httpx.Client(base_url=house.url, follow_redirects=True) as client:
        sign_in(client, "admin", house.password)
        for name, role in (("maria", "operator"), ("li-wei", "viewer")):
            client.post("/operators/create", data={"username": name, "role": role} | csrf(client))
        cookies = [{"name": name, "value": value, "url": house.url} for name, value in client.cookies.items()]
        pages = Operator(client).roll_out()
    keys = [house.new_key(name) for name in ("billing-bot", "support-search", "nightly-batch")]
    return cookies, keys, pages


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURES
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as data, ThreadPoolExecutor(1) as background:
        for kept in (KEPT / "models", KEPT / "downloads"):
            if kept.exists():
                shutil.copytree(kept, Path(data) / kept.name)
        with RealHouse(Path(data), ENGINE="inprocess") as house, sync_playwright() as playwright:
            cookies, keys, pages = furnish(house)
            time.sleep(35)  # the chart begins at rest
            traffic(house, keys, rounds=40)
            busy = background.submit(traffic, house, keys, rounds=60)  # goes on while the pictures are taken
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
            shoot(browser, house, cookies, folder, pages)
            browser.close()
            busy.result()


if __name__ == "__main__":
    main()
