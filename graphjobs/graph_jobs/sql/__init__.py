"""Statements of graph jobs, as constants. No I/O here."""
