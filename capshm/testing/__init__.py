"""Tools for tests and experiments; part of the product."""

from capshm.testing import steps
from capshm.testing.checker import Violation, check_history
from capshm.testing.history import History, HistoryFull, read_history
from capshm.testing.linearize import HistoryTooDense
from capshm.testing.operations import Kind, Operation, Result, Value
from capshm.testing.segment import Segment, Shadow, SweepCounts, closed_gate, sweep_registers
from capshm.testing.steps import StepPointsUnavailable

__all__ = [
    "History",
    "HistoryFull",
    "HistoryTooDense",
    "Kind",
    "Operation",
    "Result",
    "Segment",
    "Shadow",
    "StepPointsUnavailable",
    "SweepCounts",
    "Value",
    "Violation",
    "check_history",
    "closed_gate",
    "read_history",
    "steps",
    "sweep_registers",
]
