"""The few forms of a panel's question, and how each is written as PromQL."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

Labels = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Selector:
    """Series of one name. `has_arm`: they carry the labels model and revision."""

    name: str
    where: tuple[tuple[str, str], ...] = ()
    has_arm: bool = True

    def promql(self, model: str) -> str:
        """`model` is a matcher like `model="m"`, or empty for all of them."""
        matchers = [f"{label}={quoted(value)}" for label, value in self.where]
        if self.has_arm and model:
            matchers.append(model)
        return f"{self.name}{{{','.join(matchers)}}}" if matchers else self.name


@dataclass(frozen=True, slots=True)
class Rate:
    """Growth of a counter per second, or per `per` seconds, summed by labels."""

    of: Selector
    by: Labels = ()
    per: int = 1

    def promql(self, *, window: str, model: str = "") -> str:
        rate = f"{summed('sum', self.by)} (rate({self.of.promql(model)}[{window}]))"
        return rate if self.per == 1 else f"{self.per} * {rate}"


@dataclass(frozen=True, slots=True)
class Gauge:
    """What stands there now, put together by labels."""

    of: Selector
    by: Labels = ()
    how: Literal["sum", "max", "min"] = "sum"

    def promql(self, *, window: str, model: str = "") -> str:
        return f"{summed(self.how, self.by)} ({self.of.promql(model)})"


@dataclass(frozen=True, slots=True)
class Quantile:
    """A quantile of a histogram's observations within the window. `of` names the histogram without suffix."""

    q: float
    of: Selector
    by: Labels = ()

    @property
    def buckets(self) -> Rate:
        return Rate(replace(self.of, name=f"{self.of.name}_bucket"), by=("le", *self.by))

    def promql(self, *, window: str, model: str = "") -> str:
        return f"histogram_quantile({self.q}, {self.buckets.promql(window=window, model=model)})"


@dataclass(frozen=True, slots=True)
class Ratio:
    """Part of a whole, by the same labels: 0 where the part is absent, nothing where the whole is."""

    part: Rate
    whole: Rate
    by: Labels = field(init=False)

    def __post_init__(self) -> None:
        if self.part.by != self.whole.by:
            raise ValueError("a ratio's sides must have the same labels")
        object.__setattr__(self, "by", self.whole.by)

    def promql(self, *, window: str, model: str = "") -> str:
        part = self.part.promql(window=window, model=model)
        whole = self.whole.promql(window=window, model=model)
        return f"({part} or 0 * {whole}) / {whole}"


Query = Rate | Gauge | Quantile | Ratio


def names(query: Query) -> Iterator[str]:
    """The samples that a query reads."""
    match query:
        case Ratio():
            yield from (query.part.of.name, query.whole.of.name)
        case Quantile():
            yield query.buckets.of.name
        case _:
            yield query.of.name


def has_arm(query: Query) -> bool:
    """Whether a query can be told by revision."""
    return query.whole.of.has_arm if isinstance(query, Ratio) else query.of.has_arm


def split(query: Query, label: str) -> Query:
    """The same question, also by this label."""
    if label in query.by:
        return query
    match query:
        case Ratio():
            part = replace(query.part, by=(*query.part.by, label))
            return Ratio(part, replace(query.whole, by=(*query.whole.by, label)))
        case _:
            return replace(query, by=(*query.by, label))


def summed(how: str, by: Labels) -> str:
    return f"{how} by ({', '.join(by)})" if by else how


def quoted(value: str) -> str:
    """A PromQL string."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def of_model(model: str) -> str:
    """The matcher for one model's series; empty for all."""
    return f"model={quoted(model)}" if model else ""
