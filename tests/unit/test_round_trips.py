"""Values survive their JSON: `model_validate` reads what `model_dump(mode="json")` wrote, also through text."""

import json
from collections import ChainMap
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import graphjobs
from graphjobs import (
    GraphBuildRequest,
    GraphJobCompletion,
    GraphJobEvent,
    GraphJobQuery,
    GraphOverlayRequest,
    PolicyRunCompletion,
    PolicyRunEvent,
    PolicyRunQuery,
    PolicyRunRequest,
)
from graphjobs.core.fields import FrozenModel
from tests.unit.backfill.values import LINES, NAMES, STORED_TIMES, TIMES, UUIDS, events, graph_jobs, policy_runs


def _build(
    model: type[FrozenModel], *shared: st.SearchStrategy[dict[str, Any]], **fields: st.SearchStrategy[Any]
) -> st.SearchStrategy[FrozenModel]:
    """Build values of fields; `st.builds` would draw each required field a second time, under its alias."""
    return st.tuples(st.fixed_dictionaries(fields), *shared).map(lambda drawn: model(**dict(ChainMap(*drawn))))


_INPUTS = policy_runs().map(lambda run: run.inputs)
_REQUEST = st.fixed_dictionaries(
    {"metadata": st.dictionaries(NAMES, LINES, max_size=3), "correlation_id": st.none() | NAMES}
)
_ENDS = st.just({"status": "completed"}) | LINES.map(lambda error: {"status": "failed", "error": error})
_VALUES: dict[str, st.SearchStrategy[FrozenModel]] = {
    "GraphJob": graph_jobs(),
    "PolicyRunJob": policy_runs(),
    "GraphJobEvent": events(GraphJobEvent),
    "PolicyRunEvent": events(PolicyRunEvent),
    "PolicyRunInputs": _INPUTS,
    "GraphBuildRequest": _build(
        GraphBuildRequest,
        _REQUEST,
        sbom_id=NAMES,
        sbom_version_id=NAMES,
        sbom_digest=st.just("sha256:" + "a" * 64),
    ),
    "GraphOverlayRequest": _build(
        GraphOverlayRequest,
        _REQUEST,
        graph_snapshot_id=NAMES,
        build_job_id=st.none() | UUIDS,
        overlay_kind=st.sampled_from(["policy", "advisory", "vex"]),
        overlay_key=NAMES,
        subjects=st.lists(NAMES, max_size=3),
    ),
    "PolicyRunRequest": _build(
        PolicyRunRequest,
        _REQUEST,
        tenant_id=NAMES,
        policy_id=NAMES,
        mode=st.sampled_from(["full", "incremental", "simulate"]),
        inputs=_INPUTS,
        queued_at=STORED_TIMES,
    ),
    "GraphJobCompletion": _build(
        GraphJobCompletion,
        _ENDS,
        job_id=UUIDS,
        graph_snapshot_id=NAMES,
        attempts=st.none() | st.integers(1, 99_999),
    ),
    "PolicyRunCompletion": _build(PolicyRunCompletion, _ENDS, run_id=NAMES),
    "GraphJobQuery": _build(
        GraphJobQuery, type=st.none() | st.sampled_from(["build", "overlay"]), created_from=st.none() | TIMES
    )
    | _build(GraphJobQuery, statuses=st.lists(st.sampled_from(graphjobs.GraphJobStatus), max_size=3)),
    "PolicyRunQuery": _build(PolicyRunQuery, statuses=st.lists(st.sampled_from(graphjobs.PolicyRunStatus), max_size=3))
    | _build(PolicyRunQuery, policy_id=NAMES, queued_after=STORED_TIMES),
}


@settings(max_examples=25)
@given(st.data())
@pytest.mark.parametrize("name", _VALUES)
def test_values_survive_their_json(name: str, data: st.DataObject) -> None:
    value = data.draw(_VALUES[name])
    written: dict[str, Any] = value.model_dump(mode="json")
    assert value == type(value).model_validate(written)
    assert value == type(value).model_validate(json.loads(json.dumps(written)))
    assert value == type(value).model_validate_json(value.model_dump_json())


def test_each_public_value_is_drawn() -> None:
    """`Settings` has a URL that may hold a password, which it does not write."""
    public = {
        name
        for name in graphjobs.__all__
        if isinstance(value := getattr(graphjobs, name), type) and issubclass(value, FrozenModel)
    }
    assert public - {"GraphBuildJob", "GraphOverlayJob", "Settings"} == set(_VALUES) - {"GraphJob"}
