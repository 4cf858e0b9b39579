"""Statements of graph jobs, as constants with named binds; no I/O."""
