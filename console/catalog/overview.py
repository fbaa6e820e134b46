"""What the catalog's pages show: models a page at a time, and a model's revisions with what stands around."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from django.db.models import Count, OuterRef, Prefetch, Q, QuerySet, Subquery

from console.audit import visibility
from console.audit.actor import Actor
from console.catalog.disk import taken
from console.catalog.models import Arm, Deployment, Revision, ServedModel

State, Wanted = Deployment.State, Deployment.Wanted


@dataclass(slots=True)
class ModelRow:
    """A model and, of its revisions, what a list of models has room for."""

    model: ServedModel
    num_revisions: int = 0
    num_bytes: int = 0  # on disk
    arms: list[Arm] = field(default_factory=list)  # that lead to it, route by route, the largest first
    deployments: list[Deployment] = field(default_factory=list)  # loaded, on the way, or failed
    shown: Revision | None = None  # the one that speaks for the model: what answers most, else the newest

    @property
    def memory_bytes(self) -> int:
        """What its loaded revisions take, as far as it was measured."""
        return sum(one.memory_bytes or 0 for one in self.deployments if one.state == State.READY)


def find_models(actor: Actor, *, words: str = "", state: str = "") -> QuerySet[ServedModel]:
    """Models by name, narrowed to a part of the name and to those with a revision in a state."""
    models = visibility.visible_to(actor, ServedModel.objects.all()).order_by("name")
    if words:
        models = models.filter(name__icontains=words)
    if state:
        models = models.filter(pk__in=Revision.objects.filter(deployment__state=state).values("model"))
    return models


def model_rows(models: Iterable[ServedModel]) -> list[ModelRow]:
    """The rows of these models: a handful of queries, however many there are."""
    rows = {model.pk: ModelRow(model) for model in models}
    counts = Revision.objects.filter(model__in=rows).order_by().values_list("model").annotate(Count("pk"))
    for pk, number in counts:
        rows[pk].num_revisions = number
    bytes_of = taken().by_model
    for pk, row in rows.items():
        row.num_bytes = bytes_of.get(pk, 0)
    for arm in _arms(revision__model__in=rows):
        rows[arm.revision.model_id].arms.append(arm)
    is_awake = ~Q(state=State.ABSENT) | Q(wanted=Wanted.LOADED)
    awake = Deployment.objects.filter(is_awake, revision__model__in=rows).select_related("revision")
    for deployment in awake.defer("revision__files").order_by("-revision__created_at"):
        rows[deployment.revision.model_id].deployments.append(deployment)
    for revision in _newest(rows):
        row = rows[revision.model_id]
        row.shown = row.arms[0].revision if row.arms else revision
    return list(rows.values())


def _arms(**which: object) -> QuerySet[Arm]:
    arms = Arm.objects.filter(**which).select_related("route", "revision").defer("revision__files")
    return arms.order_by("route__name", "-weight", "pk")


def _newest(models: Collection[int]) -> QuerySet[Revision]:
    newest = Revision.objects.filter(model=OuterRef("pk")).order_by("-created_at").values("pk")[:1]
    ids = ServedModel.objects.filter(pk__in=models).values_list(Subquery(newest), flat=True)
    return Revision.objects.defer("files").filter(pk__in=list(ids))


def revisions_of(actor: Actor, model: ServedModel) -> QuerySet[Revision]:
    """Newest first, each with its deployment and the arms that lead to it."""
    revisions = visibility.visible_to(actor, Revision.objects.filter(model=model))
    return with_related(revisions).order_by("-created_at", "-pk")


def with_related(revisions: QuerySet[Revision]) -> QuerySet[Revision]:
    """Everything about a revision that a page shows beside it."""
    arms = Arm.objects.select_related("route").order_by("route__name")
    return revisions.select_related("model", "deployment", "parent__model").prefetch_related(
        Prefetch("arms", arms)
    )


def forced_revision() -> str | None:
    """The one revision that is served while others are not; None: as usual."""
    return Deployment.objects.filter(is_forced=True).values_list("revision", flat=True).first()


def routed_revisions() -> dict[str, set[str]]:
    """Public name -> the revisions that answer to it with some share."""
    found: dict[str, set[str]] = {}
    for name, revision in Arm.objects.filter(weight__gt=0).values_list("route__name", "revision"):
        found.setdefault(name, set()).add(revision)
    return found
