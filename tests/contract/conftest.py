"""Fixtures of the contract suite: the domain under test, and a storage behind a faulty proxy."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from graphjobs.settings import Settings
from graphjobs.storage import Storage
from tests.contract.domains import DOMAINS, Domain
from tests.contract.wired_storage import open_wired
from tests.faults.conftest import shared_watch, watch, wire  # noqa: F401  # fixtures
from tests.faults.faulty_proxy import Wire


@pytest.fixture(params=DOMAINS, ids=lambda domain: domain.table)
def domain(request: pytest.FixtureRequest, storage: Storage, tenant: str) -> Domain:
    """Each domain in turn, on the shared database."""
    domain: Domain = request.param(storage, tenant)
    return domain


@pytest_asyncio.fixture
async def wired(
    wire: Wire,  # noqa: F811
    shared_settings: Settings,
    domain: Domain,
) -> AsyncIterator[Domain]:
    """The domain behind the wire, with one connection and each statement prepared."""
    async with open_wired(wire, shared_settings) as storage:
        behind = domain.on(storage)
        await behind.prepare()
        yield behind
