"""Runs the cells of a plan: here one after the other, or on the workers of a cluster."""
