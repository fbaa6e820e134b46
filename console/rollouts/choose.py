"""Which revision answers a request: from the caller, the public model name and the user."""

from __future__ import annotations

from dataclasses import dataclass

from console.catalog.queries import revision_for
from console.keys.caller import Caller
from inference.protocol import UnknownRevision


@dataclass(frozen=True, slots=True)
class Arm:
    """A public model name and the id of the revision chosen for it."""

    model: str
    revision: str


async def choose(*, caller: Caller, model: str, user: str) -> Arm:
    """The arm for this request: the model's current revision. `user` is what a rollout will be sticky by.

    Raises `UnknownRevision` (404 model_not_found), also for a model that the caller's key may not ask for.
    """
    revision = await revision_for(model) if caller.may_ask_for(model) else None
    if revision is None:
        raise UnknownRevision(
            f"The model '{model}' does not exist or you do not have access to it.", param="model"
        )
    return Arm(model=model, revision=revision)
