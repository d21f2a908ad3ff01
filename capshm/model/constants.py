"""CheriBSD's numbers, under CheriBSD's names: what the model reads and the face hands on."""

from __future__ import annotations

import errno

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

PAGE: Final = 4096
OBJECT_SIZE_MAX: Final = 64 << 30  # of capshm, not of CheriBSD: what the sideband of one object can serve
ARENA_START: Final = 0x5500_0000_0000  # in every process, so that a capability's address is the real one
ARENA_SIZE: Final = 64 << 30  # bytes, where nothing else is said

# mmap and mprotect: protection

PROT_NONE: Final = 0x00
PROT_READ: Final = 0x01
PROT_WRITE: Final = 0x02
PROT_EXEC: Final = 0x04
PROT_CAP: Final = 0x08
PROT_NO_CAP: Final = 0x10
PROT_MAX_SHIFT: Final = 16


def PROT_MAX(prot: int) -> int:  # noqa: N802 - the name that it has in C
    """The protection as a maximum, to be combined by `|` with the current one."""
    return prot << PROT_MAX_SHIFT


# mmap: flags

MAP_SHARED: Final = 0x0001
MAP_PRIVATE: Final = 0x0002
MAP_FILE: Final = 0x0000
MAP_FIXED: Final = 0x0010
MAP_HASSEMAPHORE: Final = 0x0200
MAP_STACK: Final = 0x0400
MAP_NOSYNC: Final = 0x0800
MAP_ANON: Final = 0x1000
MAP_ANONYMOUS: Final = MAP_ANON
MAP_GUARD: Final = 0x2000
MAP_EXCL: Final = 0x4000
MAP_NOCORE: Final = 0x0002_0000
MAP_PREFAULT_READ: Final = 0x0004_0000
MAP_32BIT: Final = 0x0008_0000
MAP_ALIGNMENT_SHIFT: Final = 24
MAP_ALIGNMENT_MASK: Final = 0xFF << MAP_ALIGNMENT_SHIFT


def MAP_ALIGNED(n: int) -> int:  # noqa: N802 - the name that it has in C
    """A flag that asks for an address aligned to 2**n bytes."""
    return n << MAP_ALIGNMENT_SHIFT


MAP_ALIGNED_SUPER: Final = 1 << MAP_ALIGNMENT_SHIFT
MAP_ALIGNED_CHERI: Final = 2 << MAP_ALIGNMENT_SHIFT
MAP_ALIGNED_CHERI_SEAL: Final = 3 << MAP_ALIGNMENT_SHIFT

# minherit

INHERIT_SHARE: Final = 0
INHERIT_COPY: Final = 1
INHERIT_NONE: Final = 2
INHERIT_ZERO: Final = 3

# shm_open, memfd_create, shm_rename

O_SHARECAP: Final = 0x0002_0000
SHM_ALLOW_SEALING: Final = 0x1
SHM_GROW_ON_WRITE: Final = 0x2
SHM_LARGEPAGE: Final = 0x4
SHM_RENAME_NOREPLACE: Final = 0x1
SHM_RENAME_EXCHANGE: Final = 0x2
SHM_PATH_MAX: Final = 1023
MFD_CLOEXEC: Final = 0x1
MFD_ALLOW_SEALING: Final = 0x2
MFD_HUGETLB: Final = 0x4

# System V

IPC_PRIVATE: Final = 0
IPC_CREAT: Final = 0o1000
IPC_EXCL: Final = 0o2000
IPC_NOWAIT: Final = 0o4000
IPC_RMID: Final = 0
IPC_SET: Final = 1
IPC_STAT: Final = 2
SHM_RDONLY: Final = 0o10000
SHM_RND: Final = 0o20000
SHM_REMAP: Final = 0o30000

# mincore

MINCORE_INCORE: Final = 0x01
MINCORE_REFERENCED: Final = 0x02
MINCORE_MODIFIED: Final = 0x04
MINCORE_REFERENCED_OTHER: Final = 0x08
MINCORE_MODIFIED_OTHER: Final = 0x10
MINCORE_CAPSTORE: Final = 0x80

# procctl. The numbers of the two options are capshm's own: no kernel has PROC_SHARECAP_CTL (K1).

PROC_CHERI_REVOKE_CTL: Final = 0x4348_0001
PROC_SHARECAP_CTL: Final = 0x4348_0002
PROC_SHARECAP_DEFAULT: Final = 0
PROC_SHARECAP_ENABLE: Final = 1
PROC_SHARECAP_DISABLE: Final = 2
PROC_CHERI_REVOKE_DEFAULT: Final = 0
PROC_CHERI_REVOKE_ENABLE: Final = 1
PROC_CHERI_REVOKE_DISABLE: Final = 2

# cheri_revoke and cheri_revoke_get_shadow

CHERI_REVOKE_LAST_PASS: Final = 0x1
CHERI_REVOKE_IGNORE_START: Final = 0x4
CHERI_REVOKE_ASYNC: Final = 0x20
CHERI_REVOKE_TAKE_STATS: Final = 0x1000
CHERI_REVOKE_SHADOW_NOVMEM: Final = 0
CHERI_REVOKE_SHADOW_OTYPE: Final = 1
CHERI_REVOKE_SHADOW_INFO_STRUCT: Final = 3
CHERI_REVOKE_SHADOW_NOVMEM_ENTIRE: Final = 7

EPROT: Final = 1098
"""CheriBSD's errno for a pointer that does not authorise what was asked; the host has none like it."""

ERRNO: Final = {name: number for number, name in errno.errorcode.items()} | {"EPROT": EPROT, "ENOTSUP": errno.ENOTSUP}
"""Numbers by name; those of the host, and EPROT."""
