"""Benchmarks beside the bare driver, an ORM session and other queues: `make bench`. No test measures time."""
