"""The routes of graph jobs: HTTP in, HTTP out; they know the store and the service by their protocols only."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError, WithJsonSchema
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError, to_json

from graphjobs.errors import JobNotFound
from graphjobs.jobs.models import GraphBuildJob, GraphJobEvent, GraphOverlayJob
from graphjobs.jobs.queries import PAGE_DEFAULT, PAGE_MAX, GraphJobQuery, OverlayLag
from graphjobs.jobs.requests import GraphBuildRequest, GraphJobCompletion, GraphOverlayRequest
from graphjobs.jobs.status import GraphJobStatus, GraphJobType
from graphjobs.values import UtcTime, id_or_none
from graphjobs.web.authentication import Reader, Writer, actor_of
from graphjobs.web.bodies import body_of, documented, ignored_body
from graphjobs.web.dependencies import Service, Store
from graphjobs.web.problems import ProblemDocument, ProblemRoute, problems

graph_routes = APIRouter(prefix="/graphs", tags=["graphs"], route_class=ProblemRoute)

_TIME: TypeAdapter[datetime] = TypeAdapter(UtcTime)
