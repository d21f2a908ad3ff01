"""CHERI capabilities between real Linux processes, emulated: who may share them through memory, and what it costs."""

__version__ = "0.2.0"  # the one place: the packaging reads it from here

from capshm import encoding, errors
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
from capshm.machine import Machine, attach, current
from capshm.permissions import Permissions

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
