"""The OpenAPI document is complete, and schemathesis finds no difference between it and the service."""

import asyncio
import sys
from pathlib import Path

from fastapi import FastAPI

from graphjobs.web import create_app
from graphjobs.web.tokens import SCOPES, add_token
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


def test_each_route_documents_its_body_and_its_responses() -> None:
    """Bodies, problems with their media type, and the bearer token."""
    document = create_app().openapi()
    operations = {(method, path): op for path, ops in document["paths"].items() for method, op in ops.items()}
    assert set(operations) == _ROUTES
    for (method, path), operation in operations.items():
        assert operation["summary"]
        if path.startswith(("/graphs", "/policy")):
            assert [{"HTTPBearer": []}] == operation["security"]
            assert {"401", "403", "422", "503"} <= set(operation["responses"])
        for status, response in operation["responses"].items():
            media = "application/json" if status < "400" else "application/problem+json"
            assert [media] == list(response["content"])
        if method == "post" and path != "/graphs/jobs/{job_id}/cancel":
            schema = operation["requestBody"]["content"]["application/json"]["schema"]
            assert schema["additionalProperties"] is False
            assert "$ref" not in str(schema)  # a reference would have no target
            assert operation["requestBody"]["required"] is not path.startswith("/policy/runs/")


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
