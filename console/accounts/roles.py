"""What each role may do, as Django's permission names (`app.verb_model`): a pure function."""

from __future__ import annotations

from django.db.models import TextChoices


class Role(TextChoices):
    VIEWER = "viewer"  # sees everything, changes nothing, spends no tokens
    OPERATOR = "operator"  # also keys, limits, models and rollouts
    ADMIN = "admin"  # also people and teams


def allows(role: Role, permission: str) -> bool:
    """Whether a role has a permission. The ledger and the audit log refuse changes whatever this says."""
    app, _, codename = permission.partition(".")
    if codename.startswith("view_") or role is Role.ADMIN:
        return True
    return role is Role.OPERATOR and app not in {"accounts", "auth", "audit", "usage"}
