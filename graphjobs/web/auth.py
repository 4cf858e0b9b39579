"""Authentication and scopes of callers. A host with its own authentication overrides `authenticated`."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import cache
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from graphjobs.web.problems import Problem, request_id
from graphjobs.web.request_limit import tenant_request
from graphjobs.web.tokens import TokenFile

_bearer = HTTPBearer(
    scheme_name="GraphJobsToken",  # a host may have a scheme with the default name, HTTPBearer
    description="A token of `graphjobs tokens add`, or one that the host accepts.",
    auto_error=False,
)


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated caller.

    Attributes:
        tenant_id: the tenant of the caller; no part of a request selects another one.
        scopes: any of `graph:read`, `graph:write`, `graph:complete`, `policy:read`, `policy:run`, `policy:emergency`.
        name: at most 128 characters are used, as actor of events and as `requestedBy` of policy runs.
    """

    tenant_id: str
    scopes: frozenset[str]
    name: str = "caller"


async def authenticated(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]
) -> Caller:
    """Return the caller of a bearer token of the token file.

    A host overrides this function::

        app.dependency_overrides[authenticated] = my_own  # returns a Caller, or raises an HTTPException

    Raises:
        Problem: 401 without a token, or with an unknown one.
    """
    tokens: TokenFile | None = getattr(request.app.state, "graphjobs_tokens", None)
    grant = tokens.grant(credentials.credentials) if tokens and credentials else None
    if grant is None:
        raise Problem(401, "unauthorized", "a known bearer token is required", headers={"WWW-Authenticate": "Bearer"})
    return Caller(grant.tenant_id, grant.scopes, grant.name)


@cache
def require_scope(scope: str) -> Callable[..., AsyncIterator[Caller]]:
    """Return the dependency that returns the caller, or answers 403 if the caller does not have a scope.

    The request counts as one of the caller's tenant until its response is sent.

    It is cached by scope: FastAPI calls the same dependency once per request, even if a route needs it twice.
    """

    async def scoped(request: Request, caller: Annotated[Caller, Depends(authenticated)]) -> AsyncIterator[Caller]:
        check_scope(caller, scope)
        with tenant_request(request, caller.tenant_id):
            yield caller

    return scoped


def check_scope(caller: Caller, scope: str) -> None:
    """Answer 403 if the caller does not have a scope."""
    if scope not in caller.scopes:
        raise Problem(403, "forbidden", f"the caller needs the scope {scope}")


def event_actor(caller: Caller, request: Request) -> str:
    """Return the actor of an event: the name of the caller and the id of the request."""
    return f"{caller.name[:128]} request {request_id(request)}"
