"""CHERI capabilities between real Linux processes, emulated: who may share them through memory, and what it costs."""

__version__ = "0.1.0"  # the one place: the packaging reads it from here

from capshm import encoding, errors
from capshm.capability import Capability, sealing_root
from capshm.capability_array import CapabilityArray
from capshm.errors import (
    AlignmentViolation,
    BoundsViolation,
    CapshmError,
    Fault,
    HolderStopped,
    NotAttached,
    PageViolation,
    PermissionViolation,
    RevocationIncomplete,
    SealViolation,
    StoreTagViolation,
    TagViolation,
)
from capshm.permissions import Permissions

__all__ = [
    "AlignmentViolation",
    "BoundsViolation",
    "Capability",
    "CapabilityArray",
    "CapshmError",
    "Fault",
    "HolderStopped",
    "NotAttached",
    "PageViolation",
    "PermissionViolation",
    "Permissions",
    "RevocationIncomplete",
    "SealViolation",
    "StoreTagViolation",
    "TagViolation",
    "encoding",
    "errors",
    "sealing_root",
]
