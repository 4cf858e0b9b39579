"""The words and codes of graph jobs, as migration 014 stores them."""

import pytest

from graphjobs import GraphJobStatus, GraphJobType

Status = GraphJobStatus


def test_completed_failed_and_canceled_are_final() -> None:
    assert {Status.COMPLETED, Status.FAILED, Status.CANCELED} == {
        status for status in GraphJobStatus if status.is_final
    }


def test_codes_are_those_of_migration_014() -> None:
    """The .NET service wrote these codes."""
    assert {s.value: s.code for s in GraphJobStatus} == {
        "queued": 0,
        "running": 1,
        "completed": 2,
        "failed": 3,
        "canceled": 4,
    }
    assert {t.value: t.code for t in GraphJobType} == {"build": 0, "overlay": 1}


@pytest.mark.parametrize("code", [-1, 5, 99])
def test_an_unknown_code_is_rejected(code: int) -> None:
    with pytest.raises(ValueError, match=str(code)):
        Status.from_code(code)


@pytest.mark.parametrize("word", ["pending", "QUEUED", "", 0, None, True, b"queued"])
def test_an_unknown_word_is_rejected(word: object) -> None:
    with pytest.raises(ValueError, match="GraphJobStatus"):
        Status.parse(word)


def test_a_status_is_parsed_from_its_word_and_code() -> None:
    for status in GraphJobStatus:
        assert status is Status.parse(status.value)
        assert status is Status.parse(status)
        assert status is Status.from_code(status.code)
