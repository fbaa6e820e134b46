"""The rollouts' pages: what they show, what they do, and that what they show is cheap."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.test import Client
from django.utils import timezone

from console.accounts.models import Team
from console.accounts.roles import Role
from console.catalog.models import Deployment, Route
from console.rollouts.models import Rollout
from console.rollouts.tick import tick
from console.usage.models import Outcome, UsageRecord
from tests.catalog_rows import serve
from tests.console.dashboard.conftest import SignedIn
from tests.console.rollouts.rows import answers, begun, furnish, make_quantized, observe

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _rows(db: None) -> None:
    furnish()


@pytest.fixture
def operator(signed_in: SignedIn) -> Client:
    return signed_in(Role.OPERATOR)


def running() -> Rollout:
    row = begun()
    observe("stub-2", Deployment.State.READY)
    tick(timezone.now())
    row.refresh_from_db()
    return row


def use(team: Team, revision: str, *, ttft: float, outcome: Outcome = Outcome.FINISHED) -> None:
    UsageRecord.objects.create(
        request_id=f"r{UsageRecord.objects.count()}",
        owner="key",
        team=team,
        model="stub",
        revision=revision,
        endpoint="chat.completions",
        outcome=outcome,
        prompt_tokens=1,
        completion_tokens=1,
        ttft_seconds=ttft,
        created_at=timezone.now(),
    )


def steps(*rows: tuple[int, str]) -> dict[str, str]:
    fields = {}
    for number, (weight, pause) in enumerate(rows):
        fields |= {f"weight_{number}": str(weight), f"pause_{number}": pause}
    return fields


def test_an_empty_room_names_the_next_step(operator: Client) -> None:
    text = operator.get("/rollouts/").content.decode()
    assert "No active rollout" in text and "/rollouts/new" in text
    assert "Nothing has been rolled out yet" in text


def test_an_operator_starts_a_rollout_from_the_form(operator: Client) -> None:
    form = operator.get("/rollouts/new?route=stub&candidate=stub-2").content.decode()
    assert 'value="10"' in form and "not needed: an original" in form
    posted = {"route": "stub", "candidate": "stub-2", "reason": "faster", **steps((10, "60"), (100, ""))}
    answer = operator.post("/rollouts/start", posted)
    row = Rollout.objects.get()
    assert answer.headers["Location"] == f"/rollouts/{row.pk}/"
    assert row.steps == [{"weight": 10, "pause_seconds": 60}, {"weight": 100, "pause_seconds": None}]
    assert (row.actor, row.reason) == ("the-operator", "faster")
    assert "not loaded yet" in operator.get(f"/rollouts/{row.pk}/").content.decode()


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (steps((50, ""), (10, "")), "grow from step to step"),
        ({}, "at least one step"),
        (steps((100, "")) | {"version": "999"}, "changed meanwhile"),
        (steps((100, "")) | {"candidate": "stub-1"}, "answers everything already"),
    ],
)
def test_a_form_that_cannot_be_comes_back_and_says_why(
    operator: Client, fields: dict[str, str], says: str
) -> None:
    answer = operator.post("/rollouts/start", {"route": "stub", "candidate": "stub-2"} | fields)
    assert answer.status_code == 422 and says in answer.content.decode()
    assert not Rollout.objects.exists()


def test_the_page_shows_how_each_arm_has_done_since_the_step_began(operator: Client, team: Team) -> None:
    use(team, "stub-1", ttft=9.0)
    row = running()
    for ttft in (0.1, 0.2, 0.3):
        use(team, "stub-2", ttft=ttft)
    use(team, "stub-2", ttft=0.4, outcome=Outcome.FAILED)
    context = operator.get(f"/rollouts/{row.pk}/now").context
    stable, candidate = [figures for _, figures in context["arms"]]
    assert (stable.revision, stable.num_requests, stable.ttft_seconds) == ("stub-1", 0, None)
    assert (candidate.num_requests, candidate.num_failed, candidate.ttft_seconds) == (4, 1, 0.25)


def test_the_buttons_do_what_they_say(operator: Client) -> None:
    row = running()

    def press(deed: str, **fields: str) -> str:
        row.refresh_from_db()
        answer = operator.post(
            f"/rollouts/{row.pk}/{deed}", {"version": str(row.version)} | fields, follow=True
        )
        row.refresh_from_db()
        return answer.content.decode()

    press("pause")
    assert row.state == "paused"
    press("resume")
    assert "The next step has begun" in press("advance")
    assert answers() == {"stub-1": 50, "stub-2": 50}
    assert "The last step is not reached" in press("promote")
    assert row.state == "stepping"
    page = press("promote", force="on")
    assert row.state == "promoted" and "Undo is instant: both revisions are loaded" in page
    assert "Undone" in press("undo", reason="answers too long")
    assert (row.state, row.reason, answers()) == ("undone", "answers too long", {"stub-1": 100})


def test_who_is_too_late_is_told_so_and_changes_nothing(operator: Client) -> None:
    row = running()
    page = operator.post(f"/rollouts/{row.pk}/abort", {"version": "0"}, follow=True).content.decode()
    assert "has changed meanwhile" in page
    row.refresh_from_db()
    assert row.state == "stepping"


def test_a_candidate_without_a_certificate_is_shown_to_be_stopped_before_everything(operator: Client) -> None:
    make_quantized()
    form = operator.get("/rollouts/new?route=stub&candidate=stub-int8").content.decode()
    assert "it stops before 100 %" in form
    row = begun(candidate="stub-int8")
    observe("stub-int8", Deployment.State.READY)
    tick(timezone.now())
    page = operator.post(f"/rollouts/{row.pk}/promote", {"force": "on"}, follow=True).content.decode()
    assert "may not answer everything without a certificate" in page
    row.refresh_from_db()
    assert row.state == "stepping"


def test_a_switch_is_previewed_then_made_then_undone(operator: Client) -> None:
    shares = {
        "name": "stub",
        "revision_0": "stub-1",
        "share_0": "40",
        "revision_1": "stub-2",
        "share_1": "60",
    }
    preview = operator.get("/rollouts/routes/stub/", shares | {"preview": "1"}).content.decode()
    assert "stub-2 is not loaded" in preview and answers() == {"stub-1": 100}
    version = str(Route.objects.get(name="stub").version)
    operator.post("/rollouts/routes/switch", shares | {"version": version})
    assert answers() == {"stub-1": 40, "stub-2": 60}
    late = operator.post(
        "/rollouts/routes/switch", shares | {"version": version, "share_0": "0", "share_1": "100"}
    )
    assert late.status_code == 422 and "changed meanwhile" in late.content.decode()
    operator.post(f"/rollouts/{Rollout.objects.get().pk}/undo")
    assert answers() == {"stub-1": 100}


def test_a_route_is_made_and_taken_out_of_service(operator: Client) -> None:
    assert operator.get("/rollouts/routes/new").status_code == 200
    wrong = operator.get(
        "/rollouts/routes/new", {"preview": "1", "name": "alias", "revision_0": "stub-1", "share_0": "70"}
    )
    assert "sum to 70 %" in wrong.content.decode()
    operator.post("/rollouts/routes/switch", {"name": "alias", "revision_0": "stub-1", "share_0": "100"})
    assert answers("alias") == {"stub-1": 100}
    operator.post("/rollouts/routes/alias/delete")
    assert answers("alias") == {}
    assert "Nothing answers to this name" in operator.get("/rollouts/routes/alias/").content.decode()


def test_a_viewer_looks_and_finds_no_button(signed_in: SignedIn) -> None:
    viewer, row = signed_in(Role.VIEWER), running()
    for path in ("/rollouts/", f"/rollouts/{row.pk}/", "/rollouts/routes/stub/"):
        text = viewer.get(path).content.decode()
        assert '<form method="post" action="/rollouts/' not in text and "Start a rollout" not in text
    for path in (f"{row.pk}/abort", "start", "routes/switch", "routes/stub/delete"):
        assert viewer.post(f"/rollouts/{path}").status_code == 403


def test_the_moving_part_asks_the_database_little(
    operator: Client, django_assert_max_num_queries: object
) -> None:
    row = running()
    operator.get(f"/rollouts/{row.pk}/now")
    with django_assert_max_num_queries(30):  # type: ignore[operator]
        operator.get(f"/rollouts/{row.pk}/now")


def test_time_left_is_said(operator: Client) -> None:
    row = running()
    Rollout.objects.filter(pk=row.pk).update(step_since=timezone.now() - timedelta(seconds=20))
    assert re.search("(40|3[0-9]) s left", operator.get(f"/rollouts/{row.pk}/now").content.decode())


@pytest.mark.parametrize("others", [("aaa", "zzz"), ("zebra",)])
def test_a_rollout_offers_this_models_revisions_alone_unless_another_is_asked_for(
    operator: Client, others: tuple[str, ...]
) -> None:
    """The newest revision of all is another model's, and it is neither offered nor chosen."""
    for name in others:
        serve(name, f"{name}-1")
    form = operator.get("/rollouts/new?route=stub").context["form"]
    assert form.initial["candidate"] == "stub-2"
    assert {pk for _, group in form.fields["candidate"].choices[1:] for pk, _ in group} == {
        "stub-1",
        "stub-2",
    }
    posted = {"route": "stub", "candidate": f"{others[0]}-1", **steps((10, "60"), (100, ""))}
    assert operator.post("/rollouts/start", posted).status_code == 422
    assert not Rollout.objects.exists()

    wide = operator.get("/rollouts/new?route=stub&another_model=on").context["form"]
    offered = {pk for _, group in wide.fields["candidate"].choices[1:] for pk, _ in group}
    assert {f"{name}-1" for name in others} < offered
    assert not wide.initial["candidate"]
    assert operator.post("/rollouts/start", posted | {"another_model": "on"}).status_code == 302
    assert Rollout.objects.get().candidate_id == f"{others[0]}-1"


def test_a_route_whose_model_has_one_revision_proposes_none(operator: Client) -> None:
    serve("alone", "alone-1")
    answer = operator.get("/rollouts/new?route=alone")
    assert not answer.context["form"].initial["candidate"]
    assert "No other revision" in answer.content.decode()
