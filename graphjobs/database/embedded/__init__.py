"""The embedded PostgreSQL server: its cluster, its process and its folders."""
