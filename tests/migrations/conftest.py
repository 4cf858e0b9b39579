"""Shared fixtures of the migration tests: empty databases and their settings."""

from collections.abc import Iterator

import pytest

import pytest_graphjobs
from graphjobs.settings import Settings


@pytest.fixture
def empty_url(graphjobs_server_url: str) -> Iterator[str]:
    """The URL of an empty database of this test, without the schema."""
    with pytest_graphjobs._database(graphjobs_server_url, "") as url:
        yield url


@pytest.fixture
def empty_settings(empty_url: str) -> Settings:
    """Settings of that database."""
    return Settings.load(database_url=empty_url)
