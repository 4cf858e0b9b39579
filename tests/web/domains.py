"""The two domains of the web service for tests of both, with their routes from the OpenAPI document."""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote
from uuid import UUID

from typing_extensions import override

from graphjobs.storage import Storage
from graphjobs.web import create_app
from tests.builders import build_job, policy_run
from tests.web.requests import build_request, overlay_request, policy_request


async def _insert_job(storage: Storage, tenant: str) -> tuple[str, UUID]:
    job = await storage.graph_jobs.add(build_job(tenant, correlation_id="c"))
    return str(job.id), job.id


async def _insert_run(storage: Storage, tenant: str) -> tuple[str, UUID]:
    run = await storage.policy_runs.insert(policy_run(tenant))
    return run.run_id, run.id


@dataclass(frozen=True)
class Domain:
    """One domain.

    Attributes:
        prefix: the begin of its paths.
        items: the last part of the path of its list, and the member of a page.
        create: the path that adds a job or run.
        noun: the name of a job or run in problems.
        key: the field or header that makes a repeated request safe.
        id_field: the field that identifies a job or run in paths.
        filters: a query that finds what `insert` adds.
        request: builds a body for `create`.
        insert: adds a queued job or run; returns its id in paths, and the id of its row.
    """

    prefix: str
    items: str
    create: str
    noun: str
    key: str
    id_field: str
    filters: dict[str, str]
    scopes: dict[str, str]
    table: str
    request: Callable[..., dict[str, Any]]
    insert: Callable[[Storage, str], Awaitable[tuple[str, UUID]]]

    @property
    def list_path(self) -> str:
        """The path of the list."""
        return f"{self.prefix}/{self.items}"

    def keyed(self, key: str, **fields: Any) -> dict[str, Any]:
        """Return the arguments of a post to `create` with a key."""
        if self.key == "Idempotency-Key":
            return {"json": self.request(**fields), "headers": {self.key: key}}
        return {"json": self.request(**fields, **{self.key: key})}


GRAPHS: Final = Domain(
    prefix="/graphs",
    items="jobs",
    create="/graphs/build",
    noun="job",
    key="Idempotency-Key",
    id_field="id",
    filters={"correlationId": "c"},
    scopes={"GET": "graph:read", "POST": "graph:write"},
    table="graph_jobs",
    request=build_request,
    insert=_insert_job,
)
POLICIES: Final = Domain(
    prefix="/policy",
    items="runs",
    create="/policy/runs",
    noun="policy run",
    key="runId",
    id_field="runId",
    filters={"status": "queued"},
    scopes={"GET": "policy:read", "POST": "policy:run"},
    table="policy_runs",
    request=policy_request,
    insert=_insert_run,
)


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
