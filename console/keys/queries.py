"""Reads of the keys for pages: searched, filtered by state, sorted, all in the database."""

from __future__ import annotations

from datetime import datetime

from django.db.models import F, OrderBy, Q, TextChoices
from django.utils.translation import gettext_lazy as _

from console.audit import visibility
from console.audit.actor import Actor
from console.keys.models import ApiKey, ApiKeyQuerySet


class State(TextChoices):
    ACTIVE = "active", _("Active")
    EXPIRED = "expired", _("Expired")
    REVOKED = "revoked", _("Revoked")


class Order(TextChoices):
    NEWEST = "newest", _("Newest first")
    NAME = "name", _("By name")
    LAST_USED = "used", _("Last used first")
    EXPIRES = "expires", _("Expiring first")


ORDERS: dict[str, tuple[str | OrderBy, ...]] = {
    Order.NEWEST: ("-pk",),
    Order.NAME: ("name", "pk"),
    Order.LAST_USED: (F("last_used_at").desc(nulls_last=True), "-pk"),
    Order.EXPIRES: (F("expires_at").asc(nulls_last=True), "-pk"),
}


def state_of(key: ApiKey, *, now: datetime) -> State:
    if key.revoked_at is not None:
        return State.REVOKED
    return State.ACTIVE if key.is_valid_at(now) else State.EXPIRED


def find_keys(actor: Actor, *, words: str, state: str, order: str, now: datetime) -> ApiKeyQuerySet:
    """Keys whose name or public id has the words; an empty state is all of them."""
    keys = (
        visibility.visible_to(actor, ApiKey.objects.all())
        .select_related("team")
        .order_by(*ORDERS.get(order, ORDERS[Order.NEWEST]))
    )
    if words:
        keys = keys.filter(Q(name__icontains=words) | Q(public_id__contains=words))
    match state:
        case State.ACTIVE:
            keys = keys.valid_at(now)
        case State.EXPIRED:
            keys = keys.filter(revoked_at=None, expires_at__lte=now)
        case State.REVOKED:
            keys = keys.exclude(revoked_at=None)
    return keys
