"""No ordinary way makes an invalid value: a store could write one, and could not read it back."""

import copy
import pickle
from collections.abc import Callable
from typing import Any, Final

import pytest

import graphjobs
from graphjobs.core.fields import FrozenModel
from graphjobs.errors import InvalidJob
from tests.builders import build_job, overlay_job, policy_run, run_request

_FROM_JOB: Final = {"sbom_id", "sbom_version_id", "sbom_digest", "trigger", "metadata"}
_JOB: Final = build_job(metadata={"by": "ci"})
_EVENT: Final[dict[str, Any]] = {"job_id": _JOB.id, "tenant_id": "acme", "payload": {"a": [1, {"b": 1e30}]}}
_VALUES: Final[list[FrozenModel]] = [
    _JOB,
    overlay_job(subjects=["b", "a"]),
    graphjobs.GraphBuildRequest(**_JOB.model_dump(include=_FROM_JOB)),
    graphjobs.GraphOverlayRequest(graph_snapshot_id="g", overlay_kind="vex", overlay_key="k", trigger="vex"),
    graphjobs.GraphJobCompletion(job_id=_JOB.id, status="failed", error="no space"),
    graphjobs.GraphJobEvent(status=graphjobs.GraphJobStatus.QUEUED, **_EVENT),
    graphjobs.GraphJobQuery(statuses=(graphjobs.GraphJobStatus.QUEUED,)),
    policy_run(inputs=graphjobs.PolicyRunInputs(sbom_set=("a",), environment={"sealed": True})),
    run_request(metadata={"by": "ci"}),
    graphjobs.PolicyRunInputs(environment={"deep": {"er": [None, 2.5]}}),
    graphjobs.PolicyRunCompletion(run_id="r", status="completed"),
    graphjobs.PolicyRunEvent(status=graphjobs.PolicyRunStatus.PENDING, **_EVENT),
    graphjobs.PolicyRunQuery(policy_id="P-7"),
]


def _unpickle(value: Any, bad: dict[str, Any], protocol: int = pickle.HIGHEST_PROTOCOL) -> object:
    """Pickle a value with invalid fields, as a change of the bytes would make it."""
    changed = copy.copy(value)
    changed.__dict__.update(bad)
    return pickle.loads(pickle.dumps([changed], protocol))  # noqa: S301  # our own bytes


_WAYS: Final[dict[str, Callable[[Any, dict[str, Any]], object]]] = {
    "replace": lambda value, bad: value.replace(**bad),
    "copy.replace": lambda value, bad: value.__replace__(**bad),
    "model_copy": lambda value, bad: value.model_copy(update=bad),
    "model_copy, deep": lambda value, bad: value.model_copy(update=bad, deep=True),
    "copy": lambda value, bad: value.copy(update=bad),
    "model_construct": lambda value, bad: type(value).model_construct(set(bad), **{**value.__dict__, **bad}),
    "pickle": _unpickle,
    "oldest pickle": lambda value, bad: _unpickle(value, bad, 0),
    "__setstate__": lambda value, bad: copy.copy(value).__setstate__(
        {**value.__getstate__(), "__dict__": {**value.__dict__, **bad}}
    ),
}


@pytest.mark.parametrize("way", _WAYS)
@pytest.mark.parametrize("value", _VALUES, ids=lambda value: type(value).__name__)
def test_an_invalid_field_is_named_and_never_stored(value: FrozenModel, way: str) -> None:
    for field in type(value).model_fields:
        with pytest.raises(InvalidJob) as caught:
            _WAYS[way](value, {field: object()})
        assert field == (caught.value.field or "").partition(".")[0]
    with pytest.raises(InvalidJob, match="sbomFoo"):
        _WAYS[way](value, {"sbomFoo": 1})


@pytest.mark.parametrize("way", _WAYS)
def test_invariants_hold_whatever_makes_the_value(way: str) -> None:
    for value in (build_job(), policy_run()):
        with pytest.raises(InvalidJob, match="completed"):
            _WAYS[way](value, {"status": "completed"})


@pytest.mark.parametrize("value", _VALUES, ids=lambda value: type(value).__name__)
def test_a_valid_value_survives_every_copy(value: FrozenModel) -> None:
    pickled = (pickle.loads(pickle.dumps(value, protocol)) for protocol in range(6))  # noqa: S301  # our own bytes
    for twin in (
        copy.copy(value),
        copy.deepcopy(value),
        value.model_copy(),
        type(value).model_construct(**value.__dict__),
        *pickled,
    ):
        assert value == twin
        assert value.to_json() == twin.to_json()
    assert value.model_fields_set == pickle.loads(pickle.dumps(value)).model_fields_set  # noqa: S301


def test_the_cases_are_all_public_models() -> None:
    public = {kind for kind in vars(graphjobs).values() if isinstance(kind, type) and issubclass(kind, FrozenModel)}
    assert public == {type(value) for value in _VALUES}
