"""Every constant statement of the package, found by introspection and rendered as a script that psql takes."""

import ast
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final, NamedTuple, cast

from sqlalchemy import Executable, TextClause
from sqlalchemy.dialects.postgresql import asyncpg
from sqlalchemy.sql.elements import ClauseElement

import graphjobs
from graphjobs.database.executor import compiled

SQL_FOLDER: Final = Path(__file__).resolve().parents[1] / "sql"
_DIALECT: Final = asyncpg.dialect()  # type: ignore[no-untyped-call]
_CLAUSE: Final = re.compile(
    r"(?<=\S)\s+((?:SELECT|FROM|WHERE|AND|SET|RETURNING|VALUES|ORDER BY|GROUP BY|LIMIT|FETCH FIRST|UNION ALL|"
    r"(?:LEFT OUTER )?JOIN|ON CONFLICT|FOR NO KEY UPDATE)\b)"
)


class Statement(NamedTuple):
    """A constant statement: the package it belongs to, where it is defined, and what it is called there."""

    package: str
    module: str
    name: str
    statement: Executable

    @property
    def file(self) -> str:
        """Return the path of its text below `tests/sql`."""
        return f"{self.package}/{self.name.strip('_').lower().replace('.', '_')}.sql"


def modules() -> Iterator[ModuleType]:
    """Import and yield every module of the package."""
    for found in pkgutil.walk_packages(graphjobs.__path__, "graphjobs."):
        yield importlib.import_module(found.name)


def statements() -> list[Statement]:
    """List the statements that modules define as constants, alone or as a field of a constant."""
    return [
        Statement(module.__name__.split(".")[1], module.__name__, name, statement)
        for module in modules()
        for constant in _constants_defined_in(module)
        for name, statement in _statements_of(constant, getattr(module, constant, None))
    ]


def _constants_defined_in(module: ModuleType) -> Iterator[str]:
    for node in ast.parse(inspect.getsource(module)).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        for target in targets:
            if isinstance(target, ast.Name) and target.id.isupper():
                yield target.id


def _statements_of(name: str, value: Any) -> Iterator[tuple[str, Executable]]:
    if isinstance(value, TextClause) and not value.text[0].isupper():
        return  # a part of other statements, as an interval
    if isinstance(value, Executable) and not isinstance(value, type):
        yield name, value
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from _statements_of(f"{name}.{field.name}", getattr(value, field.name))
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        for field_name, item in zip(value._fields, value, strict=True):
            yield from _statements_of(f"{name}.{field_name}", item)


def binds_of(found: Statement) -> tuple[str, ...]:
    """Return the names of a statement's binds, in their order."""
    return () if isinstance(found.statement, TextClause) else compiled(found.statement).binds


def rendered_statements() -> dict[str, str]:
    """Render each statement once, by the path of its text; the same statement under a second name is not repeated."""
    rendered: dict[str, str] = {}
    seen: set[int] = set()
    for found in statements():
        if id(found.statement) in seen:
            continue
        seen.add(id(found.statement))
        if found.file in rendered:
            raise ValueError(f"two statements would be written to {found.file}")
        rendered[found.file] = _render(found)
    return rendered


def _render(found: Statement) -> str:
    if isinstance(found.statement, TextClause):
        return f"-- {found.module}.{found.name}\n{found.statement.text};\n"
    form = compiled(found.statement)
    types = cast("ClauseElement", found.statement).compile(dialect=_DIALECT).binds  # type: ignore[attr-defined]
    binds = [
        f"--   ${number} {name} {types[name].type.compile(dialect=_DIALECT)}"
        for number, name in enumerate(form.binds, start=1)
    ]
    prepared = found.file.removesuffix(".sql").replace("/", "_")
    return "\n".join(
        [f"-- {found.module}.{found.name}", *binds, f"PREPARE {prepared} AS", f"{_laid_out(form.sql)};", ""]
    )


def _laid_out(sql: str) -> str:
    """Break lines before clauses, for people; nothing but white space outside of quotes changes."""
    parts = re.split(r"('[^']*')", sql.strip())
    text = "".join(part if part.startswith("'") else _CLAUSE.sub(r"\n\1", part) for part in parts)
    return "\n".join(line.rstrip() for line in text.splitlines())
