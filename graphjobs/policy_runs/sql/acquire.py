"""Every SQL statement that looks for work: leases, and leases that have run out; as constants with named binds.

What holds for `single` holds here, but for three that serve everybody, and look across tenants: `LEASE_RUNS`,
`FIND_LEASED_RUNS` and `LIST_EXPIRED_RUNS`. Whoever looks waits for nobody, and skips what others hold. Times are the
database's.

"""

from collections.abc import Callable
from typing import Any, Final

from sqlalchemy import (
    CTE,
    BigInteger,
    ColumnElement,
    FromClause,
    Integer,
    Select,
    Text,
    Uuid,
    bindparam,
    case,
    exists,
    func,
    literal_column,
    null,
    or_,
    select,
    text,
    true,
    union_all,
    update,
)
from sqlalchemy import cast as as_type
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from graphjobs.core.event_log import insert_events
from graphjobs.database.sql_expressions import AFTER_TENANT, ONE, jsonb_merge, next_version, rotating_tenants
from graphjobs.policy_runs.sql.single import EVENTS, LEASE_DURATION, LIMIT, RUNS, TENANT, TENANT_KEY, code, run_columns
from graphjobs.policy_runs.status import PolicyRunPriority, PolicyRunStatus

Status = PolicyRunStatus

OVERDUE_EVERY: Final = 8
"""Of so many runs that a lease takes of a tenant, one is the longest waiting of normal priority, if it is overdue."""

_OVERDUE: Final = text("interval '10 minutes'")
"""So long a normal run may wait for high ones; after that it is overdue."""

_PENDING, _DISPATCHING = code(Status.PENDING), code(Status.DISPATCHING)
_OWNER: Final = bindparam("p_lease_owner", type_=Text)
_EVENT_PAYLOAD: Final = as_type(bindparam("p_event_payload", type_=Text), JSONB)
_ROTATION_OFFSET: Final = bindparam("p_rotation_offset", type_=BigInteger)
_AFTER_EMERGENCY_TENANT: Final = bindparam("p_after_emergency_tenant_id", type_=Text)
_NO_CURSORS: Final = (as_type(null(), Text), as_type(null(), Text))


def _pending(priority: PolicyRunPriority) -> ColumnElement[bool]:
    return (RUNS.c.status == _PENDING) & (RUNS.c.priority == literal_column(str(priority.code)))


def _next_tenant(*priorities: PolicyRunPriority) -> Callable[..., ColumnElement[Any]]:
    """A step to the next tenant that has a pending run of one of these priorities, one descent of an index each."""

    def step(within: Callable[[ColumnElement[str]], ColumnElement[bool]]) -> ColumnElement[Any]:
        of_each = [
            select(RUNS.c.tenant_id)
            .where(_pending(priority), TENANT_KEY >= literal_column("''"), within(TENANT_KEY))
            .order_by(TENANT_KEY)
            .limit(ONE)
            .scalar_subquery()
            .collate("C")
            for priority in priorities
        ]
        return func.least(*of_each) if len(of_each) > 1 else of_each[0]

    return step


def _has_available(*priorities: PolicyRunPriority) -> Callable[[CTE], ColumnElement[bool]]:
    """Whether a tenant that was met has a run that can be taken; it is locked, so that it will be.

    One whose runs somebody else holds is passed over: he would keep others from their turn, for as long as that lasts.
    """

    def has_some(walk: CTE) -> ColumnElement[bool]:
        return or_(
            *(
                select(RUNS.c.available_at)
                .where(_pending(priority), TENANT_KEY == walk.c.tenant, RUNS.c.available_at <= func.now())
                .order_by(RUNS.c.available_at)
                .limit(ONE)
                .with_for_update(key_share=True, skip_locked=True)
                .scalar_subquery()
                .is_not(None)
                for priority in priorities
            )
        )

    return has_some


def _oldest(
    whose: FromClause, priority: PolicyRunPriority, most: Any, *conditions: ColumnElement[bool], overdue: bool = False
) -> Select[Any]:
    """Locks the runs of a tenant and priority that have been available for longest."""
    latest = func.now() - _OVERDUE if overdue else func.now()
    return (
        select(RUNS.c.id)
        .where(_pending(priority), TENANT_KEY == whose.c.tenant, RUNS.c.available_at <= latest, *conditions)
        # The index's own order, of which ties are no part: with the ids, all runs of a time would be read and sorted.
        .order_by(RUNS.c.available_at)
        .limit(most)
        .with_for_update(key_share=True, skip_locked=True)
    )


def _pick_by_priority(shares: CTE, *, with_emergencies: bool) -> Select[Any]:
    """What each tenant gets of its share: emergencies, then one in eight if overdue, then high, then normal runs."""
    before: list[FromClause] = [shares]
    left: ColumnElement[Any] = shares.c.share
    joined: FromClause = shares

    def take(name: str, priority: PolicyRunPriority, most: Any, *conditions: Any, overdue: bool = False) -> FromClause:
        nonlocal joined, left
        # An array each, whose length the next one's limit is lessened by: no more is locked than is taken.
        found = _oldest(shares, priority, most, *conditions, overdue=overdue).correlate(*before).scalar_subquery()
        # The offset is a fence: pulled up, what locks would run once more for each place that asks what was taken.
        ids = select(func.array(found, type_=ARRAY(Uuid)).label("ids")).offset(literal_column("0"))
        taken = ids.lateral(name)
        before.append(taken)
        joined = joined.join(taken, true())
        left = left - func.cardinality(taken.c.ids)
        return taken

    if with_emergencies:
        take("emergency", PolicyRunPriority.EMERGENCY, left)
    # By turns: of a share smaller than eight, one lease in some takes an overdue run, and no remainder is lost.
    due = func.least(left, (shares.c.share + _ROTATION_OFFSET) // literal_column(str(OVERDUE_EVERY), BigInteger))
    overdue = take("overdue", PolicyRunPriority.NORMAL, due, overdue=True)
    take("high", PolicyRunPriority.HIGH, left)
    # Locked by this very statement, what is overdue would be met again.
    take("normal", PolicyRunPriority.NORMAL, left, RUNS.c.id != func.all(overdue.c.ids))
    first, *others = (taken.c.ids for taken in before[1:])
    whole: ColumnElement[Any] = first
    for ids in others:
        whole = func.array_cat(whole, ids)
    return select(func.unnest(whole).label("id")).select_from(joined)


def _mark_leased(picked: CTE, tenants: Any, *turns: ColumnElement[Any]) -> Select[Any]:
    leased = (
        update(RUNS)
        .where(
            RUNS.c.id == func.any(func.array(select(picked.c.id).scalar_subquery(), type_=ARRAY(Uuid))),
            TENANT_KEY == tenants,
            # The cast takes the indexes of what is pending out of the planner's choice.
            as_type(RUNS.c.status, Integer) == _PENDING,
        )
        .values(
            status=_DISPATCHING,
            # One that has had as many as can be told of stays there, and is failed at once.
            attempts=func.least(RUNS.c.attempts + ONE, literal_column("99999")),
            last_attempt_at=func.now(),
            lease_owner=_OWNER,
            lease_expires_at=func.now() + LEASE_DURATION,
            updated_at=next_version(RUNS.c.updated_at),
        )
        .returning(*RUNS.c)
        .cte("leased")
    )
    told = func.jsonb_build_object(literal_column("'attempts'"), leased.c.attempts)
    log = insert_events(
        EVENTS,
        select(
            leased.c.id, leased.c.tenant_id, leased.c.status, jsonb_merge(_EVENT_PAYLOAD, told), leased.c.updated_at
        ),
        "logged",
    )
    return (
        run_columns(leased)
        .add_columns(_counted_attempts(leased), *turns)
        .order_by(leased.c.priority.desc(), leased.c.available_at, leased.c.id)
        .add_cte(log)
    )


def _counted_attempts(runs: FromClause) -> ColumnElement[int]:
    """How many attempts of a run count; its log is asked only where they may be used up."""
    return case(
        (runs.c.attempts >= bindparam("p_attempts_max", type_=Integer), runs.c.attempts - _released(runs)),
        else_=runs.c.attempts,
    )


def _released(runs: FromClause) -> ColumnElement[int]:
    """How many attempts of a run were given back in order: they do it no harm."""
    payload = EVENTS.c.payload
    return (
        select(func.count(EVENTS.c.id))
        .where(
            EVENTS.c.job_id == runs.c.id,
            EVENTS.c.tenant_id == runs.c.tenant_id,
            EVENTS.c.status == _PENDING,
            payload.op("->>", return_type=Text)(literal_column("'from'")) == literal_column(f"'{Status.DISPATCHING}'"),
            payload.op("->", return_type=JSONB)(literal_column("'error'")).is_(None),
        )
        .correlate(runs)
        .scalar_subquery()
    )


def _lease_any_tenant() -> Select[Any]:
    def tenants_with(name: str, *priorities: PolicyRunPriority, after: Any, only_if: Any = None) -> CTE:
        walked = rotating_tenants(
            name, _next_tenant(*priorities), _has_available(*priorities), after=after, only_if=only_if
        )
        listed = walked.limit(LIMIT).subquery(f"{name}_listed")
        turn = func.row_number().over().label("turn")
        return select(listed.c.tenant, turn).cte(name).prefix_with("MATERIALIZED")

    def shared(tenants: CTE, name: str) -> CTE:
        number = select(func.count(tenants.c.tenant).label("number")).subquery(f"{name}_number")
        left_over = case((tenants.c.turn <= LIMIT % number.c.number, ONE), else_=literal_column("0"))
        share = (LIMIT // number.c.number + left_over).label("share")
        shares = select(tenants.c.tenant, tenants.c.turn, share, number.c.number).join_from(tenants, number, true())
        return shares.cte(name).prefix_with("MATERIALIZED")

    urgent = shared(tenants_with("urgent", PolicyRunPriority.EMERGENCY, after=_AFTER_EMERGENCY_TENANT), "urgent_shares")
    emergencies = _oldest(urgent, PolicyRunPriority.EMERGENCY, urgent.c.share).lateral("emergencies")
    first = select(emergencies.c.id).join_from(urgent, emergencies, true()).cte("first").prefix_with("MATERIALIZED")
    none_taken = ~exists(select(first.c.id))
    others = shared(
        tenants_with(
            "waiting", PolicyRunPriority.HIGH, PolicyRunPriority.NORMAL, after=AFTER_TENANT, only_if=none_taken
        ),
        "shares",
    )
    picked = (
        union_all(select(first.c.id), _pick_by_priority(others, with_emergencies=False))
        .cte("picked")
        .prefix_with("MATERIALIZED")
    )

    def last_of(shares: CTE) -> ColumnElement[Any]:
        # Where all have been served, another is the first next time: those get what is left over of the shares.
        place = case((shares.c.number < LIMIT, ONE), else_=shares.c.number)
        return select(shares.c.tenant).where(shares.c.turn == place).scalar_subquery()

    served = union_all(select(urgent.c.tenant), select(others.c.tenant)).subquery("served")
    return _mark_leased(
        picked,
        func.any(func.array(select(served.c.tenant).scalar_subquery(), type_=ARRAY(Text))),
        last_of(urgent),
        last_of(others),
    )


LEASE_RUNS: Final = _lease_any_tenant()
"""Leases pending runs of everybody's, with an event each: emergencies before all, else tenants by turns.

Gives each run, how many tries it has had with this one, and whose turn it was last: among those with emergencies, and
among others; each of them only where runs of theirs were taken, for they take turns apart. It looks across tenants.
"""


def _lease_tenant() -> Select[Any]:
    asked = select(as_type(TENANT, Text).label("tenant"), as_type(LIMIT, BigInteger).label("share")).cte("asked")
    picked = _pick_by_priority(asked, with_emergencies=True).cte("picked").prefix_with("MATERIALIZED")
    return _mark_leased(picked, TENANT, *_NO_CURSORS)


LEASE_RUNS_OF_TENANT: Final = _lease_tenant()
"""As `LEASE_RUNS`, of one tenant."""

FIND_LEASED_RUNS: Final = (
    run_columns(RUNS)
    .add_columns(_counted_attempts(RUNS), *_NO_CURSORS)
    .where(
        RUNS.c.status == _DISPATCHING,
        RUNS.c.lease_owner == _OWNER,
        # The newest lease: its end may have been asked for since. One for each run: as EXISTS, the planner may begin
        # with the log of all runs.
        select(EVENTS.c.payload.op("->>", return_type=Text)(literal_column("'transitionId'")))
        .where(
            EVENTS.c.job_id == RUNS.c.id,
            EVENTS.c.tenant_id == RUNS.c.tenant_id,
            EVENTS.c.status == _DISPATCHING,
            EVENTS.c.payload.op("->>", return_type=Text)(literal_column("'from'"))
            == literal_column(f"'{Status.PENDING}'"),
        )
        .order_by(EVENTS.c.created_at.desc())
        .limit(ONE)
        .scalar_subquery()
        == bindparam("p_transition_id", type_=Text),
    )
    .order_by(RUNS.c.priority.desc(), RUNS.c.available_at, RUNS.c.id)
)
"""Finds what a lease took whose answer was lost: the runs its owner holds since it."""

_expired: Final = (
    select(RUNS.c.id, RUNS.c.tenant_id, RUNS.c.updated_at, RUNS.c.attempts)
    .where(
        RUNS.c.status == _DISPATCHING,
        RUNS.c.lease_expires_at < func.now(),
        or_(TENANT.is_(None), RUNS.c.tenant_id == TENANT),
    )
    # By when they were leased, which no heartbeat changes, so that its index is written only by moves.
    .order_by(RUNS.c.last_attempt_at)
    .limit(LIMIT)
    # Whose row somebody holds cannot be renewed, and its silence says nothing.
    .with_for_update(key_share=True, skip_locked=True)
    .cte("expired")
    .prefix_with("MATERIALIZED")
)
LIST_EXPIRED_RUNS: Final = select(*_expired.c, _released(_expired)).select_from(_expired)
"""Reads which leases have run out, though nobody holds their rows, the earliest leased first; of one tenant or of all.

Gives id, tenant, version, attempts, and how many of them were given back in order.
"""
