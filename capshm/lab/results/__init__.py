"""Results folders: written, gone on with, merged, read; for SQL and for notebooks."""
