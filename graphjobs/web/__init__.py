"""FastAPI routes, authentication and an application for graph jobs and policy runs; needs the extra `web`.

app = FastAPI()
add_scheduler_postgres_storage(app)
app.include_router(graph_routes)
app.include_router(policy_routes)
"""

from graphjobs.web.app import (
    add_scheduler_postgres_storage,
    create_app,
    use_graph_job_store,
    use_policy_runs,
    use_storage,
)
from graphjobs.web.auth import Caller, authenticated
from graphjobs.web.dependencies import (
    graph_job_service,
    graph_job_store,
    policy_run_repository,
    policy_run_service,
)
from graphjobs.web.operations import openapi_tags
from graphjobs.web.routes.graphs import graph_routes
from graphjobs.web.routes.health import health_routes
from graphjobs.web.routes.policies import policy_routes

__all__ = [
    "Caller",
    "add_scheduler_postgres_storage",
    "authenticated",
    "create_app",
    "graph_job_service",
    "graph_job_store",
    "graph_routes",
    "health_routes",
    "openapi_tags",
    "policy_routes",
    "policy_run_repository",
    "policy_run_service",
    "use_graph_job_store",
    "use_policy_runs",
    "use_storage",
]
