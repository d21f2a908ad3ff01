"""Tools for tests and experiments; part of the product.

To revoke all that points into `freed`, in memory and in the variables of every process:

    Shadow().paint(freed)  # what is doomed: capabilities whose base is painted
    with closed_gate():  # nobody touches a capability in here
        segment.sweep()  # memory, each segment that may hold some
        sweep_registers()  # this process; the others sweep theirs before their next operation
    Shadow().clear(freed)  # once all of them have come by; not before the memory may be given out again
"""

from capshm.shadow import Shadow
from capshm.testing import steps
from capshm.testing.checker import Violation, check_history
from capshm.testing.history import History, HistoryFull, read_history
from capshm.testing.linearize import HistoryTooDense
from capshm.testing.operations import Kind, Operation, Result, Value
from capshm.testing.segment import Segment, SweepCounts, closed_gate, sweep_registers
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
