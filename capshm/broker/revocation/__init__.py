"""Revocation, in the broker: requests, shadows, stoppers, and the passes over all processes."""
