"""Texts that are committed and compared: what a reviewer should see change, and nothing else may change it."""
