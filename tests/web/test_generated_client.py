"""A client that openapi-python-client generates from the document, also from that of a host, against a real server."""

import importlib
import json
import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI
from fastapi.responses import PlainTextResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from openapi_python_client import generate
from openapi_python_client.config import Config, ConfigFile, MetaType
from pydantic import BaseModel

from graphjobs import GraphJobStatus
from graphjobs.storage import Storage
from graphjobs.web import create_app, graph_routes, health_routes, openapi_tags, policy_routes
from graphjobs.web.tokens import SCOPES, add_token
from tests.web.requests import DIGEST
from tests.web.server import serving


class Build(BaseModel):
    """A body of a host."""

    branch: str


class GraphJobsProblem(BaseModel):
    """An answer of a host, with the name of one of ours."""

    text: str


def _host(error: type[BaseModel]) -> FastAPI:
    """Build an application with operations and defaults of its own, and with all our routes under a prefix."""
    app = FastAPI(openapi_tags=openapi_tags, default_response_class=PlainTextResponse)

    @app.post("/build", operation_id="request_build", responses={404: {"model": error}})
    async def build(body: Build, _token: Annotated[HTTPAuthorizationCredentials, Depends(HTTPBearer())]) -> str:
        return body.branch

    for router in (graph_routes, policy_routes, health_routes):
        app.include_router(router, prefix="/scheduler")
    return app


def _generate(document: dict[str, Any], folder: Path) -> list[Any]:
    """Generate the package `generated_client`; return the warnings."""
    path = folder / "openapi.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    output = folder / "generated_client"
    options = ConfigFile(post_hooks=[])  # ruff, to format the package
    config = Config.from_sources(options, MetaType.NONE, path, "utf-8", False, output_path=output)
    return list(generate(config=config))


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return a function that imports a module of the package generated from our own document."""
    assert [] == _generate(create_app().openapi(), tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield lambda name: importlib.import_module(f"generated_client.{name}")
    for name in [name for name in sys.modules if name.partition(".")[0] == "generated_client"]:
        del sys.modules[name]


async def test_a_generated_client_requests_reads_and_completes_jobs(
    client: Any, app: FastAPI, storage: Storage, token_file: Path, tenant: str
) -> None:
    """Jobs, pages and problem documents are parsed into their models."""
    models = client("models")

    async def call(name: str, *arguments: Any, **options: Any) -> Any:
        response = await client(f"api.graphs.{name}").asyncio_detailed(*arguments, client=caller, **options)
        return response.parsed

    token = add_token(token_file, tenant_id=tenant, scopes=SCOPES, name="client")
    async with serving(app) as port, client("client").AuthenticatedClient(f"http://127.0.0.1:{port}", token) as caller:
        wanted = models.GraphBuildRequest("sbom", "sbom@1", DIGEST)
        job = await call("request_graph_build", body=wanted, idempotency_key="k")
        overlay = models.GraphOverlayRequest("graph", models.GraphOverlayRequestOverlaykind.VEX, "vex@1")
        other = await call("request_graph_overlay", body=overlay)
        page = await call("list_graph_jobs", type_=models.GraphJobType.BUILD)
        everything = await call("list_graph_jobs")
        early = await call("complete_graph_job", body=(hook := _completion(models, job)))
        stored = await storage.graph_jobs.get_build_job(tenant, job.id)
        assert stored is not None
        await storage.graph_jobs.update(stored.start(at=datetime.now(UTC)), expected=GraphJobStatus.QUEUED)
        done = await call("complete_graph_job", body=hook)
        read = await call("get_graph_job", str(job.id))
        events = await call("list_graph_job_events", str(job.id))
        missing = await call("get_graph_job", str(other.id).replace("0", "f"))
        invalid = await call("request_graph_build", body=models.GraphBuildRequest("", "sbom@1", DIGEST))
    assert ("build", "overlay") == (job.type_, other.type_)
    assert [job] == page.jobs
    assert {models.GraphBuildJobView, models.GraphOverlayJobView} == {type(each) for each in everything.jobs}
    assert (models.GraphJobStatus.COMPLETED, "graph") == (done.status, done.graph_snapshot_id)
    assert done == read
    assert ["queued", "running", "completed"] == [event.status for event in events.events]
    assert {models.GraphJobsProblem} == {type(each) for each in (early, missing, invalid)}
    assert [409, 404, 422] == [each.status for each in (early, missing, invalid)]
    assert ("queued", "sbomId") == (early.job_status, invalid.errors[0].field)


def _completion(models: Any, job: Any) -> Any:
    return models.GraphJobCompletion(job.id, models.GraphJobCompletionStatus.COMPLETED, graph_snapshot_id="graph")


@pytest.mark.parametrize("error", [Build, GraphJobsProblem], ids=["other names", "a name of ours"])
def test_the_document_of_a_host_is_as_good(error: type[BaseModel], tmp_path: Path) -> None:
    """It has our operations, answers and tags, and components of both, even of one name."""
    document, ours = _host(error).openapi(), create_app().openapi()
    assert ours["tags"] == document["tags"]
    assert {"GraphJobsToken", "HTTPBearer"} == set(document["components"]["securitySchemes"])
    text = json.dumps(document["paths"])
    references = set(re.findall('"#/components/schemas/([^"]+)"', text))
    assert references < set(document["components"]["schemas"])
    # FastAPI gives two components of one name the names of their modules.
    own_names = json.loads(text.replace("graphjobs__web__problems__", ""))
    assert ours["paths"] == {path.removeprefix("/scheduler"): own_names[path] for path in own_names if path != "/build"}
    if error is Build:  # the generator does not tell models of one name apart
        assert [] == _generate(document, tmp_path)
