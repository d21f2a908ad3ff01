"""The rules about revocation, in our own words: J the hoards of local objects, and sections 2.1 to 2.3.

A paragraph each: "NAME [ERRNO] title", then the text that `capshm explain` shows.
"""

from typing import Final

TABLE: Final = """
J1 A pass reaches all of the objects that an address space owns
Every one of them, as a whole, mapped anywhere or not; the program meets no mapping that was made for it.

J2 Nothing stays of what a pass has mapped
Afterwards the address space is as it was before.

J3 ENOMEM No room for hoards ends no machine
The call fails and the epoch stays open; upstream's kernel panics.

J4 Objects for everybody are not swept by their owners
A machine-wide pass reaches what is hidden there: those of Machine(scope="machine"), and Machine.revoke(). It takes what
belongs to the address spaces whose epoch it closes, whoever has stored it, and what belongs to none any more.

J5 A hoard is found without its descriptor
In an object that is mapped nowhere, whose descriptor is closed, in flight in a socket, or held by another process.

J6 What belongs to another address space is swept by its owner
No capability can be loaded from it here.

J7 What a dead owner has left is swept by nobody
Nobody can load it as a capability.

J8 Whole objects rather than pages that are not mapped
The rejected alternative needed too much bookkeeping.

J9 A child sees nothing of a pass
fork waits for it (F23).

2.1 EINVAL The arguments of revocation calls
ASYNC and LAST_PASS exclude each other. A shadow is handed out to who has a tagged capability (EINVAL) with SW_VMEM
(EPERM) whose base and length are multiples of 128. Without a revoker all of these calls fail with ENOSYS.

2.2 Epochs
A clock for each address space: even while no epoch is open, odd while one is. What was recorded at E is revoked at E+2,
if E was even, and else at E+3.

2.3 What is revoked
A capability with a memory permission and without SW_VMEM whose base lies on a painted granule; and any with a memory
permission whose base lies in the reservation that leaves quarantine in this epoch.

2.6 Fork and revocation
fork waits for a pass; an open epoch and the paint are inherited, and the child's own from then on. A capability of
another address space is loaded without its tag where this one, or its parent before the fork, has ever had its base
revoked machine-wide: it would lead there. The audit has such loads, with the next request of the process.

2.7 Who revokes what it frees
A process by procctl, a program by its note, the machine's default; the first that says something decides.
"""
