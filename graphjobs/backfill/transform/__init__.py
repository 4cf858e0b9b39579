"""Mapping documents to values, and values back to documents."""
