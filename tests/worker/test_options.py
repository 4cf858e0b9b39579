"""Options of workers and dispatchers, and the back-off of their retries."""

from datetime import timedelta
from typing import Any

import pytest

from graphjobs import ConfigurationError, DispatcherOptions
from graphjobs.policy_runs.attempt_results import RetryBackoff
from graphjobs.worker import WorkerOptions
from graphjobs.worker.options import Backoff, jittered


@pytest.mark.parametrize("options_class", [WorkerOptions, DispatcherOptions])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"concurrency": 0}, "concurrency must be an integer between 1 and 10,000"),
        ({"concurrency": 10_001}, "concurrency"),
        ({"concurrency": True}, "concurrency"),
        ({"concurrency": 2.0}, "concurrency"),
        ({"batch": 1_001}, "batch must be an integer between 1 and 1,000"),
        ({"attempts_max": 0}, "attempts_max"),
        ({"poll": timedelta(0)}, "poll"),
        ({"poll": 1.0}, "poll must be a timedelta between 0:00:00.010000 and 1:00:00"),
        ({"lease": timedelta(0)}, "lease"),
        ({"lease": timedelta(milliseconds=999)}, "lease"),
        ({"lease": timedelta(days=2)}, "lease"),
        ({"time_limit": timedelta(days=8)}, "time_limit"),
        ({"grace": timedelta(seconds=-1)}, "grace"),
        ({"listen": 1}, "listen must be True or False"),
        ({"tenant": ""}, "tenant"),
        ({"name": "x" * 10_000}, "name"),
        ({"name": None}, "name"),
    ],
)
def test_an_option_out_of_its_bounds_is_named(
    options_class: type[WorkerOptions], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=f"^{message}"):
        options_class(**options)


def test_the_back_off_of_a_dispatcher_has_its_own_type() -> None:
    """A timedelta alone is refused."""
    with pytest.raises(ConfigurationError, match=r"^backoff must be a RetryBackoff"):
        DispatcherOptions(backoff=timedelta(seconds=1))  # type: ignore[arg-type]


def test_waits_double_up_to_a_cap_with_jitter() -> None:
    """A retry is reduced at random by up to a half; a poll is longer or shorter by up to a quarter."""
    backoff = Backoff(first_seconds=1.0, cap_seconds=8.0)
    waits = [backoff.next_seconds() for _ in range(100)]
    upper_bounds = [1.0, 2.0, 4.0, *[8.0] * 97]
    assert all(upper / 2 <= wait <= upper for wait, upper in zip(waits, upper_bounds, strict=True))
    assert len(set(waits)) > 90
    assert (True, False) == (backoff.reset(), backoff.reset())
    assert backoff.next_seconds() <= 1.0
    polls = {jittered(4.0) for _ in range(100)}
    assert len(polls) > 90
    assert 3.0 <= min(polls) < 3.5 < 4.5 < max(polls) <= 5.0


def test_the_back_off_of_runs_doubles_up_to_its_cap_with_jitter() -> None:
    """It is reduced by up to a half, so that many runs do not return at once; no number of attempts overflows it."""
    backoff = RetryBackoff(first=timedelta(seconds=1), cap=timedelta(seconds=10))
    whole = [backoff.after(attempts, jitter=lambda: 0.0).total_seconds() for attempts in (1, 2, 3, 4, 5, 99_999)]
    halved = [backoff.after(attempts, jitter=lambda: 1.0).total_seconds() for attempts in (1, 5)]
    assert [1, 2, 4, 8, 10, 10] == whole
    assert [0.5, 5] == halved
    assert len({backoff.after(3) for _ in range(20)}) > 1
