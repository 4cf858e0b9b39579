"""Alembic migrations: their environment and the commands."""
