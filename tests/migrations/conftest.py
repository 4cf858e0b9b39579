"""What the tests of the migrations share: databases that nothing was done to yet, and settings that name them."""

from collections.abc import Iterator

import pytest

import pytest_graphjobs
from graphjobs.settings import Settings


@pytest.fixture
def empty_url(graphjobs_server_url: str) -> Iterator[str]:
    """The URL of a database of this test's own, without so much as a schema."""
    with pytest_graphjobs._database(graphjobs_server_url, "") as url:
        yield url


@pytest.fixture
def empty_settings(empty_url: str) -> Settings:
    """Settings that name that database."""
    return Settings.load(database_url=empty_url)
