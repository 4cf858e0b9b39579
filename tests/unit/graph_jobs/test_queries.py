"""Queries of graph jobs and their cursors."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphjobs import GraphJobQuery, GraphJobStatus, GraphJobType, InvalidJob
from graphjobs.core.pagination import BoundedCount, PageKey
from tests.builders import AT


@given(
    st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29), timezones=st.just(UTC)),  # noqa: DTZ001
    st.uuids(),
)
def test_a_cursor_keeps_its_position(time: datetime, job_id: UUID) -> None:
    queued, running = GraphJobStatus.QUEUED, GraphJobStatus.RUNNING
    query = GraphJobQuery(statuses=(running, queued))
    cursor = query.cursor_after("acme", PageKey(time, job_id))
    same = GraphJobQuery(statuses=(queued, running, queued), limit=7, cursor=cursor)
    assert (time, job_id) == same.page_key("acme")


@given(st.text(min_size=1, max_size=256))
def test_any_other_text_is_an_invalid_cursor(cursor: str) -> None:
    with pytest.raises(InvalidJob) as caught:
        GraphJobQuery(cursor=cursor).page_key("acme")
    assert caught.value.field == "cursor"


def test_a_cursor_is_bound_to_tenant_and_filters() -> None:
    cursor = GraphJobQuery().cursor_after("acme", PageKey(AT, UUID(int=1)))
    assert (AT, UUID(int=1)) == GraphJobQuery(limit=3, cursor=cursor).page_key("acme")
    changed = [
        GraphJobQuery(type=GraphJobType.BUILD, cursor=cursor),
        GraphJobQuery(statuses=(GraphJobStatus.QUEUED,), cursor=cursor),
        GraphJobQuery(correlation_id="c", cursor=cursor),
        GraphJobQuery(created_from=AT, cursor=cursor),
        GraphJobQuery(created_to=AT, cursor=cursor),
    ]
    for query, tenant in [(query, "acme") for query in changed] + [(GraphJobQuery(cursor=cursor), "globex")]:
        with pytest.raises(InvalidJob, match="belongs to another query"):
            query.page_key(tenant)


@pytest.mark.parametrize(
    ("fields", "field", "reason"),
    [
        ({"correlation_id": "c", "type": "build"}, "", "no index has them together"),
        ({"correlation_id": "c", "statuses": ("queued",)}, "", "no index has them together"),
        ({"created_from": AT, "created_to": AT}, "", "earlier"),
        ({"limit": 0}, "limit", "greater"),
        ({"limit": 1_001}, "limit", "less"),
        ({"limit": True}, "limit", "integer"),
        ({"statuses": ("pending",)}, "statuses.0", "queued"),
        ({"statuses": ("queued",) * 6}, "statuses", "5"),
        ({"type": 0}, "type", "build"),
        ({"created_from": AT.replace(tzinfo=None)}, "created_from", "time"),
        ({"cursor": "x" * 257}, "cursor", "256"),
        ({"tenant_id": "acme"}, "tenant_id", "Extra"),
    ],
)
def test_an_invalid_filter_is_rejected_with_its_field(fields: dict[str, object], field: str, reason: str) -> None:
    with pytest.raises(InvalidJob, match=reason) as caught:
        GraphJobQuery(**fields)  # type: ignore[arg-type]
    assert field == caught.value.field


def test_a_range_excludes_its_end() -> None:
    start = GraphJobQuery(created_to=AT).page_key("acme")
    assert (AT - timedelta(microseconds=1), 2**128 - 1) == (start.at, start.id.int)


def test_the_text_of_a_count_shows_if_it_is_exact() -> None:
    assert ["7", "more than 7"] == [str(BoundedCount(7)), str(BoundedCount(7, exact=False))]
