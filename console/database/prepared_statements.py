"""Statements of the hot path: Django writes them once, for the database at hand, and from then on they only
run. To write one takes it many times as long as the database needs to run it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from django.db import connection
from django.db.models import BigIntegerField, Expression, Field, QuerySet, TextField
from django.db.models.sql import DeleteQuery, Query, UpdateQuery
from django.db.models.sql.compiler import SQLCompiler

TEXT = TextField()


class Slot(Expression):
    """Stands in a statement for a value that comes with each run; a whole number where no field is given."""

    def __init__(self, name: str, output_field: Field[Any, Any] | None = None) -> None:
        super().__init__(output_field=output_field or BigIntegerField())
        self.name = name

    def as_sql(self, compiler: Any, connection: Any) -> tuple[str, Any]:
        return "%s", [self]


@dataclass(frozen=True, slots=True)
class Written:
    """A statement in the words of one kind of database."""

    text: str
    parameters: tuple[Any, ...]
    compiler: SQLCompiler
    converters: dict[int, Any]  # of its columns, those that the driver does not give as Python has them


class Statement(ABC):
    """One statement; it is written when it first runs."""

    def __init__(self) -> None:
        self._written: dict[str, Written] = {}  # by the kind of database

    @abstractmethod
    def query(self) -> Query:
        """What is to be written."""

    def execute(self, cursor: Any, values: Mapping[str, Any]) -> Written:
        written = self._written.get(connection.vendor)
        if written is None:
            written = self._written[connection.vendor] = self._write()
        cursor.execute(written.text, [_filled(one, values) for one in written.parameters])
        return written

    def _write(self) -> Written:
        compiler = self.query().get_compiler(connection=connection)
        text, parameters = compiler.as_sql()
        columns = [column for column, _, _ in compiler.select or ()]
        return Written(text, tuple(parameters), compiler, compiler.get_converters(columns))


class Change(Statement):
    """Called with the values of its slots, it returns how many rows it changed."""

    def __call__(self, **values: Any) -> int:
        with connection.cursor() as cursor:
            self.execute(cursor, values)
            return int(cursor.rowcount)


class Update(Change):
    def __init__(self, make: Callable[[], tuple[QuerySet[Any], Mapping[str, Any]]]) -> None:
        super().__init__()
        self._make = make

    def query(self) -> Query:
        rows, columns = self._make()
        query: Any = rows.query.chain(UpdateQuery)
        query.add_update_values(columns)
        return cast(Query, query)


class Delete(Change):
    """Of rows to which none refers."""

    def __init__(self, make: Callable[[], QuerySet[Any]]) -> None:
        super().__init__()
        self._make = make

    def query(self) -> Query:
        return self._make().query.chain(DeleteQuery)


class Select(Statement):
    """The rows of a `values_list`."""

    def __init__(self, make: Callable[[], QuerySet[Any, tuple[Any, ...]]]) -> None:
        super().__init__()
        self._make = make

    def query(self) -> Query:
        return self._make().query

    def __call__(self, **values: Any) -> list[tuple[Any, ...]]:
        with connection.cursor() as cursor:
            written = self.execute(cursor, values)
            rows: list[tuple[Any, ...]] = cursor.fetchall()
        if not written.converters:
            return rows
        return [tuple(row) for row in written.compiler.apply_converters(rows, written.converters)]

    def first(self, **values: Any) -> tuple[Any, ...] | None:
        return next(iter(self(**values)), None)


def _filled(parameter: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(parameter, Slot):
        return parameter.output_field.get_db_prep_value(values[parameter.name], connection)
    return parameter
