"""The OpenAPI document is complete, and schemathesis finds no difference between it and the service."""

import asyncio
import json
import re
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from fastapi import FastAPI

from graphjobs import InvalidJob
from graphjobs.core.fields import FrozenModel
from graphjobs.graph_jobs.requests import GraphBuildRequest, GraphJobCompletion, GraphOverlayRequest
from graphjobs.web import create_app
from graphjobs.web.routes.policies import (
    PolicyRunBody,
    PolicyRunCancelBody,
    PolicyRunRetryBody,
    PolicySimulationBody,
)
from graphjobs.web.tokens import SCOPES, add_token
from tests.web.requests import MISSING_ID
from tests.web.server import serving

_HERE = Path(__file__).parent
_ROUTES = {
    ("post", "/graphs/build"),
    ("post", "/graphs/overlays"),
    ("get", "/graphs/jobs"),
    ("get", "/graphs/jobs/{job_id}"),
    ("get", "/graphs/jobs/{job_id}/events"),
    ("post", "/graphs/jobs/{job_id}/cancel"),
    ("post", "/graphs/hooks/completed"),
    ("get", "/graphs/overlays/lag"),
    ("post", "/policy/runs"),
    ("get", "/policy/runs"),
    ("get", "/policy/runs/{run_id}"),
    ("post", "/policy/runs/{run_id}/cancel"),
    ("post", "/policy/runs/{run_id}/retry"),
    ("post", "/policy/simulations"),
    ("get", "/healthz"),
    ("get", "/readyz"),
}


_BODIES = [
    GraphBuildRequest,
    GraphOverlayRequest,
    GraphJobCompletion,
    PolicyRunBody,
    PolicySimulationBody,
    PolicyRunCancelBody,
    PolicyRunRetryBody,
]


def _operations(document: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(method, path): op for path, ops in document["paths"].items() for method, op in ops.items()}


def _schema(document: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    """Return a schema of the document as one that can be validated alone."""
    return {**node, "components": document["components"]}


def test_each_route_documents_its_body_and_its_responses() -> None:
    """References, examples, problems with their media type, the bearer token, and an operation id of its own."""
    document = create_app().openapi()
    operations = _operations(document)
    assert set(operations) == _ROUTES
    for (method, path), operation in operations.items():
        assert operation["summary"]
        assert re.fullmatch(r"[a-z]+(_[a-z]+)+", operation["operationId"])
        if path.startswith(("/graphs", "/policy")):
            assert [{"GraphJobsToken": []}] == operation["security"]
            assert {"401", "403", "422", "503"} <= set(operation["responses"])
        else:
            assert "security" not in operation
        contents = [(status, response["content"]) for status, response in operation["responses"].items()]
        if method == "post" and path != "/graphs/jobs/{job_id}/cancel":
            contents.append(("body", operation["requestBody"]["content"]))
            assert operation["requestBody"]["required"] is not path.startswith("/policy/runs/")
        for status, content in contents:
            media_type = "application/problem+json" if "400" <= status < "600" else "application/json"
            assert [media_type] == list(content)
            (media,) = content.values()
            assert ["$ref"] == list(media["schema"])
            if media_type == "application/json":
                jsonschema_rs.validate(_schema(document, media["schema"]), media["example"], validate_formats=True)
    ids = [operation["operationId"] for operation in operations.values()]
    assert len(ids) == len(set(ids))


def test_examples_of_components_are_valid() -> None:
    document = create_app().openapi()
    problem = document["components"]["schemas"]["GraphJobsProblem"]
    for example in problem["examples"]:
        jsonschema_rs.validate(_schema(document, problem), example)


def test_every_tag_has_a_description() -> None:
    document = create_app().openapi()
    used = {tag for operation in _operations(document).values() for tag in operation["tags"]}
    assert used == {tag["name"] for tag in document["tags"] if tag["description"]}


def test_the_type_of_a_job_selects_its_schema() -> None:
    document = create_app().openapi()
    schemas = document["components"]["schemas"]
    mapping = {
        kind: f"#/components/schemas/{name}"
        for kind, name in {"build": "GraphBuildJobView", "overlay": "GraphOverlayJobView"}.items()
    }
    assert {"propertyName": "type", "mapping": mapping} == schemas["GraphJobView"]["discriminator"]
    assert [{"$ref": reference} for reference in mapping.values()] == schemas["GraphJobView"]["oneOf"]


@pytest.mark.parametrize("body", _BODIES)
def test_a_body_has_one_schema(body: type[FrozenModel]) -> None:
    """The document has the schema of answers for each type, so requests must not have another one."""
    assert body.model_json_schema(mode="validation") == body.model_json_schema(mode="serialization")


@pytest.mark.parametrize(
    ("body", "fields", "is_valid"),
    [
        (GraphJobCompletion, {"jobId": MISSING_ID, "status": "failed", "error": "it broke"}, True),
        (GraphJobCompletion, {"jobId": MISSING_ID, "status": "failed"}, False),
        (GraphJobCompletion, {"jobId": MISSING_ID, "status": "completed", "error": "it broke"}, False),
        (GraphJobCompletion, {"jobId": MISSING_ID, "status": "completed", "error": None}, True),
        (PolicyRunBody, {"policyId": "p", "mode": "incremental", "inputs": {"sbomSet": ["s"]}}, True),
        (PolicyRunBody, {"policyId": "p", "mode": "incremental", "inputs": {"sbomSet": []}}, False),
        (PolicyRunBody, {"policyId": "p", "mode": "incremental"}, False),
        (PolicyRunBody, {"policyId": "p", "mode": "full"}, True),
        (PolicyRunBody, {"policyId": "p", "mode": "full", "queuedAt": "2026-11-03T09:30:00+01:00"}, True),
        (PolicyRunBody, {"policyId": "p", "mode": "full", "queuedAt": "2026-11-03t09:30:00z"}, False),
        (PolicyRunBody, {"policyId": "p", "mode": "full", "queuedAt": "2026-11-03T09:30:60Z"}, False),
        (PolicyRunBody, {"policyId": "p", "mode": "full", "queuedAt": "0000-11-03T09:30:00Z"}, False),
        (PolicyRunBody, {"policyId": "p", "mode": "full", "metadata": {"": "v"}}, False),
    ],
)
def test_the_schema_refuses_what_the_service_refuses(
    body: type[FrozenModel], fields: dict[str, Any], is_valid: bool
) -> None:
    """Rules of two fields, and times and keys that formats alone permit."""
    assert is_valid is jsonschema_rs.is_valid(body.model_json_schema(), fields, validate_formats=True)
    with nullcontext() if is_valid else pytest.raises(InvalidJob):
        body.from_json(json.dumps(fields))


async def test_schemathesis_finds_no_failure(app: FastAPI, token_file: Path, tenant: str, tmp_path: Path) -> None:
    token = add_token(token_file, tenant_id=tenant, scopes=SCOPES, name="fuzz")
    async with serving(app) as port:
        process = await asyncio.create_subprocess_exec(
            Path(sys.executable).with_name("schemathesis"),
            *("--config-file", str(_HERE / "schemathesis.toml")),
            *("run", f"http://127.0.0.1:{port}/openapi.json"),
            *("--header", f"Authorization: Bearer {token}", "--max-examples", "10", "--seed", "20261123"),
            *("--no-color", "--workers", "1", "--request-timeout", "10"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=tmp_path,  # it writes its findings here
        )
        try:
            async with asyncio.timeout(180):
                output, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    report = output.decode()
    assert process.returncode == 0, report[-6_000:]
    assert "Tested: 16" in report
    assert "Unresolvable" not in report
