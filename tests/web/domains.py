"""The two domains of the web service for tests of both, with their routes from the OpenAPI document."""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Final
from urllib.parse import quote
from uuid import UUID

from typing_extensions import override

from graphjobs import PolicyRunJob
from graphjobs.graph_jobs.models import AnyJob
from graphjobs.storage import Storage
from graphjobs.web import create_app
from tests.builders import build_job, policy_run
from tests.web.requests import build_request, overlay_request, policy_request


class Domain:
    """One domain.

    Attributes:
        prefix: the begin of its paths.
        items: the last part of the path of its list, and the member of a page.
        create: the path that adds a job or run.
        noun: the name of a job or run in problems.
        id_field: the field that identifies a job or run in paths.
        key: the field or header that makes a repeated request safe.
        filter: a parameter of a query that finds what `insert` adds, and its value.
        read: the scope of its GET requests.
        write: the scope of its POST requests.
        request: builds a body for `create`.
        add: adds a queued job or run.
    """

    prefix: ClassVar[str]
    items: ClassVar[str]
    create: ClassVar[str]
    noun: ClassVar[str]
    id_field: ClassVar[str]
    key: ClassVar[str]
    table: ClassVar[str]
    filter: ClassVar[tuple[str, str]]
    read: ClassVar[str]
    write: ClassVar[str]
    request: Callable[..., dict[str, Any]]
    add: Callable[[Storage, str], Awaitable[AnyJob | PolicyRunJob]]

    @property
    def list_path(self) -> str:
        """The path of the list."""
        return f"{self.prefix}/{self.items}"

    def keyed(self, key: str, **fields: Any) -> dict[str, Any]:
        """Return the arguments of a post to `create` with a key."""
        if self.key == "Idempotency-Key":
            return {"json": self.request(**fields), "headers": {self.key: key}}
        return {"json": self.request(**fields, **{self.key: key})}

    async def insert(self, storage: Storage, tenant: str) -> tuple[str, UUID]:
        """Add a queued job or run; return its id in paths, and the id of its row."""
        item = await self.add(storage, tenant)
        return item.run_id if isinstance(item, PolicyRunJob) else str(item.id), item.id


class _Graphs(Domain):
    prefix, items, create, noun, id_field = "/graphs", "jobs", "/graphs/build", "job", "id"
    key, table, filter = "Idempotency-Key", "graph_jobs", ("correlationId", "c")
    read, write, request = "graph:read", "graph:write", staticmethod(build_request)
    add = staticmethod(lambda storage, tenant: storage.graph_jobs.add(build_job(tenant, correlation_id="c")))


class _Policies(Domain):
    prefix, items, create, noun, id_field = "/policy", "runs", "/policy/runs", "policy run", "runId"
    key, table, filter = "runId", "policy_runs", ("status", "queued")
    read, write, request = "policy:read", "policy:run", staticmethod(policy_request)
    add = staticmethod(lambda storage, tenant: storage.policy_runs.insert(policy_run(tenant)))


GRAPHS: Final = _Graphs()
POLICIES: Final = _Policies()


@dataclass(frozen=True)
class Route:
    """One route of a domain; `requires_body` is None for a route that ignores its body."""

    domain: Domain
    method: str
    template: str
    requires_body: bool | None

    @override
    def __str__(self) -> str:
        return f"{self.method} {self.template}"

    @property
    def scope(self) -> str:
        """The scope that a caller needs."""
        if self.template == "/graphs/hooks/completed":
            return "graph:complete"
        return self.domain.read if self.method == "GET" else self.domain.write

    def path(self, item_id: str) -> str:
        """Return the path, with the id of a job or run."""
        return re.sub(r"{\w+}", quote(item_id, safe=""), self.template)

    def body(self, item_id: str) -> dict[str, Any] | None:
        """Return a valid body. A route that is not listed here is a KeyError: add its body."""
        if self.method == "GET":
            return None
        return {
            "/graphs/build": build_request(),
            "/graphs/overlays": overlay_request(),
            "/graphs/jobs/{job_id}/cancel": None,
            "/graphs/hooks/completed": {"jobId": item_id, "status": "failed", "error": "it broke"},
            "/policy/runs": policy_request(),
            "/policy/simulations": policy_request(mode="simulate"),
            "/policy/runs/{run_id}/cancel": None,
            "/policy/runs/{run_id}/retry": None,
        }[self.template]


def _routes() -> list[Route]:
    return [
        Route(domain, method.upper(), path, operation.get("requestBody", {}).get("required"))
        for path, operations in create_app().openapi()["paths"].items()
        for method, operation in operations.items()
        for domain in (GRAPHS, POLICIES)
        if path.startswith(f"{domain.prefix}/")
    ]


ROUTES: Final = _routes()
"""All routes of both domains. Tests of all routes also test a new one."""
