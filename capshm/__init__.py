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
    from capshm._library import get_include, get_library_dir
    from capshm.lab.results.notebook import load
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
    "get_include",
    "get_library_dir",
    "load",
    "sealing_root",
]


_LATE = {
    "Machine": "capshm.machine",
    "get_include": "capshm._library",
    "get_library_dir": "capshm._library",
    "load": "capshm.lab.results.notebook",
}
"""Imported when they are first asked for: a program that only attaches must start quickly."""


def __getattr__(name: str) -> object:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(_LATE[name]), name)
    globals()[name] = value
    return value
