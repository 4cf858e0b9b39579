"""Shared fixtures of the migration tests: empty databases and their settings."""

import secrets
from collections.abc import Iterator

import pytest

import pytest_graphjobs
from graphjobs.settings import Settings
from tests.migrations.cli_tools import as_role, ask, psql


@pytest.fixture
def empty_url(graphjobs_server_url: str) -> Iterator[str]:
    """The URL of an empty database of this test, without the schema."""
    with pytest_graphjobs._database(graphjobs_server_url, "") as url:
        yield url


@pytest.fixture
def empty_settings(empty_url: str) -> Settings:
    """Settings of that database."""
    return Settings.load(database_url=empty_url)


@pytest.fixture
def role(empty_url: str) -> Iterator[str]:
    """A role that may only log in, with its name as password."""
    name = f"graphjobs_test_{secrets.token_hex(6)}"
    ask(empty_url, f"CREATE ROLE {name} LOGIN PASSWORD '{name}'")
    yield name
    ask(empty_url, f"SET client_min_messages = warning; DROP OWNED BY {name} CASCADE; DROP ROLE {name}")


@pytest.fixture
def url_of_role(role: str, empty_url: str) -> str:
    """The URL of the empty database with that role."""
    return as_role(empty_url, role)


@pytest.fixture
def owned_schema(empty_url: str, role: str, url_of_role: str) -> str:
    """The URL with a role that owns the schema `scheduler` and may create no schema."""
    ask(empty_url, f"CREATE SCHEMA scheduler AUTHORIZATION {role}")
    assert psql(url_of_role, "CREATE SCHEMA IF NOT EXISTS scheduler").returncode == 3
    return url_of_role
