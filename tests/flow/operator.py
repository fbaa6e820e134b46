"""An operator beside the running server: one process that calls the real actions on the same database.

Reads a JSON list [verb, argument...] per line and answers with a JSON value per line.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from console.audit.actor import Actor


def seed() -> None:
    """Migrate, and serve a model named `stub` from an empty folder."""
    from django.conf import settings
    from django.core.management import call_command

    from tests.catalog_rows import serve

    call_command("migrate", verbosity=0)
    (Path(settings.DATA_DIR) / "stub").mkdir(exist_ok=True)
    serve("stub", "stub-1")


def serve_also(name: str, revision: str, steering: dict[str, Any] | None = None) -> None:
    """Let another name lead to a revision, which is made where there is none.

    `steering`: it has a folder of its own then, with what tests/stub_engine.py reads.
    """
    from django.conf import settings

    from tests.catalog_rows import serve

    folder = Path(settings.DATA_DIR) / (name if steering else "stub")
    if steering:
        folder.mkdir(exist_ok=True)
        (folder / "stub.json").write_text(json.dumps(steering))
    serve(name, revision, folder=folder.name)


def offer(name: str, revision: str) -> None:
    """Another revision of a model, for a rollout; no route leads to it yet."""
    from tests.catalog_rows import make_revision

    make_revision(name, revision, folder="stub")


def import_folder(name: str, folder: str) -> str:
    """Import a model where it lies; its revision."""
    from django.core.management import call_command

    from console.catalog.actions import import_model
    from console.catalog.import_request import ImportRequest

    call_command("migrate", verbosity=0)
    request = ImportRequest(name, "folder", folder)
    return import_model(actor=Actor.person("test"), request=request, progress=lambda stage, fraction: None).pk


def start_import(name: str, folder: str) -> str:
    """A job that imports a folder and quantizes it."""
    from console.catalog.actions import start_import as start

    return start(actor=Actor.person("test"), name=name, source="folder", location=folder, quantize="int8").pk


def sound_revisions(name: str) -> list[str]:
    """A model's revisions, their files checked; fails where something half made lies about."""
    from console.catalog.files import check_files, models_dir
    from console.catalog.models import Revision

    revisions = list(Revision.objects.filter(model__name=name))
    for revision in revisions:
        check_files(revision)
    known = {revision.path for revision in Revision.objects.all()}
    parts = [path for path in models_dir().iterdir() if path.is_dir() and path not in known]
    assert not parts, parts
    return [revision.pk for revision in revisions]


def retry_job(pk: str) -> str:
    from console.jobs.actions import retry
    from console.jobs.models import Job

    return retry(actor=Actor.person("test"), job=Job.objects.get(pk=pk)).pk


def serve_no_longer(name: str) -> None:
    from console.catalog.routes import set_shares

    set_shares(actor=Actor.person("test"), name=name, weights={})


def make(revision: str, steering: dict[str, Any], facts: dict[str, Any] | None = None) -> None:
    """A revision of `stub` in a folder of its own; `steering` is what tests/stub_engine.py reads."""
    from django.conf import settings

    from tests.catalog_rows import make_revision

    folder = Path(settings.DATA_DIR) / revision
    folder.mkdir(exist_ok=True)
    (folder / "stub.json").write_text(json.dumps(steering))
    make_revision("stub", revision, folder=revision, facts=facts or {})


def share(name: str, weights: dict[str, int]) -> None:
    from console.catalog.routes import set_shares

    set_shares(actor=Actor.person("test"), name=name, weights=weights)


def deploy(action: str, revision: str, arguments: dict[str, Any] | None = None) -> str:
    """Do what people do with a deployment; why it was refused, or nothing."""
    from console.catalog.models import Revision
    from console.deployments import actions as deployments

    subject = {} if action == "release" else {"revision": Revision.objects.get(pk=revision)}
    try:
        getattr(deployments, action)(actor=Actor.person("test"), **subject, **(arguments or {}))
    except deployments.DeploymentRefused as refused:
        return str(refused)
    return ""


def deployment(revision: str) -> dict[str, Any]:
    from console.catalog.models import Deployment

    row = Deployment.objects.filter(pk=revision).values().get()
    return {name: str(value) if name.endswith("_at") else value for name, value in row.items()}


def audited(target: str) -> list[list[str]]:
    """Actor and action of the audit log's rows about something, oldest first."""
    from console.audit.models import Entry

    return [[row.actor, row.action] for row in Entry.objects.filter(target=target).order_by("seq")]


def done_at(action: str) -> str:
    """When something was last done, by the server's clock."""
    from console.audit.models import Entry

    return str(Entry.objects.filter(action=action).latest("seq").at)


def issue(name: str, access: dict[str, list[str]] | None = None) -> str:
    """A new key's secret; `access` may name its scopes and models."""
    from console.accounts.actions import default_team
    from console.keys.actions import issue as issue_key

    return issue_key(actor=Actor.person("test"), name=name, team=default_team(), **(access or {})).secret


def key_of(secret: str) -> Any:
    from console.keys.models import ApiKey

    return ApiKey.objects.get(public_id=secret.split("_")[1])


def revoke(secret: str) -> None:
    from console.keys.actions import revoke as revoke_key

    revoke_key(actor=Actor.person("test"), key=key_of(secret))


def budget(secret: str, tokens: int) -> None:
    from console.limits.actions import set_budget

    set_budget(actor=Actor.person("test"), key=key_of(secret), budget_tokens=tokens)


def limit(secret: str, limits: dict[str, int]) -> None:
    from console.limits.actions import Limits, set_limits

    set_limits(actor=Actor.person("test"), key=key_of(secret), limits=Limits(**limits))


def refusals() -> list[list[Any]]:
    """Target, address and counts of the audit log's rows about refusals, oldest first."""
    from console.audit.models import Entry

    rows = Entry.objects.filter(action="requests.refused").order_by("seq")
    return [[row.target, row.ip, json.loads(row.detail)["counts"]] for row in rows]


def usage(secret: str) -> list[dict[str, Any]]:
    """The ledger rows of a key, oldest first."""
    from console.usage.models import UsageRecord

    rows = UsageRecord.objects.filter(key=key_of(secret)).order_by("pk")
    return [
        {name: str(value) if name.endswith("_at") else value for name, value in row.items()}
        for row in rows.values()
    ]


def tickets() -> int:
    from console.limits.models import Ticket

    return Ticket.objects.count()


def session() -> str:
    """The Cookie header of an operator who has signed in."""
    from django.conf import settings
    from django.test import Client

    from console.accounts.models import User
    from tests.session_cookies import hold_secrets

    hold_secrets()
    client = Client()
    backend = "django.contrib.auth.backends.ModelBackend"
    client.force_login(User.objects.get(username="admin"), backend=backend)
    return f"{settings.SESSION_COOKIE_NAME}={client.cookies[settings.SESSION_COOKIE_NAME].value}"


def end_session(cookie: str) -> None:
    """Sign that operator out, elsewhere."""
    from console.accounts.sessions import SessionStore

    SessionStore.of_cookie(cookie.partition("=")[2]).delete()


def enqueue(arguments: dict[str, Any], kind: str = "test.steps") -> str:
    """A job of a kind that only tests have."""
    from console.jobs import actions
    from tests.console.jobs import kinds_of_work  # noqa: F401 - registers the kinds

    return actions.enqueue(actor=Actor.person("test"), kind=kind, subject="steps", arguments=arguments).pk


def job(pk: str) -> dict[str, Any]:
    """A job's row, its log, and what the audit log has of its end."""
    from console.audit.models import Entry
    from console.jobs.models import Job

    row = Job.objects.get(pk=pk)
    ends = Entry.objects.filter(target=pk, action__in=["job.done", "job.failed", "job.cancelled"])
    names = ("state", "stage", "fraction", "error_code", "num_starts", "num_deaths")
    return {name: getattr(row, name) for name in names} | {
        "ends": list(ends.values_list("action", flat=True)),
        "lines": list(row.lines.values_list("text", flat=True)),
    }


def cancel_job(pk: str) -> None:
    from console.jobs.actions import cancel
    from console.jobs.models import Job

    cancel(actor=Actor.person("test"), job=Job.objects.get(pk=pk))


def recover() -> int:
    """What the reconciler does every few seconds."""
    from console.jobs.recovery import recover

    return recover()


VERBS = {
    verb.__name__: verb
    for verb in (
        seed,
        serve_also,
        import_folder,
        start_import,
        sound_revisions,
        retry_job,
        offer,
        serve_no_longer,
        make,
        share,
        deploy,
        deployment,
        audited,
        done_at,
        issue,
        revoke,
        budget,
        limit,
        refusals,
        usage,
        tickets,
        session,
        end_session,
        enqueue,
        job,
        cancel_job,
        recover,
    )
}


def main() -> None:
    import django

    from console.environment import name_settings

    name_settings()
    django.setup()
    for line in sys.stdin:
        verb, *arguments = json.loads(line)
        print(json.dumps(VERBS[verb](*arguments)), flush=True)


if __name__ == "__main__":
    main()
