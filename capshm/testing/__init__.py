"""Tools for tests and experiments; part of the product."""

from capshm.testing.segment import Segment, Shadow, SweepCounts, closed_gate, sweep_registers

__all__ = ["Segment", "Shadow", "SweepCounts", "closed_gate", "sweep_registers"]
