"""Zircon's numbers, under Zircon's names without ZX_: what the model reads and the face hands on (vmar:0.1).

Cheap to import, as every process of a machine may do it.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

# Status

OK: Final = 0
ERR_INTERNAL: Final = -1
ERR_NOT_SUPPORTED: Final = -2
ERR_NO_RESOURCES: Final = -3
ERR_NO_MEMORY: Final = -4
ERR_INVALID_ARGS: Final = -10
ERR_BAD_HANDLE: Final = -11
ERR_WRONG_TYPE: Final = -12
ERR_OUT_OF_RANGE: Final = -14
ERR_BUFFER_TOO_SMALL: Final = -15
ERR_BAD_STATE: Final = -20
ERR_SHOULD_WAIT: Final = -22
ERR_PEER_CLOSED: Final = -24
ERR_NOT_FOUND: Final = -25
ERR_ALREADY_EXISTS: Final = -26
ERR_UNAVAILABLE: Final = -28
ERR_ACCESS_DENIED: Final = -30

STATUS: Final = {
    name.removeprefix("ERR_"): number
    for name, number in dict(globals()).items()
    if name == "OK" or name.startswith("ERR_")
}
"""Numbers by name, without ERR_."""
STATUS_NAMES: Final = {number: name for name, number in STATUS.items()}

# Rights of a handle

RIGHT_NONE: Final = 0
RIGHT_DUPLICATE: Final = 1 << 0
RIGHT_TRANSFER: Final = 1 << 1
RIGHT_READ: Final = 1 << 2
RIGHT_WRITE: Final = 1 << 3
RIGHT_EXECUTE: Final = 1 << 4
RIGHT_MAP: Final = 1 << 5
RIGHT_GET_PROPERTY: Final = 1 << 6
RIGHT_SET_PROPERTY: Final = 1 << 7
RIGHT_ENUMERATE: Final = 1 << 8
RIGHT_DESTROY: Final = 1 << 9
RIGHT_SIGNAL: Final = 1 << 12
RIGHT_SIGNAL_PEER: Final = 1 << 13
RIGHT_WAIT: Final = 1 << 14
RIGHT_INSPECT: Final = 1 << 15
RIGHT_MANAGE_JOB: Final = 1 << 16
RIGHT_MANAGE_PROCESS: Final = 1 << 17
RIGHT_MANAGE_THREAD: Final = 1 << 18
RIGHT_OP_CHILDREN: Final = 1 << 21
RIGHT_RESIZE: Final = 1 << 22
RIGHT_CAP: Final = 1 << 30
"""capshm's own: to map with PERM_CAP."""
RIGHT_SAME_RIGHTS: Final = 1 << 31

RIGHT_NAMES: Final = {
    number: name.removeprefix("RIGHT_")
    for name, number in dict(globals()).items()
    if name.startswith("RIGHT_") and number and name != "RIGHT_SAME_RIGHTS"
}

RIGHTS_BASIC: Final = RIGHT_TRANSFER | RIGHT_DUPLICATE | RIGHT_WAIT | RIGHT_INSPECT
RIGHTS_IO: Final = RIGHT_READ | RIGHT_WRITE
DEFAULT_VMAR_RIGHTS: Final = RIGHTS_BASIC & ~RIGHT_WAIT | RIGHT_OP_CHILDREN
DEFAULT_VMO_RIGHTS: Final = (
    RIGHTS_BASIC | RIGHTS_IO | RIGHT_MAP | RIGHT_GET_PROPERTY | RIGHT_SET_PROPERTY | RIGHT_SIGNAL
)
DEFAULT_CHANNEL_RIGHTS: Final = RIGHTS_BASIC & ~RIGHT_DUPLICATE | RIGHTS_IO | RIGHT_SIGNAL | RIGHT_SIGNAL_PEER
DEFAULT_PROCESS_RIGHTS: Final = (
    RIGHTS_BASIC
    | RIGHTS_IO
    | RIGHT_GET_PROPERTY
    | RIGHT_SET_PROPERTY
    | RIGHT_ENUMERATE
    | RIGHT_DESTROY
    | RIGHT_SIGNAL
    | RIGHT_MANAGE_PROCESS
    | RIGHT_MANAGE_THREAD
)

# Types of objects

OBJ_TYPE_NONE: Final = 0
OBJ_TYPE_PROCESS: Final = 1
OBJ_TYPE_VMO: Final = 3
OBJ_TYPE_CHANNEL: Final = 4
OBJ_TYPE_VMAR: Final = 18

OBJ_TYPE_NAMES: Final = {OBJ_TYPE_PROCESS: "process", OBJ_TYPE_VMO: "VMO", OBJ_TYPE_CHANNEL: "channel end"} | {
    OBJ_TYPE_VMAR: "VMAR"
}

HANDLE_INVALID: Final = 0
HANDLE_FIXED_BITS: Final = 0b11
"""Set in every valid value."""

# Options of vmar_allocate, vmar_map and vmar_protect

VM_PERM_READ: Final = 1 << 0
VM_PERM_WRITE: Final = 1 << 1
VM_PERM_EXECUTE: Final = 1 << 2
VM_COMPACT: Final = 1 << 3
VM_SPECIFIC: Final = 1 << 4
VM_SPECIFIC_OVERWRITE: Final = 1 << 5
VM_CAN_MAP_SPECIFIC: Final = 1 << 6
VM_CAN_MAP_READ: Final = 1 << 7
VM_CAN_MAP_WRITE: Final = 1 << 8
VM_CAN_MAP_EXECUTE: Final = 1 << 9
VM_MAP_RANGE: Final = 1 << 10
VM_REQUIRE_NON_RESIZABLE: Final = 1 << 11
VM_ALLOW_FAULTS: Final = 1 << 12
VM_OFFSET_IS_UPPER_LIMIT: Final = 1 << 13
VM_PERM_READ_IF_XOM_UNSUPPORTED: Final = 1 << 14
VM_FAULT_BEYOND_STREAM_SIZE: Final = 1 << 15
VM_PERM_CAP: Final = 1 << 16
"""capshm's own: capabilities may be loaded where data may be read, and stored where it may be written."""
VM_CAN_MAP_CAP: Final = 1 << 23
"""capshm's own: what is mapped in the VMAR may have PERM_CAP."""

OPTION_NAMES: Final = {
    number: name.removeprefix("VM_") for name, number in dict(globals()).items() if name.startswith("VM_")
}

VM_ALIGN_BASE: Final = 24
VM_ALIGN_1KB: Final = 10 << VM_ALIGN_BASE
VM_ALIGN_2KB: Final = 11 << VM_ALIGN_BASE
VM_ALIGN_4KB: Final = 12 << VM_ALIGN_BASE
VM_ALIGN_8KB: Final = 13 << VM_ALIGN_BASE
VM_ALIGN_16KB: Final = 14 << VM_ALIGN_BASE
VM_ALIGN_32KB: Final = 15 << VM_ALIGN_BASE
VM_ALIGN_64KB: Final = 16 << VM_ALIGN_BASE
VM_ALIGN_128KB: Final = 17 << VM_ALIGN_BASE
VM_ALIGN_256KB: Final = 18 << VM_ALIGN_BASE
VM_ALIGN_512KB: Final = 19 << VM_ALIGN_BASE
VM_ALIGN_1MB: Final = 20 << VM_ALIGN_BASE
VM_ALIGN_2MB: Final = 21 << VM_ALIGN_BASE
VM_ALIGN_4MB: Final = 22 << VM_ALIGN_BASE
VM_ALIGN_8MB: Final = 23 << VM_ALIGN_BASE
VM_ALIGN_16MB: Final = 24 << VM_ALIGN_BASE
VM_ALIGN_32MB: Final = 25 << VM_ALIGN_BASE
VM_ALIGN_64MB: Final = 26 << VM_ALIGN_BASE
VM_ALIGN_128MB: Final = 27 << VM_ALIGN_BASE
VM_ALIGN_256MB: Final = 28 << VM_ALIGN_BASE
VM_ALIGN_512MB: Final = 29 << VM_ALIGN_BASE
VM_ALIGN_1GB: Final = 30 << VM_ALIGN_BASE
VM_ALIGN_2GB: Final = 31 << VM_ALIGN_BASE
VM_ALIGN_4GB: Final = 32 << VM_ALIGN_BASE

# vmar_op_range and vmo_op_range

VMAR_OP_COMMIT: Final = 1
VMAR_OP_DECOMMIT: Final = 2
VMAR_OP_MAP_RANGE: Final = 3
VMAR_OP_ZERO: Final = 10
VMAR_OP_DONT_NEED: Final = 12
VMAR_OP_ALWAYS_NEED: Final = 13
VMAR_OP_PREFETCH: Final = 14
VMO_OP_COMMIT: Final = 1
VMO_OP_DECOMMIT: Final = 2
VMO_OP_ZERO: Final = 10
VMO_OP_DONT_NEED: Final = 12
VMO_OP_ALWAYS_NEED: Final = 13
VMO_OP_PREFETCH: Final = 14

# VMOs

VMO_RESIZABLE: Final = 1 << 1
VMO_DISCARDABLE: Final = 1 << 2
VMO_CAP: Final = 1 << 16
"""capshm's own: it holds capabilities, for the address space that creates it."""
VMO_SHARE_CAP: Final = 1 << 17
"""capshm's own: it holds capabilities, for whoever maps it."""

VMO_CHILD_SNAPSHOT: Final = 1 << 0
VMO_CHILD_RESIZABLE: Final = 1 << 2
VMO_CHILD_SNAPSHOT_AT_LEAST_ON_WRITE: Final = 1 << 4
VMO_CHILD_NO_WRITE: Final = 1 << 5

# object_get_info

INFO_HANDLE_VALID: Final = 1
INFO_HANDLE_BASIC: Final = 2
INFO_VMAR: Final = 7
INFO_PROCESS_MAPS: Final = 13
INFO_VMO: Final = 23
INFO_VMAR_MAPS: Final = 36
INFO_MAPS_TYPE_NONE: Final = 0
INFO_MAPS_TYPE_ASPACE: Final = 1
INFO_MAPS_TYPE_VMAR: Final = 2
INFO_MAPS_TYPE_MAPPING: Final = 3

# Channels

HANDLE_OP_MOVE: Final = 0
HANDLE_OP_DUPLICATE: Final = 1
CHANNEL_MAX_MSG_BYTES: Final = 65_536
CHANNEL_MAX_MSG_HANDLES: Final = 64
