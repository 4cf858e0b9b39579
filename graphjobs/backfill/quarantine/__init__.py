"""Documents that cannot be imported: entries, rows and files."""
