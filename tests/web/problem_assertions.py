"""What tests look at in an answer: a problem document, and the fields it names."""

from typing import Any

import httpx


def problem(response: httpx.Response, status: int) -> dict[str, Any]:
    """The document, after its form was looked at."""
    assert (status, "application/problem+json") == (response.status_code, response.headers["content-type"])
    document: dict[str, Any] = response.json()
    assert {"type", "title", "status", "detail", "requestId"} <= set(document)
    assert status == document["status"]
    assert response.headers["x-request-id"] == document["requestId"]
    return document


def fields(response: httpx.Response) -> list[str]:
    """The fields a 422 names."""
    return [error["field"] for error in problem(response, 422)["errors"]]
