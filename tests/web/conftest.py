"""Fixtures of tests of the web: the application of `graphjobs serve` on the shared storage, and its clients."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from fastapi import FastAPI

from graphjobs.storage import Storage
from graphjobs.web import create_app, use_storage
from graphjobs.web.tokens import SCOPES, TokenFile, add_token

Client = Callable[..., httpx.AsyncClient]


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    """An empty token file."""
    path = tmp_path / "tokens"
    path.touch(mode=0o600)
    return path


@pytest.fixture
def app(storage: Storage, token_file: Path) -> FastAPI:
    """The application of `graphjobs serve`, on the shared storage."""
    application = create_app(TokenFile(token_file))
    use_storage(application, storage)
    return application


@pytest_asyncio.fixture
async def client_of(app: FastAPI, token_file: Path, tenant: str) -> AsyncIterator[Client]:
    """Build clients of the application, each with its own token, for a tenant and scopes; by default all scopes."""
    transport = httpx.ASGITransport(app)
    clients: list[httpx.AsyncClient] = []

    def make(tenant_id: str = tenant, *scopes: str, headers: dict[str, str] | None = None) -> httpx.AsyncClient:
        token = add_token(token_file, tenant_id=tenant_id, scopes=scopes or SCOPES, name="tester")
        headers = {"authorization": f"Bearer {token}", **(headers or {})}
        clients.append(httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers))
        return clients[-1]

    yield make
    for client in clients:
        await client.aclose()


@pytest.fixture
def client(client_of: Client) -> httpx.AsyncClient:
    """A client of the test's tenant with all scopes."""
    return client_of()
