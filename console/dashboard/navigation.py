"""The pages of the console, by what people come for: to operate, to serve, to give access, to prove."""

from __future__ import annotations

from dataclasses import dataclass

from django.urls import reverse
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from console.accounts.models import User
from console.policy import permits, who_may


@dataclass(frozen=True, slots=True)
class Page:
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
    pages: tuple[Page, ...]


SECTIONS = (
    Section(
        _("Operate"),
        (
            Page("dashboard:home", _("Home"), icon="house"),
            Page("dashboard:playground", _("Playground"), icon="messages-square"),
            Page("dashboard:live", _("Live engine"), icon="activity"),
            Page("dashboard:jobs", _("Jobs"), icon="hammer"),
            Page("dashboard:panels", _("Panels"), icon="chart-line"),
        ),
    ),
    Section(
        _("Serve"),
        (
            Page("dashboard:models", _("Models"), icon="box"),
            Page("dashboard:rollouts", _("Rollouts"), icon="git-branch"),
        ),
    ),
    Section(
        _("Access"),
        (
            Page("dashboard:keys", _("Keys"), icon="key-round"),
            Page("dashboard:operators", _("Operators"), icon="users"),
        ),
    ),
    Section(
        _("Observe"),
        (
            Page("dashboard:requests", _("Requests"), icon="list-tree"),
            Page("admin:audit_entry_changelist", _("Audit"), icon="scroll-text"),
        ),
    ),
)


def sections_for(user: User) -> list[Section]:
    """The pages that a person may enter; a section without one is left out."""
    allowed = [
        Section(section.label, tuple(page for page in section.pages if may_enter(page, user)))
        for section in SECTIONS
    ]
    return [section for section in allowed if section.pages]


def page_of(path: str, sections: list[Section]) -> Page | None:
    """The page that a path lies in: the one with the longest address that begins it."""
    pages = [page for section in sections for page in section.pages]
    around = [page for page in pages if path == page.url or (page.url != "/" and path.startswith(page.url))]
    return max(around, key=lambda page: len(page.url), default=None)


def may_enter(page: Page, user: User) -> bool:
    who = who_may(page.route)
    return who is not None and permits(who, user)
