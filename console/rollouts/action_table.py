"""What can be done with a rollout, by the word that pages and the management API use in their addresses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from console.rollouts import actions
from console.rollouts.models import Rollout


@dataclass(frozen=True, slots=True)
class RolloutAction:
    """`run` takes `actor`, `rollout`, `version` and `reason`; a promotion `is_forced` too."""

    run: Callable[..., Rollout]
    said: Promise  # to the operator, once it is done
    can_be_forced: bool = False


ROLLOUT_ACTIONS = {
    "pause": RolloutAction(actions.pause, _("Paused: the shares stay as they are.")),
    "resume": RolloutAction(actions.resume, _("Resumed.")),
    "advance": RolloutAction(actions.advance, _("The next step has begun.")),
    "promote": RolloutAction(
        actions.promote, _("Promoted: the candidate answers everything from now on."), can_be_forced=True
    ),
    "abort": RolloutAction(actions.abort, _("Aborted: everything is answered as before.")),
    "undo": RolloutAction(actions.undo, _("Undone: everything is answered as before.")),
    "release": RolloutAction(actions.release, _("Released: the replaced revision may be unloaded.")),
}
