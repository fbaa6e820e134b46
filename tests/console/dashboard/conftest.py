"""Browsers without a browser: Django's client, signed in as a person of each role."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.test import Client

from console.accounts.models import User
from console.accounts.roles import Role

BACKEND = "django.contrib.auth.backends.ModelBackend"

SignedIn = Callable[[Role], Client]


@pytest.fixture
def signed_in(make_user: Callable[[Role], User]) -> SignedIn:
    def sign_in(role: Role) -> Client:
        client = Client()
        client.force_login(make_user(role), backend=BACKEND)
        return client

    return sign_in
