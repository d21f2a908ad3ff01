"""CHERI capabilities between real Linux processes, emulated: who may share them through memory, and what it costs."""

__version__ = "0.2.0"  # the one place: the packaging reads it from here

from capshm import encoding, errors
from capshm._attach import attach, current
from capshm.capability import Capability, sealing_root
from capshm.capability_array import CapabilityArray
from capshm.client import Facts
from capshm.errors import (
    AlignmentViolation,
    BoundsViolation,
    BrokerGone,
    CapshmError,
    Fault,
    HolderStopped,
    LayoutMismatch,
    LeakFound,
    NotAttached,
    PageViolation,
    PermissionViolation,
    Refused,
    RevocationIncomplete,
    SealViolation,
    StoreTagViolation,
    TagViolation,
)
from capshm.permissions import Permissions

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os

    from capshm.lab.notebook import Loaded
    from capshm.machine import Machine

__all__ = [
    "AlignmentViolation",
    "BoundsViolation",
    "BrokerGone",
    "Capability",
    "CapabilityArray",
    "CapshmError",
    "Facts",
    "Fault",
    "HolderStopped",
    "LayoutMismatch",
    "LeakFound",
    "Machine",
    "NotAttached",
    "PageViolation",
    "PermissionViolation",
    "Permissions",
    "Refused",
    "RevocationIncomplete",
    "SealViolation",
    "StoreTagViolation",
    "TagViolation",
    "attach",
    "current",
    "encoding",
    "errors",
    "load",
    "sealing_root",
]


def load(folder: "str | os.PathLike[str]") -> "Loaded":
    """What `capshm compare` has left in a results folder, for a notebook: rows, columns, a frame, the table.

    ResultsError: it is no results folder, or not to be read. A process that uses it should not be in a machine: it
    brings libraries that may have threads.
    """
    from pathlib import Path  # only here, as all that follows: a program that only attaches must start quickly

    from capshm.lab.notebook import Loaded

    return Loaded(Path(folder))


def __getattr__(name: str) -> object:
    """`Machine` when it is first asked for: a program that only attaches must start quickly."""
    if name != "Machine":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    global Machine
    from capshm.machine import Machine

    return Machine
