"""The rows about processes, in our own words: F fork and exit, G anonymous, H System V, I minherit, K what was open.

At the end, the names that are no rows. A paragraph each: "NAME [ERRNO] title", then the text that `capshm explain`
shows.
"""

from typing import Final

TABLE: Final = """
F1 Private memory is copied with its tags
The child's copy has the same permissions; the copies are its own.

F2 A child loses capability permission to what it does not own
Shared mappings of objects that are not share-cap lose it from the current and the maximum permission.
The parent's stay.

F3 After F2 the child loads untagged values
The bytes are the same.

F4 After F2 the child's tagged stores fault
SIGSEGV with SEGV_STORETAG.

F5 After F2 mprotect does not bring it back
B3 refuses.

F6 After F2 mapping the descriptor again does not bring it back
E2 refuses.

F7 After F2 the child's data still clears tags
The memory is shared; what it overwrites is no capability any more, for the parent either.

F8 Share-cap objects stay with the child
With capability permission: O_SHARECAP, MAP_ANON|MAP_SHARED with PROT_CAP, System V.

F9 Memory with INHERIT_NONE is not mapped in the child
The range is free there.

F10 Memory with INHERIT_ZERO is fresh memory in the child
Zero, untagged, private, with the same permissions.

F11 What is in quarantine stays in quarantine in the child
With an epoch that is open, too: it is the child's own to revoke.

F12 Guards and holes are copied
Except under INHERIT_NONE.

F13 Objects stay with their owner
The child owns nothing of its parent's.

F14 What the child makes is the child's
It has an identity of its own.

F15 Share-cap is judged by the object that is mapped
Before a private copy stands in front of it.

F16 An owner that ends leaves its objects to nobody
They live on while descriptors, mappings or names exist.

F17 An object without owner never gets one again
No address space may ever map it with capability permission again; E2 is the rule that is named.

F18 Tags in an object without owner are out of reach
They stay in memory, and no mapping loads them.

F19 exec makes a new identity
The new program owns nothing of the old one's. CheriBSD may reuse the address space and its ownership; capshm does not,
since pointers of the old program mean nothing to the new one.

F20 exec into another address space is no owner
As F19.

F21 Descriptors of shm_open do not survive exec
They are always close-on-exec.

F22 Epochs begin anew at exec
Both are zero in the new program.

F23 fork waits for a revocation pass
A child never sees half of one.

F24 An open epoch is inherited
The child may close its own.

G1 Anonymous shared memory with capability permission is share-cap
MAP_ANON|MAP_SHARED that makes a reservation, with capability permission in its maximum, gets an object for everybody.

G2 Capabilities flow between parent and child through anonymous shared memory
By G1 and F8.

G3 Anonymous shared memory in an existing reservation is not share-cap
With MAP_FIXED into one's own reservation the object has an owner, and F2 applies at fork.

G4 Whether a process may do G1 can be switched off
See K3.

G5 EINVAL An inheritance is one of four
Sharing with children and hiding from them exclude each other.

H1 System V segments are always share-cap
shmat maps with capability permission, and capabilities may flow between all who attach.

H2 System V memory had no capabilities for a while
Between 2020 and the pull request.

H3 There is no flag for System V
A SHM_SHARECAP may come.

H4 An attachment is inherited
The child stays attached and keeps capability permission (F8).

H5 EPROT shmdt needs the pointer of shmat
Tagged, unsealed, with SW_VMEM, over memory that a segment is attached to.

H6 EINVAL A segment is attached where there is room
At a fixed address the range must be free, or inside the caller's own reservation.

I1 EACCES Memory of one's own is not shared with children
INHERIT_SHARE of anonymous private memory that can hold capabilities.

I2 EACCES Objects of one's own are not shared with children
INHERIT_SHARE of a mapping whose object is not share-cap and whose maximum has capability permission.

I3 What is shared already stays shared
INHERIT_SHARE is no change.

I4 Objects that hold no capabilities may be shared
INHERIT_SHARE is allowed.

I5 Share-cap objects may be shared
INHERIT_SHARE is allowed, and by F15 the child keeps capability permission.

I6 Memory without capability permission may be shared
Where the maximum lacks it nothing can leak. The pull request's code looks at the object only; capshm keeps what its
text promises.

I7 COPY, NONE and ZERO are always allowed
Each on the whole range.

I8 EINVAL Large pages are not copied
INHERIT_COPY is refused for them.

I9 EACCES What is in quarantine keeps its inheritance
minherit changes nothing there.

I10 Guards are not made zero
INHERIT_ZERO leaves them as they are.

I11 minherit changes the whole range or nothing
The whole range is checked before anything is changed.

I12 EINVAL An inheritance is one of four
SHARE, COPY, NONE and ZERO.

I13 EPROT minherit needs the mapping's own pointer
As B7.

I14 Hybrid programs share as before
Every program here counts as a pure-capability one.

I15 EINVAL A reservation is hidden from children as a whole
INHERIT_NONE must cover all that is mapped in the reservation.

I16 INHERIT_NONE does not open a way to INHERIT_SHARE
A test of CheriBSD gives private memory NONE and then SHARE, and expects success. I1 refuses the second.

K1 EACCES Sharing can be switched off
For a process by procctl, for a program by its note, for the machine; the first that says something decides. Then
O_SHARECAP makes nothing, share-cap objects are mapped for data only, and children lose capability permission as by F2.

K2 A part of a reservation cannot be hidden from children
Left open by the pull request; I15 answers.

K3 EACCES Anonymous sharing obeys the same switch
MAP_ANON|MAP_SHARED with capability permission is refused where K1 switches sharing off.

K4 The pull request refuses O_SHARECAP for share-cap objects
By a slip; capshm allows it, see D5.

K5 Memory that nobody has touched yet is not shared with children either
I1 refuses it although nothing is there; capshm follows, except for I6.

K6 Where memory for a revocation is short, the call fails
Where the pull request panics, the revocation call fails with ENOMEM and the epoch stays open.

K7 shm_open(2) does not tell of O_SHARECAP
Nor of its EPERM; D1 and D4 say what it does.

K8 exec could keep ownership
Where CheriBSD uses an address space again for the new program; in capshm it never does, see F19.

K9 CheriBSD has not merged these rules yet
Pull request #2225, where most of them come from, was still under review when this was written; #2673 carries A5 alone.

MAN EINVAL The manual pages' own checks
Lengths, flags that exclude each other, alignment, room in the address space (ENOMEM), keys and names (EEXIST, ENOENT,
EPERM, EACCES): what mmap(2), shm_open(2) and shmget(2) refuse on any system.
"""

OTHERS: Final = """
isolated EACCES Policy "isolated" lets no capability cross
O_SHARECAP is refused for new objects, and memory without a descriptor that others share, anonymous or System V, cannot
be mapped with capability permission.

host This machine's kernel could not
Not a rule of CheriBSD: the policy allows the call, and Linux, here and now, cannot carry it out: a limit is
reached, memory is short, a descriptor is closed. errno is Linux's, and the message has its reason.

credentials A packet came over another process's connection
Not a rule of CheriBSD: in the audit, beside the event "stranger". Each connection to the broker is one process's; what
anybody else sends over it is refused.
"""
