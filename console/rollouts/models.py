"""A rollout: how a route went from one revision to another, step by step; the row is the truth."""

from __future__ import annotations

from django.core.validators import MaxValueValidator
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from console.catalog.models import Revision, Route
from console.rollouts.shares import Shares, answering, from_pairs, with_candidate
from console.rollouts.state_machine import ACTIVE, NOT_STARTED, RolloutPosition, RolloutState, Step


class Rollout(models.Model):
    """Changed by actions.py and tick.py alone. At most one of a route is active at a time."""

    class Strategy(models.TextChoices):
        CANARY = "canary", _("canary")  # a growing share for one candidate
        SWITCH = "switch", _("switch")  # all at once; promoted when it is made, so that it can be undone

    class States(models.TextChoices):
        PREPARING = RolloutState.PREPARING.value, _("preparing")
        STEPPING = RolloutState.STEPPING.value, _("running")
        PAUSED = RolloutState.PAUSED.value, _("paused")
        PROMOTED = RolloutState.PROMOTED.value, _("promoted")
        ABORTED = RolloutState.ABORTED.value, _("aborted")
        UNDONE = RolloutState.UNDONE.value, _("undone")

    route = models.ForeignKey(Route, on_delete=models.PROTECT, related_name="rollouts")
    strategy = models.CharField(max_length=10, choices=Strategy.choices, default=Strategy.CANARY)
    candidate = models.ForeignKey(
        Revision, on_delete=models.PROTECT, null=True, related_name="rollouts"
    )  # none: a switch
    steps = models.JSONField(default=list)  # [{"weight", "pause_seconds"}]
    shares_before = models.JSONField()  # [[revision, percent]]: what an abort or an undo goes back to
    shares_after = models.JSONField(default=list)  # once promoted
    state = models.CharField(max_length=9, choices=States.choices, default=States.PREPARING)
    state_since = models.DateTimeField(default=timezone.now)
    step_index = models.SmallIntegerField(default=NOT_STARTED, validators=[MaxValueValidator(100)])
    step_since = models.DateTimeField(default=timezone.now)
    reason = models.TextField(blank=True)  # why it was started, held, aborted or undone; the latest
    actor = models.CharField(max_length=200)  # who started it
    ended_by = models.CharField(max_length=200, blank=True)
    version = models.PositiveIntegerField(default=0)  # grows with every transition: of two racing, one wins
    created_at = models.DateTimeField(default=timezone.now)
    ended_at = models.DateTimeField(null=True)  # promoted, aborted or undone
    released_at = models.DateTimeField(null=True)  # the old revisions are not kept for an undo any more

    class Meta:
        ordering = ["-pk"]
        constraints = [
            models.UniqueConstraint(
                fields=["route"],
                condition=models.Q(state__in=[state.value for state in ACTIVE]),
                name="one_active_rollout_per_route",
            ),
            models.CheckConstraint(
                condition=models.Q(strategy="switch") | models.Q(candidate__isnull=False),
                name="a_canary_has_a_candidate",
            ),
        ]
        indexes = [models.Index(fields=["state"])]

    def __str__(self) -> str:
        return f"{self.route.name} #{self.pk}"

    @property
    def is_active(self) -> bool:
        return RolloutState(self.state) in ACTIVE

    @property
    def before(self) -> Shares:
        return from_pairs(self.shares_before)

    @property
    def after(self) -> Shares:
        return from_pairs(self.shares_after)

    def position(self) -> RolloutPosition:
        steps = tuple(Step(one["weight"], one["pause_seconds"]) for one in self.steps)
        return RolloutPosition(
            steps, RolloutState(self.state), self.step_index, self.state_since, self.step_since
        )

    def take(self, position: RolloutPosition) -> None:
        """Stand there; not saved yet."""
        self.state, self.step_index = position.state.value, position.index
        self.state_since, self.step_since = position.state_since, position.step_since

    def shares_at(self, position: RolloutPosition) -> Shares:
        """What the route's shares are while the rollout stands there."""
        if position.weight is None:
            return self.before
        if self.candidate_id is None:
            return self.after
        if position.index == NOT_STARTED and position.state is not RolloutState.PROMOTED:
            return {**self.before, self.candidate_id: self.before.get(self.candidate_id, 0)}
        return with_candidate(self.before, self.candidate_id, position.weight)

    @property
    def reached(self) -> Shares:
        """The shares that it has given the route: what answers, and nothing else, while nobody interferes."""
        return answering(self.shares_at(self.position()))
