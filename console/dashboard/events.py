"""Audit entries as people read them: what was done, to what by its name, with a link where it has a page."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.urls import reverse
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from console.audit.actor import Actor
from console.audit.models import Entry
from console.audit.queries import recent_entries
from console.catalog.models import Revision
from console.dashboard.templatetags.jobs import kind_label
from console.jobs.models import Job
from console.keys.models import ApiKey

WORDS: dict[str, str | Promise] = {
    "server.started": gettext_lazy("The server started"),
    "server.stopped": gettext_lazy("The server stopped"),
    "server.crashed": gettext_lazy("The server crashed"),
    "login.succeeded": gettext_lazy("signed in"),
    "login.failed": gettext_lazy("failed to sign in as"),
    "login.locked": gettext_lazy("was locked out as"),
    "logout": gettext_lazy("signed out"),
    "key.issued": gettext_lazy("issued the key"),
    "key.changed": gettext_lazy("changed the key"),
    "key.revoked": gettext_lazy("revoked the key"),
    "user.created": gettext_lazy("made an account for"),
    "limit.set": gettext_lazy("set the limits of"),
    "user.password_reset": gettext_lazy("made a new password for"),
    "user.role_changed": gettext_lazy("changed the role of"),
    "catalog.import": gettext_lazy("imported"),
    "catalog.certify": gettext_lazy("certified"),
    "catalog.delete_files": gettext_lazy("deleted the files of"),
    "deployment.load": gettext_lazy("asked to load"),
    "deployment.unload": gettext_lazy("asked to unload"),
    "job.enqueue": gettext_lazy("began the job"),
    "job.cancel": gettext_lazy("cancelled the job"),
    "route.change": gettext_lazy("changed the route"),
    "request.cancelled": gettext_lazy("cancelled the request"),
    "requests.refused": gettext_lazy("was refused"),
    "rollout.start": gettext_lazy("started the rollout"),
    "rollout.promote": gettext_lazy("promoted the rollout"),
    "rollout.abort": gettext_lazy("aborted the rollout"),
    "rollout.undo": gettext_lazy("undid the rollout"),
}
OF_ACTION = {"job": "job", "deployment": "revision", "catalog": "revision", "route": "route"}  # bare ids
OWN_NAME_SAYS_IT = ("login.succeeded", "logout", "server.started", "server.stopped", "server.crashed")


@dataclass(frozen=True, slots=True)
class Event:
    entry: Entry
    words: str
    target: str
    url: str = ""
    detail: str = ""

    @property
    def is_bad(self) -> bool:
        return self.entry.action == "server.crashed"


def events(actor: Actor, limit: int) -> list[Event]:
    return [event_of(entry) for entry in recent_entries(actor, limit=limit)]


def event_of(entry: Entry) -> Event:
    words = str(WORDS.get(entry.action, entry.action))
    if entry.action in OWN_NAME_SAYS_IT:
        return Event(entry, words, "", detail=detail_of(entry))
    kind, sign, name = entry.target.partition(":")
    if not sign:
        kind, name = OF_ACTION.get(entry.action.partition(".")[0], ""), entry.target
    find = TARGETS.get(kind)
    target, url = find(name) if find and name else (entry.target, "")
    return Event(entry, words, target, url)


def detail_of(entry: Entry) -> str:
    if entry.action != "server.crashed":
        return ""
    detail: dict[str, Any] = json.loads(entry.detail)
    lost = _("Requests lost: %(number)d.") % {"number": detail.get("lost_requests", 0)}
    return f"{detail.get('cause', '')}. {lost}"


def key_named(public_id: str) -> tuple[str, str]:
    key = ApiKey.objects.filter(public_id=public_id).first()
    return (key.name, reverse("dashboard:key", args=[public_id])) if key else (public_id, "")


def job_named(pk: str) -> tuple[str, str]:
    job = Job.objects.filter(pk=pk).first()
    if job is None:
        return pk, ""
    return f"{kind_label(job)}: {job.subject}", reverse("dashboard:job", args=[pk])


def revision_named(pk: str) -> tuple[str, str]:
    revision = Revision.objects.select_related("model").filter(pk=pk).first()
    if revision is None:
        return pk, ""
    return pk, reverse("dashboard:revision", args=[revision.model.name, pk])


def rollout_named(pk: str) -> tuple[str, str]:
    return f"#{pk}", reverse("dashboard:rollout", args=[pk]) if pk.isdecimal() else ""


def route_named(name: str) -> tuple[str, str]:
    return name, reverse("dashboard:route", args=[name])


def person_named(name: str) -> tuple[str, str]:
    return name, reverse("dashboard:operators")


def request_named(request_id: str) -> tuple[str, str]:
    return request_id, reverse("dashboard:request", args=[request_id])


TARGETS: dict[str, Callable[[str], tuple[str, str]]] = {
    "key": key_named,
    "job": job_named,
    "revision": revision_named,
    "rollout": rollout_named,
    "route": route_named,
    "user": person_named,
    "request": request_named,
}
