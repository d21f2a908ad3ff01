"""The rows about mapping, in our own words: A mmap, B mprotect, C addresses, D opening, E owners.

A paragraph each: "NAME [ERRNO] title", then the text that `capshm explain` shows.
"""

from typing import Final

TABLE: Final = """
A1 Private anonymous memory holds capabilities
Without PROT_CAP or PROT_NO_CAP, MAP_ANON without MAP_SHARED has the permission to load and store capabilities.

A2 A private mapping of anything holds capabilities
A private mapping of a file, of /dev/zero or of shared memory implies the permission, too: what is stored lands in pages
that are the process's own.

A3 A shared file does not hold capabilities
MAP_SHARED of a file implies nothing. A tagged store faults with SEGV_STORETAG, a load yields the bytes without tag.

A4 Shared memory objects do not imply capability permission
MAP_SHARED of what shm_open or memfd_create made behaves as A3 unless PROT_CAP is given. Before the pull request, and
under policy "open", the permission is implied.

A5 Anonymous shared memory does not imply capability permission
MAP_ANON|MAP_SHARED behaves as A4: children may inherit it, so sharing has to be asked for.

A6 Shared /dev/zero is treated like anonymous shared memory
Each shared mapping of /dev/zero is an object of its own; A5 and G1 apply to it.

A7 PROT_CAP goes both ways with READ and WRITE
With PROT_READ it gives the permission to load capabilities, with PROT_WRITE that to store them.

A8 PROT_NO_CAP suppresses the implication
Memory that would imply capability permission has none, now and, without a PROT_MAX that says otherwise, for ever.

A9 ENOTSUP PROT_CAP alone means nothing
In prot as in PROT_MAX it needs PROT_READ or PROT_WRITE beside it.

A10 ENOTSUP What is asked for now must be within PROT_MAX
Whoever gives a maximum may not ask for more at once.

A11 ENOTSUP Implied and explicit capability permission are not mixed
If one of prot and PROT_MAX has PROT_CAP or PROT_NO_CAP, so must the other, if it is given. PROT_NONE implies nothing
and goes with any maximum. PROT_CAP and PROT_NO_CAP together are mixed, too.

A12 EINVAL Unknown protection bits
Bits that are none of PROT_READ, WRITE, EXEC, CAP and NO_CAP, now or in PROT_MAX.

A13 Capability permission can be kept for later
PROT_NO_CAP now with PROT_CAP in PROT_MAX is allowed; mprotect may add it.

A14 Both flags exist for CHERI programs only
Hybrid programs do not have PROT_CAP and PROT_NO_CAP. Every program here counts as a pure-capability one.

A15 EACCES A shared file cannot be mapped with capability permission
There is no place in a file where tags could live. A private mapping is allowed.

A16 Plain data may be stored anywhere
A page without the permission to store capabilities takes data, and 16 bytes that have no tag.

A17 A load strips where the page lacks the permission
A capability load from a page without the permission to load capabilities yields the bytes without tag, and no fault.

A18 A file's pages hold no tags until they are copied
In a private mapping of a file tags can be there only after the first write has made a page the process's own.

A19 The returned capability is as wide as PROT_MAX
Its permissions come from PROT_MAX if that was given, else from prot, with SW_VMEM. Permission to load and store
capabilities stays in it where the page lacks it: the page is judged at each access.

B1 mprotect implies capability permission from the maximum
Where the maximum has it, a request without PROT_CAP and PROT_NO_CAP includes it again, also after PROT_NONE.

B2 EACCES A range is judged as a whole
If only some of it has capability permission in its maximum, it is implied for all and fails where it is lacking.

B3 EACCES What the maximum lacks cannot be had
mprotect with PROT_CAP is refused where the maximum has no capability permission, as in a child after F2.

B4 PROT_NO_CAP takes capability permission away
Tags stay in memory; loads strip them and tagged stores fault.

B5 ENOTSUP The new maximum must contain what is asked for
As A10, for mprotect.

B6 EACCES mprotect goes no further than the maximum
Permission that the mapping's maximum lacks is refused, whether for now or as a new maximum.

B7 EPROT mprotect needs the mapping's own pointer
Tagged, unsealed, with SW_VMEM, over all pages of the range, in one reservation that still exists. Nothing is changed.

C1 EINVAL Reservations have bounds that can be represented
The base is aligned and the length padded; the returned capability covers the padding. A fixed address that is not so
aligned is refused.

C2 An access to padding faults
What a reservation has beyond the pages that were asked for is nobody's: an access is SEGV_ACCERR.

C3 A number as address is a hint
Without MAP_FIXED a number says where one would like it, and a new reservation is made there or elsewhere.

C4 A number with MAP_FIXED takes a free range
It authorises to replace nothing, so it behaves as with MAP_EXCL.

C5 ENOMEM A number cannot overlap a reservation
Not even a guard, nor padding.

C6 A pointer replaces a part of its reservation
With SW_VMEM and MAP_FIXED, inside its bounds; the new mapping stays in the reservation.

C7 EACCES Replacing needs SW_VMEM
A tagged pointer without it, as malloc and the linker hand out, replaces nothing.

C8 EPROT A tagged pointer as address needs MAP_FIXED
A number is a hint (C3), a pointer is not.

C9 EINVAL An untagged pointer does not serve as a number
An untagged value that is not derived from NULL is refused as address, fixed or not.

C10 EPROT A fixed mapping stays within its pointer's bounds and permissions
The range must be within its bounds and the permissions within its own; it must not be sealed.

C11 ENOMEM A hole in a reservation is not free
A number cannot take a range that was unmapped while the rest of the reservation is there.

C12 ENOMEM What is in quarantine cannot be mapped
The whole reservation was unmapped by a process that quarantines what it unmaps, and waits for revocation.

C13 EPROT A stale pointer maps nothing
The reservation that it was made for is gone.

C14 EPROT A stale pointer is no hint either
As C8, which is checked first.

C15 EPROT munmap needs the mapping's own pointer
As B7.

C16 ENOMEM A stack makes its own reservation
MAP_STACK with MAP_FIXED into an existing one is refused, and leaves everything as it was.

C17 Pointers of malloc and to globals change no mapping
SW_VMEM is taken from them, so C7, B7, C15 and I13 refuse.

1.D/1 EINVAL There are three shmflags
SHM_ALLOW_SEALING, SHM_GROW_ON_WRITE and SHM_LARGEPAGE; the first check of shm_open2.

1.D/2 EINVAL Shared memory is opened for reading or for both
O_RDONLY and O_RDWR are the only access modes.

1.D/3 EINVAL Other open flags mean nothing
O_CREAT, O_EXCL, O_TRUNC, O_CLOEXEC and O_SHARECAP are known. O_TRUNC acts with O_RDWR only.

1.D/6 EINVAL Names begin with a slash
And have at most 1023 bytes (ENAMETOOLONG).

1.D/7 EMFILE The caller needs a free descriptor
Nothing is made where the answer could not be handed over.

1.D/8 EINVAL SHM_ANON needs O_RDWR
Nobody else could ever write it.

1.D/9 ENOENT A name that is not there needs O_CREAT
The same error answers shm_unlink and shm_rename.

1.D/10 EACCES An existing object can refuse to be opened
In this order: it may be sealed and the request does not allow it (EPERM), O_CREAT|O_EXCL (EEXIST), O_SHARECAP (D4),
other shmflags (EINVAL), mode bits (EACCES).

D1 O_SHARECAP makes an object for everybody
It matters for the open that creates. The object has no owner.

D2 Without O_SHARECAP an object is its creator's
Its owner is the address space that created it.

D3 A share-cap object stays one
Opening it without O_SHARECAP is allowed and changes nothing.

D4 EPERM O_SHARECAP is not added later
Opening an object that has an owner with O_SHARECAP is refused.

D5 O_SHARECAP again is allowed
Opening a share-cap object with O_SHARECAP succeeds. The pull request as written refuses it by a slip; capshm follows
what was meant.

D6 Hybrid programs re-open under the same rule
See D5; every program here counts as a pure-capability one.

D7 Shared memory can hold tags from the start
Objects of shm_open, memfds and large pages.

D8 A memfd always has an owner
memfd_create has no flag for share-cap; shm_open2 has.

D9 ENOSYS MFD_HUGETLB is not supported
As in CheriBSD.

D10 read and write carry no tags
Through a descriptor only bytes travel; writing clears tags. The one deviation: bytes that are written raw and equal
those that are there leave the tag as it is.

D11 Renaming changes the name only
Owner and share-cap state belong to the object.

D12 EINVAL Large pages are not copied
A large page object cannot be mapped MAP_PRIVATE.

E1 The owner may map with capability permission
As often as it likes; what is stored through one alias is seen through the other.

E2 EACCES Nobody but the owner may map with capability permission
An address space that does not own the object is refused a mapping, shared or private, through which capabilities could
be loaded or stored now or after an mprotect (its maximum permission), whoever opened or sent the descriptor. A mapping
for data, with PROT_NO_CAP where A2 implies the permission, is allowed (E3).

E3 Data may be shared with anybody
A mapping without capability permission is allowed: loads strip, tagged stores fault.

E4 EACCES MAP_PRIVATE makes no difference to E2
With PROT_CAP; E2 is the rule that is named.

E5 EACCES E2 holds for implied capability permission, too
A private mapping of somebody else's object without PROT_NO_CAP implies capability permission (A2), and is refused.

E6 Opening and receiving are free
Only mapping with capability permission is refused; opening later never changes the owner.

E7 What comes back to its owner is its own again
A descriptor may travel; the object knows its owner.

E8 EACCES Writing needs a writable descriptor
MAP_SHARED with PROT_WRITE on a descriptor that is read-only, or on a write-sealed object. Checked before the owner.

E9 A share-cap object is everybody's
Anyone may map it with capability permission, and tags travel in both directions. Under policy "open" every object is
share-cap, and E9 stands beside each shared mapping of a shared memory object that has capability permission.

E10 A mapping without capability permission passes no tags
Also of a share-cap object.

E11 The owner is the creator
Not the first who opens or maps.

E12 One address space is one owner
Threads and children of vfork share it.

E13 The owner is not kept alive
An object refers to its owner by a number that is never given again.

E14 Private copies of share-cap objects leak in, not back
MAP_PRIVATE with capability permission is allowed to anyone: loads are tagged, and stores stay private.
"""
