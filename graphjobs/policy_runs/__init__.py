"""Policy runs: models, statements, repository, queue and service."""
