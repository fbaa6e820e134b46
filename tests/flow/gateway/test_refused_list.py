"""Requests that a real server refused, as its pages list them."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.browser.conftest import csrf, sign_in
from tests.flow.house import House, eventually, found
from tests.flow.requests import body, post

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with House(tmp_path_factory.mktemp("refused")) as house:
        yield house


def test_a_429_is_found_from_the_keys_page_with_its_limit_and_every_refusal_in_the_list(house: House) -> None:
    with httpx.Client(base_url=house.url, follow_redirects=True) as client:
        sign_in(client, "admin", house.password)
        public_id = found(r"/keys/(\w{8,})/", client.get("/keys/").text)
        client.post(f"/keys/{public_id}/limits", data={"requests_per_minute": "2"} | csrf(client))
        codes = [post(house, body()).status_code for _ in range(4)]
        assert codes == [200, 200, 429, 429]
        assert post(house, body(temperature=-1)).status_code == 400
        assert post(house, body(), key="ph_nobody").status_code == 401
        failed = post(house, body("fail-after-3", max_tokens=20))
        assert failed.status_code in (429, 500)

        def listed() -> bool:  # written within a second, perhaps not all at once
            page = client.get(f"/keys/{public_id}/").text
            everything = client.get("/requests/?show=refused").text
            return (
                page.count("2 requests per minute") >= 2
                and "Refused requests" in page
                and "invalid_api_key" in everything
                and "invalid_value" in everything
            )

        eventually(listed)
        everything = client.get("/requests/?show=refused").text
        assert "engine_error" not in everything  # it was accepted: the ledger has it
        assert "invalid_api_key" not in client.get(f"/requests/?show=refused&key={public_id}").text
        assert "invalid_value" not in client.get("/requests/?show=refused&error=invalid_api_key").text
        assert "0 refused" not in client.get("/").text
        metrics = httpx.get(f"{house.url}/metrics").text
        labels = 'endpoint="gateway:chat_completions",error_code="insufficient_quota"'
        assert f"pilothouse_refusals_total{{{labels}}} 0.0" in metrics
