"""The keys' pages: what they find, who may act, and how fast they are with many rows."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from console.accounts.models import Team, User
from console.accounts.roles import Role
from console.audit.actor import Actor
from console.audit.models import Entry
from console.dashboard.views.keys import first_request
from console.keys.actions import issue, revoke
from console.keys.models import ApiKey
from console.limits.actions import Limits, set_limits
from console.limits.models import Limit
from console.usage.by_key import used_by_day
from console.usage.models import UsageRecord
from tests.counting import MOST_OF_A_PAGE, costs_of_pages

pytestmark = pytest.mark.django_db

NUM_KEYS = 10_000
NUM_ROWS = 100_000


@pytest.fixture
def operator(make_user: Callable[[Role], User]) -> Client:
    client = Client()
    client.force_login(make_user(Role.OPERATOR))
    return client


def names(client: Client, query: str = "") -> list[str]:
    return [row["key"].name for row in client.get(f"/keys/?{query}").context["rows"]]


@pytest.fixture
def four(team: Team) -> dict[str, ApiKey]:
    keys = {
        name: issue(actor=Actor.person("test"), name=name, team=team).key
        for name in ("Alpha", "beta", "gamma", "delta")
    }
    now = timezone.now()
    revoke(actor=Actor.person("test"), key=keys["beta"])
    ApiKey.objects.filter(name="gamma").update(expires_at=now - timedelta(days=1))
    ApiKey.objects.filter(name="delta").update(expires_at=now + timedelta(days=1), last_used_at=now)
    return keys


def test_the_list_is_searched_filtered_and_sorted(operator: Client, four: dict[str, ApiKey]) -> None:
    assert names(operator) == ["delta", "gamma", "beta", "Alpha"]
    assert names(operator, "words=alph") == ["Alpha"]
    assert names(operator, f"words={four['beta'].public_id[2:9]}") == ["beta"]
    assert names(operator, "state=active") == ["delta", "Alpha"]
    assert names(operator, "state=expired") == ["gamma"]
    assert names(operator, "state=revoked") == ["beta"]
    assert names(operator, "order=used")[0] == "delta"
    assert names(operator, "order=expires")[:2] == ["gamma", "delta"]
    assert names(operator, "order=name")[0] == "Alpha"
    assert len(names(operator, "state=nonsense&order=upside-down&page=99")) == 4


def test_what_the_form_says_is_what_the_key_may(operator: Client, team: Team) -> None:
    form: dict[str, Any] = {
        "name": " bot ",
        "team": team.pk,
        "expires_on": "2099-01-31",
        "scopes": ["chat"],
        "budget_tokens": "5000",
        "requests_per_minute": "60",
    }
    answer = operator.post("/keys/issue", form)
    key = ApiKey.objects.get()
    assert (answer.status_code, answer["Location"]) == (302, f"/keys/{key.public_id}/issued")
    assert (key.name, key.scopes, key.allowed_models) == ("bot", ["chat"], [])
    assert key.expires_at == datetime(2099, 2, 1, tzinfo=UTC)
    limit = Limit.objects.get()
    assert (limit.budget_tokens, limit.requests_per_minute, limit.tokens_per_minute) == (5000, 60, None)
    actions = list(Entry.objects.order_by("seq").values_list("action", "actor"))
    assert actions[-2:] == [("key.issued", "the-operator"), ("limit.set", "the-operator")]


def test_a_secret_is_shown_once_to_who_made_it_and_a_reload_makes_no_second_key(
    operator: Client, team: Team, make_user: Callable[[Role], User]
) -> None:
    form = {"name": "bot", "team": team.pk, "scopes": ["chat"]}
    there = operator.post("/keys/issue", form)["Location"]
    somebody = Client()
    somebody.force_login(make_user(Role.ADMIN), backend="django.contrib.auth.backends.ModelBackend")
    assert somebody.get(there).status_code == 302
    shown = operator.get(there)
    assert "ph_" in shown.content.decode() and "no-store" in shown["Cache-Control"]
    assert "is called bot, too" not in shown.content.decode()
    again = operator.get(there, follow=True).content.decode()
    assert "shown once" in again and 'id="secret"' not in again
    assert ApiKey.objects.count() == 1
    assert "is called bot, too" in operator.post("/keys/issue", form, follow=True).content.decode()


@pytest.mark.parametrize(
    "path",
    [
        "/keys/issue",
        "/keys/x/revoke",
        "/rollouts/start",
        "/models/m/r/load",
        "/live/i/cancel",
    ],
)
def test_an_address_that_only_takes_posts_leads_to_its_page(operator: Client, path: str) -> None:
    answer = operator.get(path)
    assert answer.status_code == 302
    assert path.startswith(answer["Location"]) and answer["Location"] != path


@pytest.mark.parametrize(
    ("scopes", "said", "unsaid"),
    [
        (
            [],
            ["Chat completions", "Text completions", "The list of models"],
            ["Management API", "Single revisions"],
        ),
        (["management"], ["Management API"], ["Chat completions"]),
    ],
)
def test_a_keys_page_names_what_it_may_call(
    operator: Client, team: Team, scopes: list[str], said: list[str], unsaid: list[str]
) -> None:
    key = issue(actor=Actor.person("test"), name="x", team=team, scopes=scopes).key
    facts = operator.get(f"/keys/{key.public_id}/").content.decode().partition('<dl class="facts">')[2]
    endpoints = facts.partition("<dt>Endpoints</dt>")[2].partition("<dt>")[0]
    assert all(one in endpoints for one in said)
    assert not any(one in endpoints for one in unsaid)


@pytest.mark.parametrize(
    ("moment", "words"),
    [
        (datetime(2099, 12, 16, tzinfo=UTC), "through 2099-12-15 (UTC)"),
        (datetime(2099, 3, 1, tzinfo=UTC), "through 2099-02-28 (UTC)"),
        (datetime(2099, 12, 16, 8, 30, tzinfo=UTC), "until 2099-12-16 08:30 UTC"),
    ],
)
def test_the_last_day_of_a_key_is_the_one_that_was_typed(
    operator: Client, team: Team, moment: datetime, words: str
) -> None:
    key = issue(actor=Actor.person("test"), name="x", team=team, expires_at=moment).key
    for path in ("/keys/", f"/keys/{key.public_id}/"):
        assert words in operator.get(path).content.decode(), path


@pytest.mark.parametrize(
    ("scopes", "path"),
    [
        ([], "/v1/chat/completions"),
        (["completions", "models"], "/v1/completions"),
        (["models"], "/v1/models"),
        (["management"], "/api/v1/keys"),
    ],
)
def test_the_line_that_is_shown_asks_for_what_the_key_may(team: Team, scopes: list[str], path: str) -> None:
    assert first_request(issue(actor=Actor.person("test"), name="x", team=team, scopes=scopes).key)[0] == path


def test_all_endpoints_ticked_is_every_endpoint_also_those_to_come(operator: Client, team: Team) -> None:
    operator.post(
        "/keys/issue", {"name": "all", "team": team.pk, "scopes": ["chat", "completions", "models"]}
    )
    assert ApiKey.objects.get().scopes == []


def test_a_change_is_one_row_with_before_and_after_and_no_change_is_none(
    operator: Client, four: dict[str, ApiKey]
) -> None:
    key = four["delta"]
    key.refresh_from_db()
    day = key.expires_at.date() if key.expires_at else None
    form = {"name": "delta", "expires_on": str(day), "scopes": ["chat", "completions", "models"]}
    before = Entry.objects.count()
    operator.post(f"/keys/{key.public_id}/change", form)
    assert Entry.objects.count() == before
    operator.post(f"/keys/{key.public_id}/change", form | {"name": "omega"})
    entry = Entry.objects.order_by("-seq")[0]
    assert entry.action == "key.changed"
    assert entry.detail == '{"after":{"name":"omega"},"before":{"name":"delta"}}'
    changed = ApiKey.objects.get(pk=key.pk)
    assert changed.expires_at == key.expires_at  # to the second, though the form knows days


def test_a_revoked_key_cannot_be_changed_even_by_a_form_that_was_open(
    operator: Client, four: dict[str, ApiKey]
) -> None:
    operator.post(f"/keys/{four['beta'].public_id}/change", {"name": "zombie", "scopes": ["chat"]})
    assert not ApiKey.objects.filter(name="zombie").exists()


def test_a_budget_below_what_is_used_is_refused_in_the_form(
    operator: Client, four: dict[str, ApiKey]
) -> None:
    limit = set_limits(actor=Actor.person("test"), key=four["Alpha"], limits=Limits(budget_tokens=100))
    Limit.objects.filter(pk=limit.pk).update(used_tokens=60)
    answer = operator.post(f"/keys/{four['Alpha'].public_id}/limits", {"budget_tokens": "50"})
    assert answer.status_code == 422 and answer.context["limits_form"].errors.keys() == {"budget_tokens"}
    assert Limit.objects.get().budget_tokens == 100


@pytest.mark.parametrize("role", [Role.VIEWER])
def test_a_viewer_may_look_and_nothing_else(
    role: Role, make_user: Callable[[Role], User], four: dict[str, ApiKey]
) -> None:
    client, path = Client(), f"/keys/{four['Alpha'].public_id}"
    client.force_login(make_user(role))
    assert client.get("/keys/").status_code == client.get(f"{path}/").status_code == 200
    for action in ("/keys/issue", f"{path}/change", f"{path}/limits", f"{path}/revoke"):
        assert client.post(action).status_code == 403
    assert ApiKey.objects.get(name="Alpha").revoked_at is None


def test_a_key_that_is_not_there_is_not_found(operator: Client) -> None:
    assert operator.get("/keys/nobody/").status_code == 404


HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "{{ 7|add:7 }}{% now 'Y' %}",
    "javascript:alert(1)",
    "'; DROP TABLE keys_apikey; --",
    "</title><svg onload=alert(1)>",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_shown_as_what_it_is(operator: Client, team: Team, name: str) -> None:
    key = issue(actor=Actor.person(name), name=name, team=team, models=[name]).key
    for path in ("/keys/", f"/keys/{key.public_id}/", f"/keys/?words={name}"):
        text = operator.get(path).content.decode()
        assert "<script>alert" not in text and "<img src=x" not in text and "<svg onload" not in text
        assert "14" not in text.partition("<h1>")[2][:60]


def test_days_without_requests_are_there_too(team: Team) -> None:
    key = issue(actor=Actor.person("test"), name="x", team=team).key
    seed_usage([key], 6, over=timedelta(days=3))
    today = timezone.now().date()
    by_day = used_by_day(key.public_id, num_days=30, today=today)
    assert list(by_day) == [today - timedelta(days=age) for age in reversed(range(30))]
    assert sum(used.num_requests for used in by_day.values()) == 6
    assert sum(used.tokens for used in by_day.values()) == 6 * 30


def seed_usage(keys: list[ApiKey], num_rows: int, *, over: timedelta) -> None:
    now = timezone.now()
    UsageRecord.objects.bulk_create(
        (
            UsageRecord(
                request_id=f"r{number}",
                owner=keys[number % len(keys)].public_id,
                key=keys[number % len(keys)],
                team_id=keys[0].team_id,
                model="stub",
                revision="stub-1",
                endpoint="chat.completions",
                transport="rest",
                outcome="finished",
                prompt_tokens=20,
                completion_tokens=10,
                created_at=now - over * (number / num_rows),
            )
            for number in range(num_rows)
        ),
        batch_size=5000,
    )


@pytest.mark.slow
def test_pages_cost_little_with_ten_thousand_keys_and_a_hundred_thousand_requests(
    operator: Client, team: Team
) -> None:
    keys = ApiKey.objects.bulk_create(
        (
            ApiKey(
                public_id=f"{number:012d}", digest="0" * 64, name=f"key {number}", team=team, created_by="x"
            )
            for number in range(NUM_KEYS)
        ),
        batch_size=2000,
    )
    Limit.objects.bulk_create((Limit(key=key, budget_tokens=10**6) for key in keys), batch_size=2000)
    busy = keys[0]
    # Half of all requests are one key's, which is the hardest page.
    seed_usage([*keys[:50], *([busy] * 50)], NUM_ROWS, over=timedelta(days=29))
    paths = [
        "/keys/",
        "/keys/?page=200",
        "/keys/?words=key+99&order=name",
        "/keys/?state=active&order=used",
        "/keys/?order=name&page=1",
        f"/keys/{busy.public_id}/",
    ]
    costs = costs_of_pages(operator, paths)
    assert {path: cost for path, cost in costs.items() if not cost.is_within(MOST_OF_A_PAGE)} == {}
