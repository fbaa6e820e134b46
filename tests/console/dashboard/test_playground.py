"""The playground's page: what it hands to its script, and what it says to those who cannot chat."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from django.test import Client

from console.accounts.roles import Role
from tests.catalog_rows import make_revision, serve
from tests.console.dashboard.conftest import SignedIn


@pytest.fixture
def served(db: None) -> None:
    for name in ("alpha", "beta"):
        serve(name, f"{name}-1")
    make_revision("nothing-yet", "nothing-yet-1")


def config(client: Client) -> Any:
    page = client.get("/playground/").content.decode()
    found = re.search(r'<script id="playground-config" type="application/json">(.*?)</script>', page)
    return json.loads(found[1]) if found else None


@pytest.mark.usefixtures("served")
@pytest.mark.parametrize("role", [Role.OPERATOR, Role.ADMIN])
def test_the_script_is_told_every_name_that_answers_and_its_revision(signed_in: SignedIn, role: Role) -> None:
    told = config(signed_in(role))
    models = [(one["name"], one["revision"], one["context"]) for one in told["models"]]
    assert models == [("alpha", "alpha-1", None), ("beta", "beta-1", None)]  # nothing is loaded here
    assert told["requestPage"] == "/requests/REQUEST-ID/"
    assert told["socket"] == "/v1/responses"


@pytest.mark.usefixtures("served")
def test_a_viewer_gets_no_script_to_chat_with(signed_in: SignedIn) -> None:
    client = signed_in(Role.VIEWER)
    assert config(client) is None
    page = client.get("/playground/").content.decode()
    assert "Your role may not chat" in page and "playground/main.js" not in page


def test_without_a_model_the_next_step_is_said(signed_in: SignedIn) -> None:
    page = signed_in(Role.OPERATOR).get("/playground/").content.decode()
    assert "Load one that is here, or import another." in page and "manage.py" not in page


@pytest.mark.usefixtures("served")
def test_a_page_may_ask_whether_its_session_still_lives(signed_in: SignedIn) -> None:
    assert signed_in(Role.OPERATOR).head("/playground/").status_code == 200
    assert Client().head("/playground/").status_code == 302
    assert signed_in(Role.ADMIN).post("/playground/").status_code == 405


@pytest.mark.usefixtures("served")
def test_texts_of_the_script_come_in_the_persons_language(signed_in: SignedIn) -> None:
    client = signed_in(Role.OPERATOR)
    client.cookies["django_language"] = "zh-hans"
    assert config(client)["texts"]["send"] == "发送"
