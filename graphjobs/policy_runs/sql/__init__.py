"""Statements of policy runs, as constants with named binds; no I/O."""
