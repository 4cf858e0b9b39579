"""The transition table, each pair of it, and the codes of migration 014."""

import itertools

import pytest

from graphjobs import GraphJobStatus, GraphJobType, IllegalTransition
from graphjobs.graph_jobs.status import TRANSITIONS

Status = GraphJobStatus

# Written out here once more, from the design: a slip in the table is a slip in one of two places.
_LEGAL = {
    (Status.QUEUED, Status.QUEUED),
    (Status.QUEUED, Status.RUNNING),
    (Status.QUEUED, Status.FAILED),
    (Status.QUEUED, Status.CANCELED),
    (Status.RUNNING, Status.RUNNING),
    (Status.RUNNING, Status.COMPLETED),
    (Status.RUNNING, Status.FAILED),
    (Status.RUNNING, Status.CANCELED),
    (Status.RUNNING, Status.QUEUED),
}


@pytest.mark.parametrize(("source", "target"), list(itertools.product(GraphJobStatus, GraphJobStatus)))
def test_every_pair_of_statuses_is_legal_or_refused_as_the_design_says(
    source: GraphJobStatus, target: GraphJobStatus
) -> None:
    """A legal move passes; any other names both words."""
    if (source, target) in _LEGAL:
        source.require_transition(target)
        assert target in TRANSITIONS[source]
    else:
        with pytest.raises(IllegalTransition, match=f"from {source} to {target}") as caught:
            source.require_transition(target)
        assert (str(source), str(target)) == (caught.value.expected, caught.value.target)


def test_final_statuses_lead_nowhere() -> None:
    """Completed, failed and canceled are final, and only they."""
    assert {Status.COMPLETED, Status.FAILED, Status.CANCELED} == {
        status for status in GraphJobStatus if status.is_final
    }


def test_codes_are_those_of_migration_014() -> None:
    """The SMALLINT columns hold what the .NET side wrote."""
    assert {s.value: s.code for s in GraphJobStatus} == {
        "queued": 0,
        "running": 1,
        "completed": 2,
        "failed": 3,
        "canceled": 4,
    }
    assert {t.value: t.code for t in GraphJobType} == {"build": 0, "overlay": 1}


@pytest.mark.parametrize("code", [-1, 5, 99])
def test_an_unknown_code_is_refused(code: int) -> None:
    """A number no status has is no status."""
    with pytest.raises(ValueError, match=str(code)):
        Status.from_code(code)


@pytest.mark.parametrize("word", ["pending", "QUEUED", "", 0, None, True, b"queued"])
def test_an_unknown_word_is_refused(word: object) -> None:
    """Only the wire words are taken: not the old ones, not their codes."""
    with pytest.raises(ValueError, match="GraphJobStatus"):
        Status.parse(word)


def test_words_and_codes_lead_back_to_their_member() -> None:
    """Each member is found by its word, by itself and by its code."""
    for status in GraphJobStatus:
        assert status is Status.parse(status.value)
        assert status is Status.parse(status)
        assert status is Status.from_code(status.code)
