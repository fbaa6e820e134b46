"""`make screenshots`: every room, light, dark, Chinese and on a phone, with real traffic behind it."""

from __future__ import annotations

import concurrent.futures
import re
import sys
import tempfile
import time
from pathlib import Path

import httpx
from playwright.sync_api import Browser, sync_playwright

from tests.browser.conftest import ARGUMENTS, CHROMIUM, HREFS, csrf, sign_in
from tests.flow.house import ROOT, House

PICTURES = ROOT / "docs/pictures"
VARIANTS = {
    "light": {"theme": "day"},
    "dark": {"theme": "night"},
    "chinese": {"theme": "day", "language": "zh-hans"},
    "phone": {"theme": "day"},
}
SIGNED_OUT = {"sign-in": "/account/sign-in/"}


def traffic(house: House) -> None:
    """Requests of several outcomes, so that no figure is empty."""
    names = ["billing-bot", "support-search", "nightly-batch"]
    keys = [house.new_key(name) for name in names]

    def ask(number: int) -> int:
        words = "slow " if number % 4 == 0 else "fail-after-3 " if number % 11 == 5 else ""
        body = {
            "model": "stub",
            "messages": [
                {"role": "user", "content": f"{words}Summarise incident {number % 5} in two sentences."}
            ],
            "max_tokens": 40 + number % 60,
        }
        headers = house.headers(keys[number % len(keys)])
        return httpx.post(
            f"{house.url}/v1/chat/completions", json=body, headers=headers, timeout=60
        ).status_code

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        list(pool.map(ask, range(60)))


def shoot(browser: Browser, house: House, jar: list[dict[str, str]], folder: Path) -> None:
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
        links = page.locator(".rail a[href]").evaluate_all(HREFS)
        for path in dict.fromkeys(link for link in links if not link.startswith("/admin/")):
            page.goto(house.url + path)
            page.wait_for_timeout(700)  # charts fetch their series
            name = re.sub(r"[^a-z0-9]+", "-", path.strip("/")) or "home"
            page.screenshot(
                path=folder / f"{name}-{variant}.png", full_page=variant != "phone" or name == "home"
            )
        context.close()


def furnish(house: House) -> list[dict[str, str]]:
    """People and traffic over two minutes; the cookies of an admin."""
    with httpx.Client(base_url=house.url, follow_redirects=True) as client:
        sign_in(client, "admin", house.password)
        for name, role in (("maria", "operator"), ("li-wei", "viewer")):
            client.post("/operators/create", data={"username": name, "role": role} | csrf(client))
        time.sleep(35)  # the chart's first step is one of rest
        for _ in range(3):
            traffic(house)
            time.sleep(20)
        return [{"name": name, "value": value, "url": house.url} for name, value in client.cookies.items()]


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURES
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as data, House(Path(data)) as house, sync_playwright() as playwright:
        cookies = furnish(house)
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        shoot(browser, house, cookies, folder)
        browser.close()


if __name__ == "__main__":
    main()
