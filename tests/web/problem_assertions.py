"""Assertions on problem documents."""

from http import HTTPStatus
from typing import Any

import httpx


def problem(response: httpx.Response, status: int) -> dict[str, Any]:
    """Return the problem document of a response, after its format is checked."""
    assert (status, "application/problem+json") == (response.status_code, response.headers["content-type"])
    document: dict[str, Any] = response.json()
    assert {"type", "title", "status", "detail", "requestId"} <= set(document)
    assert status == document["status"]
    # The phrases of RFC 9110, with each version of Python.
    assert document["title"] == {413: "Content Too Large", 422: "Unprocessable Content"}.get(
        status, HTTPStatus(status).phrase
    )
    assert response.headers["x-request-id"] == document["requestId"]
    return document


def invalid_fields(response: httpx.Response) -> list[str]:
    """Return the fields that a 422 response names."""
    return [error["field"] for error in problem(response, 422)["errors"]]
