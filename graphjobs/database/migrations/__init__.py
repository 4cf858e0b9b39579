"""Alembic migrations: the environment they run in, and the commands."""
