"""What an earlier converter of GGUF files made: the default model is converted anew, others are named.

A revision never changes, so what is converted anew is another revision, and routes are led to it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from django.conf import settings
from django.db import transaction

from console.audit.actor import Actor
from console.catalog.actions import DEFAULT_MODEL, register
from console.catalog.conversion import ConversionFailed, Converted, Progress
from console.catalog.files import files_lock, sharing, target_of
from console.catalog.models import Deployment, Revision, Route
from console.catalog.routes import set_shares, shares
from console.catalog.sources.package import SMOLLM2, PackageRefused, from_package
from console.deployments.actions import set_keeping, unload
from console.rollouts.queries import active_rollouts
from inference.config import GGUF_CONVERTER

logger = logging.getLogger(__name__)

SOURCE = f"package:{SMOLLM2.requirement}"
REASON = f"converted anew by converter {GGUF_CONVERTER} of GGUF files"


def is_outdated(revision: Revision) -> bool:
    """Whether an earlier converter made its files."""
    is_converted = revision.source.startswith(("package:", "gguf:"))
    return is_converted and bool(revision.facts.get("converter", 1) < GGUF_CONVERTER)


def renew(*, actor: Actor, progress: Progress) -> None:
    """Converts the default model anew where that is due; never raises, since the old one still answers."""
    try:
        if old := _outdated_default():
            _renew_default(actor=actor, old=old, progress=progress)
    except (PackageRefused, ConversionFailed, OSError) as error:
        logger.warning("the default model could not be converted anew: %s", error)
    for revision in Revision.objects.filter(arms__weight__gt=0).distinct():
        if is_outdated(revision):
            logger.warning(
                "revision %s comes from a GGUF file that an earlier converter read: it may split text"
                " otherwise than the model expects; import %s again and roll that out",
                revision.pk,
                revision.source,
            )


def _outdated_default() -> Revision | None:
    """The default model as it was converted first, while nothing newer of it is registered."""
    kept = Revision.objects.filter(
        model__name=DEFAULT_MODEL, source=SOURCE, parent=None, deployment__files_deleted_at=None
    )
    plain = [revision for revision in kept.order_by("created_at") if "quantization" not in revision.facts]
    if any(not is_outdated(revision) for revision in plain):
        return None
    return next(iter(plain), None)


def _renew_default(*, actor: Actor, old: Revision, progress: Progress) -> None:
    target = target_of(DEFAULT_MODEL, f"converter-{GGUF_CONVERTER}")
    converted = from_package(SMOLLM2, data_dir=Path(settings.DATA_DIR), target=target, progress=progress)
    with files_lock(), transaction.atomic():
        made = _register_alike(sharing(old).order_by("created_at"), converted, actor=actor)
        for route in Route.objects.select_for_update().filter(arms__revision__in=made).distinct():
            if active_rollouts().filter(route=route).exists():
                logger.warning("the route %s is in a rollout: lead it to %s afterwards", route.name, made)
                continue
            weights = {made.get(revision, revision): weight for revision, weight in shares(route).items()}
            set_shares(actor=actor, name=route.name, weights=weights, reason=REASON)
        for before, after in made.items():
            _keep_alike(actor=actor, before=before, after=after)


def _register_alike(old: Iterable[Revision], converted: Converted, *, actor: Actor) -> dict[str, str]:
    """The same engine settings over the new files; old revision -> new one."""
    made: dict[str, Revision] = {}
    for revision in old:
        made[revision.pk] = register(
            actor=actor,
            name=revision.model.name,
            converted=converted,
            source=revision.source,
            engine=revision.engine,
            parent=made.get(revision.parent_id or ""),
        )
    return {before: after.pk for before, after in made.items()}


def _keep_alike(*, actor: Actor, before: str, after: str) -> None:
    """The new one is kept in memory as the old one was, which leaves where nothing leads there any more."""
    old = Deployment.objects.select_related("revision").get(pk=before)
    new = Revision.objects.get(pk=after)
    set_keeping(actor=actor, revision=new, is_pinned=old.is_pinned, idle_seconds=old.idle_seconds)
    is_asked = old.revision.arms.exists()
    if old.wanted == Deployment.Wanted.LOADED and not is_asked and not old.is_forced:
        unload(actor=actor, revision=old.revision)
