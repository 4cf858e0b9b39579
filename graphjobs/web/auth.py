"""Who calls, for which tenant, and what they may do. A host with its own authentication replaces `authenticated`."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from graphjobs.web.problems import Problem, request_id
from graphjobs.web.tokens import TokenFile

_bearer = HTTPBearer(auto_error=False, description="A token of `graphjobs tokens add`, or what the host takes.")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls.

    Attributes:
        tenant_id: the tenant the call is for; nothing in a request can name another.
        scopes: `graph:read`, `graph:write`, `policy:read`, `policy:run`.
        name: up to 128 characters, for the log of events, and for who asked for a policy run.
    """

    tenant_id: str
    scopes: frozenset[str]
    name: str = "caller"


async def authenticated(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]
) -> Caller:
    """Tells who calls, by a bearer token of the token file.

    A host replaces this one function::

        app.dependency_overrides[authenticated] = my_own  # gives a Caller, or raises an HTTPException

    Raises:
        Problem: 401, where there is no token, or none that is known.
    """
    tokens: TokenFile | None = getattr(request.app.state, "graphjobs_tokens", None)
    grant = tokens.grant(credentials.credentials) if tokens and credentials else None
    if grant is None:
        detail = "this needs a bearer token that is known here"
        raise Problem(401, "unauthorized", detail, headers={"WWW-Authenticate": "Bearer"})
    return Caller(grant.tenant_id, grant.scopes, grant.name)


@cache
def allowed_to(scope: str) -> Callable[..., Coroutine[Any, Any, Caller]]:
    """Gives the dependency that lets those callers pass who have a scope.

    It is the same one each time, so that FastAPI asks it once a request, whatever else of a route needs it, too.
    """

    async def allowed(caller: Annotated[Caller, Depends(authenticated)]) -> Caller:
        if scope not in caller.scopes:
            raise Problem(403, "forbidden", f"this needs the scope {scope}")
        return caller

    return allowed


def actor_of(caller: Caller, request: Request) -> str:
    """Names who asked, and the request they asked by, for the log of events."""
    return f"{caller.name[:128]} request {request_id(request)}"
