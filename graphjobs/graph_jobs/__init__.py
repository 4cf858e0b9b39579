"""Graph jobs: models, statements, repository, store, queue and service."""
