"""The rooms of the console, by what people come for: to operate, to serve, to give access, to prove."""

from __future__ import annotations

from dataclasses import dataclass

from django.urls import reverse
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from console.accounts.models import User
from console.policy import permits, who_may


@dataclass(frozen=True, slots=True)
class Room:
    """A page of the rail. `route` also decides, through the policy, who sees it."""

    route: str
    label: str | Promise
    icon: str

    @property
    def url(self) -> str:
        return reverse(self.route)


@dataclass(frozen=True, slots=True)
class Section:
    label: str | Promise
    rooms: tuple[Room, ...]


SECTIONS = (
    Section(
        _("Operate"),
        (
            Room("dashboard:home", _("Home"), icon="house"),
            Room("dashboard:playground", _("Playground"), icon="messages-square"),
            Room("dashboard:live", _("Live engine"), icon="activity"),
            Room("dashboard:jobs", _("Jobs"), icon="hammer"),
            Room("dashboard:panels", _("Panels"), icon="chart-line"),
        ),
    ),
    Section(
        _("Serve"),
        (
            Room("dashboard:models", _("Models"), icon="box"),
            Room("dashboard:rollouts", _("Rollouts"), icon="git-branch"),
        ),
    ),
    Section(
        _("Access"),
        (
            Room("dashboard:keys", _("Keys"), icon="key-round"),
            Room("dashboard:operators", _("Operators"), icon="users"),
        ),
    ),
    Section(
        _("Observe"),
        (
            Room("dashboard:requests", _("Requests"), icon="list-tree"),
            Room("admin:audit_entry_changelist", _("Audit"), icon="scroll-text"),
        ),
    ),
)


def sections_for(user: User) -> list[Section]:
    """The rooms that a person may enter; a section without one is left out."""
    allowed = [
        Section(section.label, tuple(room for room in section.rooms if may_enter(room, user)))
        for section in SECTIONS
    ]
    return [section for section in allowed if section.rooms]


def room_of(path: str, sections: list[Section]) -> Room | None:
    """The room that a path lies in: the one with the longest address that begins it."""
    rooms = [room for section in sections for room in section.rooms]
    around = [room for room in rooms if path == room.url or (room.url != "/" and path.startswith(room.url))]
    return max(around, key=lambda room: len(room.url), default=None)


def may_enter(room: Room, user: User) -> bool:
    who = who_may(room.route)
    return who is not None and permits(who, user)
