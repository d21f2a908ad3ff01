"""Zircon's calls, in the broker: on the caller's own process, and on others."""
