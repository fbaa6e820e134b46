"""What every page tells the browser to refuse."""

from __future__ import annotations

import pytest
from django.test import Client

from console.accounts.roles import Role
from tests.console.dashboard.conftest import SignedIn

PAGES = ["/", "/operators/", "/account/password/", "/account/sessions/", "/admin/", "/no/such/page"]


def directives(header: str) -> dict[str, list[str]]:
    return {name: values for name, *values in (part.split() for part in header.split(";"))}


@pytest.mark.parametrize("path", PAGES)
def test_every_page_runs_our_own_files_and_nothing_else(path: str, signed_in: SignedIn) -> None:
    answer = signed_in(Role.ADMIN).get(path)
    policy = directives(answer["Content-Security-Policy"])
    assert policy["default-src"] == ["'none'"]
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == ["'self'"]
    assert policy["frame-ancestors"] == policy["base-uri"] == ["'none'"]
    assert "unsafe" not in answer["Content-Security-Policy"]
    assert answer["Referrer-Policy"] == "same-origin"
    assert answer["Cross-Origin-Opener-Policy"] == "same-origin"
    assert answer["X-Frame-Options"] == "DENY"
    assert answer["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    "path",
    [
        *PAGES,
        "/keys/",
        "/api/v1/keys",
        "/api/v1/audit",
        "/api/v1/openapi.json",
        "/requests/export.csv",
        "/metrics",
    ],
)
def test_nothing_for_a_person_is_stored_on_the_way(path: str, signed_in: SignedIn) -> None:
    assert "no-store" in signed_in(Role.ADMIN).get(path)["Cache-Control"]


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"])
@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/keys/",
        "/requests/export.csv",
        "/admin/",
        "/admin/audit/entry/",
        "/account/sessions/",
        "/language",
    ],
)
def test_a_page_refuses_methods_that_it_does_not_have(method: str, path: str, signed_in: SignedIn) -> None:
    answer = signed_in(Role.ADMIN).generic(method, path)
    assert answer.status_code == 405 and "GET" in answer["Allow"]


def test_an_export_is_not_posted(signed_in: SignedIn) -> None:
    assert signed_in(Role.ADMIN).post("/requests/export.csv").status_code == 405


def test_the_sign_in_page_has_them_too(db: None) -> None:
    answer = Client().get("/account/sign-in/")
    assert "unsafe" not in answer["Content-Security-Policy"]
    assert "no-store" in answer["Cache-Control"]


@pytest.mark.parametrize("theme", ["night", "day", '"><script>', ""])
def test_the_theme_cookie_names_a_theme_or_nothing(theme: str, signed_in: SignedIn) -> None:
    client = signed_in(Role.VIEWER)
    client.cookies["theme"] = theme
    page = client.get("/").content.decode()
    assert ("data-theme=" in page) == (theme in ("night", "day"))
