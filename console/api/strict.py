"""Bodies and query strings in which nothing is ignored, and lists that are read page by page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from django.db.models import Model, QuerySet
from rest_framework import serializers
from rest_framework.request import Request

if TYPE_CHECKING:
    Base = serializers.Serializer[Any]
else:
    Base = serializers.Serializer

Row = TypeVar("Row", bound=Model)

PAGE = 50
MAX_PAGE = 200


class Strict(Base):
    """What is not a field is refused by name, rather than dropped without a word."""

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, Mapping) and (unknown := sorted(set(data) - set(self.fields))):
            known = ", ".join(self.fields) or "none"
            message = f"There is no such field; there are: {known}."
            raise serializers.ValidationError(
                {str(name): [serializers.ErrorDetail(message, code="unknown_field")] for name in unknown}
            )
        return super().to_internal_value(data)


class PageQuery(Strict):
    limit = serializers.IntegerField(default=PAGE, min_value=1, max_value=MAX_PAGE)
    cursor = serializers.CharField(required=False, help_text="`next` of the page before")


class NoBody(Strict):
    """Nothing is expected."""


def body_of(request: Request, kind: type[Strict], **options: Any) -> dict[str, Any]:
    """The body, checked."""
    serializer = kind(data=request.data, **options)
    serializer.is_valid(raise_exception=True)
    return dict(serializer.validated_data)


def query_of(request: Request, kind: type[Strict]) -> dict[str, Any]:
    """The query string, checked."""
    serializer = kind(data=request.query_params.dict())
    serializer.is_valid(raise_exception=True)
    return dict(serializer.validated_data)


def page_of(
    rows: QuerySet[Row], query: dict[str, Any], *, newest_first: bool
) -> tuple[list[Row], str | None]:
    """A page by primary key, and the cursor of the next: no page costs more than the first."""
    cursor = query.get("cursor")
    if cursor is not None:
        rows = rows.filter(**{"pk__lt" if newest_first else "pk__gt": number(cursor)})
    found = list(rows.order_by("-pk" if newest_first else "pk")[: query["limit"] + 1])
    has_more, found = len(found) > query["limit"], found[: query["limit"]]
    return found, str(found[-1].pk) if has_more else None


def number(cursor: str) -> int:
    if not (cursor.isascii() and cursor.isdecimal() and len(cursor) < 19):
        raise serializers.ValidationError({"cursor": ["It was never given out."]}, code="invalid_cursor")
    return int(cursor)


def listed(serializer: type[Base], name: str) -> Any:
    """The shape of a list, for the API's description."""
    fields = {
        "data": serializer(many=True),
        "next": serializers.CharField(allow_null=True, help_text="the cursor of the next page"),
    }
    return type(f"{name}List", (Base,), fields)
