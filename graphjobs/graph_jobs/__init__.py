"""Graph jobs: their statuses, values, tables, statements and repository, each a room of its own."""
