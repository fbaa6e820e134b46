"""Which revision answers a request: from the caller, the public model name and the user."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from dataclasses import dataclass

from console.accounts.caller import Caller
from console.catalog.queries import has_revision, shares_of
from console.keys.scopes import may_address_revisions
from inference.protocol.errors import UnknownRevision

SCALE = 2**32


@dataclass(frozen=True, slots=True)
class Arm:
    """A public model name and the id of the revision chosen for it."""

    model: str
    revision: str


async def choose(*, caller: Caller, model: str, user: str) -> Arm:
    """The arm for this request, by the shares of the model's route; a `user` keeps theirs while they last.

    `name@revision` is that one revision of a model, past every route. Raises `UnknownRevision` (404
    model_not_found), also for a model that the caller may not ask for.
    """
    name, sign, revision = model.partition("@")
    if sign:
        is_allowed = caller.may_ask_for(name) and may_address_revisions(caller)
        shares = {revision: 1} if is_allowed and await has_revision(name, revision) else {}
    else:
        shares = await shares_of(model) if caller.may_ask_for(model) else {}
    if not shares:
        raise UnknownRevision(
            f"The model '{model}' does not exist or you do not have access to it.", param="model"
        )
    return Arm(model=model, revision=pick(shares, at=place(model=model, caller=caller.id, user=user)))


def place(*, model: str, caller: str, user: str) -> float:
    """Where a request stands between 0 and 1: always the same for a user, anywhere without one."""
    if not user:
        return random.random()  # noqa: S311 - a share of traffic, no secret
    digest = hashlib.sha256("\0".join((model, caller, user)).encode()).digest()
    return int.from_bytes(digest[:4], "big") / SCALE


def pick(shares: Mapping[str, int], *, at: float) -> str:
    """The revision in whose stretch `at` (0 <= at < 1) falls.

    Arms keep their order, so that a last arm which grows takes users over and gives none back.
    """
    reached, sought = 0, at * sum(shares.values())
    for revision, weight in shares.items():
        reached += weight
        if sought < reached:
            return revision
    raise ValueError("the shares sum to nothing")
