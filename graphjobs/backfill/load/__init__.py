"""Writing mapped documents into the tables, and comparing them with stored rows."""
