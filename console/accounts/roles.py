"""What each role may do, as Django's permission names (`app.verb_model`): a pure function."""

from __future__ import annotations

from django.db.models import TextChoices
from django.utils.translation import gettext_lazy as _


class Role(TextChoices):
    VIEWER = "viewer", _("Viewer")  # sees everything, changes nothing, spends no tokens
    OPERATOR = "operator", _("Operator")  # also keys, limits, models and rollouts
    ADMIN = "admin", _("Admin")  # also people and teams


def allows(role: Role, permission: str) -> bool:
    """Whether a role has a permission. The ledger and the audit log refuse changes whatever this says."""
    app, _, codename = permission.partition(".")
    if codename.startswith("view_") or role is Role.ADMIN:
        return True
    return role is Role.OPERATOR and app not in {"accounts", "auth", "audit", "usage"}
