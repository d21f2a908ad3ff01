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
    "sealing_root",
]


def __getattr__(name: str) -> object:
    """`Machine` when it is first asked for: a program that only attaches must start quickly."""
    if name != "Machine":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    global Machine
    from capshm.machine import Machine

    return Machine
