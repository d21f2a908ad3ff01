"""The audit as a Perfetto trace."""
