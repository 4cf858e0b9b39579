"""Request bodies, and clients of a caller of the tenant "acme", for tests."""

from typing import Any, Final

import httpx
from fastapi import FastAPI

from graphjobs.web import Caller, authenticated
from graphjobs.web.tokens import SCOPES

MISSING_ID: Final = "01a20aef-e103-7054-9083-74e4aa124c5a"
DIGEST: Final = "sha256:" + "a" * 64
JSON: Final = {"content-type": "application/json"}


def build_request(**fields: Any) -> dict[str, Any]:
    """Build the body of a build request."""
    return {"sbomId": "sbom", "sbomVersionId": "sbom@1", "sbomDigest": DIGEST, **fields}


def overlay_request(**fields: Any) -> dict[str, Any]:
    """Build the body of an overlay request."""
    return {"graphSnapshotId": "graph", "overlayKind": "policy", "overlayKey": "licences@1", **fields}


def policy_request(**fields: Any) -> dict[str, Any]:
    """Build the body of a request for a policy run."""
    return {"policyId": "P-7", "mode": "full", **fields}


async def acme() -> Caller:
    """Return a caller of the tenant "acme" with all scopes."""
    return Caller("acme", frozenset(SCOPES))


def acme_client(app: FastAPI) -> httpx.AsyncClient:
    """Return a client of an application that authenticates each request as `acme`."""
    app.dependency_overrides[authenticated] = acme
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")
