"""Rejected documents: entries, rows and files."""
