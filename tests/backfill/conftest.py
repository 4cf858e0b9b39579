"""Fixtures of the backfill. The tests of a server are collected only where one can be started."""

from collections.abc import Iterator

import pytest

from graphjobs.storage import Storage
from pytest_graphjobs import _docker_answers
from tests.backfill.mongo import can_serve
from tests.backfill.tables import Command
from tests.migrations.cli_tools import many_graphjobs

collect_ignore = [
    *([] if _docker_answers() else ["test_live.py"]),
    *([] if can_serve() else ["test_move.py"]),
]


@pytest.fixture(scope="module")
def graphjobs() -> Iterator[Command]:
    """Return the command. Each call is a process of its own."""
    with many_graphjobs() as command:
        yield command


@pytest.fixture
def storage(graphjobs_storage: Storage) -> Storage:
    """Return a storage on the database of the test."""
    return graphjobs_storage


@pytest.fixture
def url(graphjobs_database_url: str) -> str:
    """Return the address of the database of the test."""
    return graphjobs_database_url
