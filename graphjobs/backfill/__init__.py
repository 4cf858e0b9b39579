"""From MongoDB to PostgreSQL, and back."""
