"""The migration from MongoDB and the export back to it."""
