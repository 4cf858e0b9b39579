"""Statements of policy runs, as constants. No I/O here."""
