"""Statements that write mapped documents into the tables and compare them with stored rows."""
