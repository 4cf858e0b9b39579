"""Speed, side by side with the bare driver and an ORM session: `make bench`, and never a timed test."""
