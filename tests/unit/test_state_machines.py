"""The legal and illegal transitions of graph jobs and policy runs."""

import itertools
from typing import Any

import pytest

from graphjobs import GraphJobStatus, IllegalTransition
from graphjobs.graph_jobs.status import TRANSITIONS as JOB_TRANSITIONS
from graphjobs.policy_runs.status import TRANSITIONS as RUN_TRANSITIONS
from graphjobs.policy_runs.status import PolicyRunStatus

# The legal targets repeat the design, so that an error in TRANSITIONS is found.
_LEGAL_TARGETS = {
    GraphJobStatus.QUEUED: {"queued", "running", "failed", "canceled"},
    GraphJobStatus.RUNNING: {"running", "completed", "failed", "canceled", "queued"},
    PolicyRunStatus.PENDING: {"dispatching", "canceled"},
    PolicyRunStatus.DISPATCHING: {"dispatching", "submitted", "pending", "failed", "canceled"},
    PolicyRunStatus.SUBMITTED: {"submitted", "completed", "failed", "canceled"},
}
_PAIRS = [*itertools.product(GraphJobStatus, GraphJobStatus), *itertools.product(PolicyRunStatus, PolicyRunStatus)]


@pytest.mark.parametrize(("source", "target"), _PAIRS)
def test_only_the_transitions_of_the_design_are_legal(source: Any, target: Any) -> None:
    """An illegal transition raises an error with both statuses."""
    transitions: Any = JOB_TRANSITIONS if isinstance(source, GraphJobStatus) else RUN_TRANSITIONS
    if target.value in _LEGAL_TARGETS.get(source, set()):
        source.require_transition(target)
        assert target in transitions[source]
    else:
        entity = "graph job" if isinstance(source, GraphJobStatus) else "policy run"
        with pytest.raises(IllegalTransition, match=f"a {entity} cannot go from {source} to {target}") as caught:
            source.require_transition(target)
        assert (str(source), str(target)) == (caught.value.expected, caught.value.target)
