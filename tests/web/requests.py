"""Requests for tests, with what a test does not care about filled in."""

from typing import Any, Final

DIGEST: Final = "sha256:" + "a" * 64


def build_request(**fields: Any) -> dict[str, Any]:
    """The body of a build request."""
    return {"sbomId": "sbom", "sbomVersionId": "sbom@1", "sbomDigest": DIGEST, **fields}


def overlay_request(**fields: Any) -> dict[str, Any]:
    """The body of an overlay request."""
    return {"graphSnapshotId": "graph", "overlayKind": "policy", "overlayKey": "licences@1", **fields}


def policy_request(**fields: Any) -> dict[str, Any]:
    """The body of a request for a policy run."""
    return {"policyId": "P-7", "mode": "full", **fields}
