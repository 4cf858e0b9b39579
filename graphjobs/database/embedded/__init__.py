"""The embedded PostgreSQL server: its cluster, its process, its programs and its folders."""
