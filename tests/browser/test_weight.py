"""Each page as a browser loads it: at most 200 kB and eight requests at first, next to nothing again."""

from __future__ import annotations

import pytest
from playwright.sync_api import CDPSession, Page

from tests.browser.conftest import Visit, rooms

pytestmark = pytest.mark.server

MOST_BYTES, MOST_REQUESTS = 200_000, 8
OF_OTHERS = {"/admin/audit/entry/": (1_000_000, 32), "/api/v1/docs/": (700_000, 12)}


class Traffic:
    """Bytes over the wire, headers included, as Chromium counts them."""

    def __init__(self, page: Page) -> None:
        self.session: CDPSession = page.context.new_cdp_session(page)
        self.session.send("Network.enable")
        self.session.on("Network.loadingFinished", self._finished)
        self.session.on("Network.requestServedFromCache", lambda event: self.cached.add(event["requestId"]))
        self.clear()

    def clear(self) -> None:
        self.num_bytes = self.num_requests = 0
        self.cached: set[str] = set()

    def _finished(self, event: dict[str, object]) -> None:
        if event["requestId"] not in self.cached and event["encodedDataLength"]:
            self.num_bytes += int(event["encodedDataLength"])  # type: ignore[call-overload]
            self.num_requests += 1


@pytest.mark.parametrize("language", ["en", "zh-hans"])
def test_every_page_is_light(visit: Visit, language: str) -> None:
    finder = visit("admin", language=language)
    finder.goto("/")
    pages = dict.fromkeys(rooms(finder), (MOST_BYTES, MOST_REQUESTS)) | OF_OTHERS
    for path, (most_bytes, most_requests) in pages.items():
        fresh = visit("admin", language=language)
        traffic = Traffic(fresh.page)
        fresh.page.goto(fresh.url + path, wait_until="load")
        print(f"{path} {traffic.num_requests} requests, {traffic.num_bytes} bytes")
        assert traffic.num_bytes <= most_bytes, path
        assert traffic.num_requests <= most_requests, path
        traffic.clear()
        fresh.page.goto(fresh.url + path, wait_until="load")
        if path not in OF_OTHERS:
            assert traffic.num_bytes <= most_bytes / 4, f"{path} again"


def test_own_files_are_compressed_and_kept_for_ever_and_streams_are_not_compressed(visit: Visit) -> None:
    watched = visit("admin")
    answers: list[tuple[str, dict[str, str]]] = []
    watched.page.on("response", lambda answer: answers.append((answer.url, answer.headers)))
    watched.goto("/")
    built = [headers for url, headers in answers if "/static/built/" in url or "/static/console." in url]
    assert len(built) >= 2
    for headers in built:
        assert headers["content-encoding"] == "gzip"
        assert "immutable" in headers["cache-control"]
    page = next(headers for url, headers in answers if url == watched.url + "/")
    assert page["content-encoding"] == "gzip"
    export = watched.page.request.get(f"{watched.url}/requests/export.csv")
    assert "content-encoding" not in export.headers
