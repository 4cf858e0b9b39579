"""Reading sources: files and MongoDB, as records with their position."""
