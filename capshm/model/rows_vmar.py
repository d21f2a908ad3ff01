"""The checks of Zircon's calls, in their order and in our own words: 1.1 allocate to 1.9 process memory.

A paragraph each, as in rows_mapping; the first status is the usual one of those that the check has.
"""

from typing import Final

TABLE: Final = """
1.1/1 ACCESS_DENIED allocate: the handle
BAD_HANDLE if there is none with this value, WRONG_TYPE if it is no VMAR's, ACCESS_DENIED if it lacks READ, WRITE or
EXECUTE where CAN_MAP_READ, CAN_MAP_WRITE or CAN_MAP_EXECUTE is asked for. OP_CHILDREN is not needed.

1.1/2 INVALID_ARGS allocate: undefined options
A bit that means nothing, or an ALIGN that is neither none nor 1 KiB to 4 GiB.

1.1/3 INVALID_ARGS allocate: PERM options
A VMAR has no current permission; PERM_* belong to mappings.

1.1/4 INVALID_ARGS allocate: size not in whole pages
It is never rounded here.

1.1/5 INVALID_ARGS allocate: options of other calls
Only SPECIFIC, CAN_MAP_*, COMPACT, OFFSET_IS_UPPER_LIMIT and ALIGN.

1.1/6 BAD_STATE allocate: the parent was destroyed
By vmar_destroy, by an unmap or destroy further up, or with its process.

1.1/7 INVALID_ARGS allocate: size 0
A VMAR has at least one page.

1.1/8 ACCESS_DENIED allocate: beyond the parent's flags
Permission can only shrink on the way down the tree.

1.1/9 INVALID_ARGS placement: SPECIFIC with OFFSET_IS_UPPER_LIMIT
The offset is either the place or a limit for it.

1.1/10 INVALID_ARGS placement: an offset without meaning
It must be 0 unless SPECIFIC or OFFSET_IS_UPPER_LIMIT is given.

1.1/11 INVALID_ARGS placement: offset not page aligned
Places are whole pages.

1.1/12 ACCESS_DENIED placement: the VMAR lacks CAN_MAP_SPECIFIC
It was allocated without it, so nobody chooses places in it.

1.1/13 INVALID_ARGS placement: outside the VMAR
The size exceeds what lies behind the offset, or below the upper limit. A size larger than the whole VMAR is this, and
not a lack of room.

1.1/14 INVALID_ARGS placement: a specific place that is not aligned
SPECIFIC and ALIGN contradict each other.

1.1/15 ALREADY_EXISTS placement: something is there
SPECIFIC overlaps a mapping or a VMAR, be it empty or only touched in part.

1.1/16 NO_RESOURCES placement: no free spot
No gap is large enough, or none has the alignment.

1.1/17 NO_MEMORY no memory to keep account of it
Counted before anything is changed: the kernel has only so many areas for a process (vm.max_map_count).

1.2/1 WRONG_TYPE map: the handles
BAD_HANDLE or WRONG_TYPE; first of the VMAR, then of the VMO.

1.2/3 ACCESS_DENIED map: the VMO handle lacks MAP
Checked before the permissions.

1.2/5 INVALID_ARGS map: WRITE or EXECUTE without READ
Also where READ_IF_XOM_UNSUPPORTED has not added READ.

1.2/6 INVALID_ARGS map: MAP_RANGE with SPECIFIC_OVERWRITE
They exclude each other.

1.2/7 INVALID_ARGS map: CAN_MAP options
The maximum permission of a mapping comes from the handles, never from options.

1.2/8 ACCESS_DENIED map: a permission that a handle lacks
Both the VMAR's and the VMO's handle need the right for each PERM that is asked for.

1.2/9 INVALID_ARGS map: FAULT_BEYOND_STREAM_SIZE without ALLOW_FAULTS
Such a mapping faults by design.

1.2/10 INVALID_ARGS map: undefined options
A bit that means nothing, or an ALIGN that does not exist.

1.2/11 NOT_SUPPORTED map: a resizable VMO
REQUIRE_NON_RESIZABLE was given.

1.2/12 NOT_SUPPORTED map: a discardable VMO without ALLOW_FAULTS
Its pages may go at any time.

1.2/13 INVALID_ARGS map: options of other calls
COMPACT and CAN_MAP_SPECIFIC are a VMAR's.

1.2/14 ACCESS_DENIED map: beyond the VMAR's flags
A mapping never exceeds the region that it lies in.

1.2/15 INVALID_ARGS map: vmo_offset not page aligned
Mappings begin at whole pages of the VMO.

1.2/16 OUT_OF_RANGE map: the length wraps
When it is rounded up to pages, or added to vmo_offset.

1.2/17 BAD_STATE map: the VMAR was destroyed
By vmar_destroy, by an unmap or destroy further up, or with its process.

1.2/18 INVALID_ARGS map: length 0
A mapping has at least one page.

1.2/20 INVALID_ARGS map: SPECIFIC_OVERWRITE over a child VMAR
Only mappings of the VMAR itself are replaced; nothing is changed.

1.3/1 ACCESS_DENIED protect: the handle
BAD_HANDLE, WRONG_TYPE, or ACCESS_DENIED if it lacks READ, WRITE or EXECUTE for a PERM that is asked for.

1.3/2 INVALID_ARGS protect: WRITE or EXECUTE without READ
Also where READ_IF_XOM_UNSUPPORTED has not added READ.

1.3/3 INVALID_ARGS protect: address not page aligned
Permissions are a page's.

1.3/4 INVALID_ARGS protect: options
Only PERM_*.

1.3/5 INVALID_ARGS protect: no length
0, or it wraps when rounded up to pages.

1.3/6 BAD_STATE protect: the VMAR was destroyed
By vmar_destroy, by an unmap or destroy further up, or with its process.

1.3/7 INVALID_ARGS protect: outside the VMAR
The whole range must lie in it.

1.3/8a NOT_FOUND protect: a gap before a mapping
Also an empty child VMAR is a gap. Nothing is changed.

1.3/8b ACCESS_DENIED protect: beyond a mapping's maximum
The rights that were on both handles when it was mapped. Nothing is changed.

1.3/8d INVALID_ARGS protect: into a child without OP_CHILDREN
The mapping lies in a sub-VMAR, and this handle may not reach there. RFC-0199's text says ACCESS_DENIED: that is what
vmar_errors="rfc" gives. Nothing is changed.

1.3/8e ACCESS_DENIED protect: raising through an ancestor
What lies in a sub-VMAR can only be lowered from above: the current permission of each page must have all that is asked
for (RFC-0199). The VMAR's own handle may raise up to the maximum. Nothing is changed.

1.3/9 NOT_FOUND protect: a gap at the end
Nothing is changed.

1.4/1 BAD_HANDLE unmap: the handle
BAD_HANDLE or WRONG_TYPE. No right is needed.

1.4/2 INVALID_ARGS unmap: no range of pages
The address is not page aligned, or the length is 0 when rounded up.

1.4/3 BAD_STATE unmap: the VMAR was destroyed
By vmar_destroy, by an unmap or destroy further up, or with its process.

1.4/4 INVALID_ARGS unmap: outside the VMAR
The whole range must lie in it.

1.4/7 INVALID_ARGS unmap: a child VMAR
OP_CHILDREN is missing (with vmar_errors="rfc": ACCESS_DENIED), or the child is covered only in part; an empty one
counts. Nothing is changed.

1.5/1 ACCESS_DENIED destroy: the handle
BAD_HANDLE, WRONG_TYPE, or ACCESS_DENIED without OP_CHILDREN, even if the VMAR is empty.

1.5/2 NOT_SUPPORTED destroy: the root VMAR
It goes with its process.

1.5/3 BAD_STATE destroy: destroyed already
Its handles stay valid, and nothing else does.

1.6/1 WRONG_TYPE op_range: the handle
BAD_HANDLE or WRONG_TYPE; its rights to read and write are not asked.

1.6/2 INVALID_ARGS op_range: unknown operation
COMMIT, DECOMMIT, MAP_RANGE, ZERO, DONT_NEED, ALWAYS_NEED, PREFETCH.

1.6/4 INVALID_ARGS op_range: no range of pages
The address is not page aligned, or the length is 0 when rounded up.

1.6/5 OUT_OF_RANGE op_range: outside the VMAR
The whole range must lie in it.

1.6/6 BAD_STATE op_range: the VMAR was destroyed
By vmar_destroy, by an unmap or destroy further up, or with its process.

1.6/8a BAD_STATE op_range: a gap before a mapping
What lies before it has been done.

1.6/8b INVALID_ARGS op_range: into a child VMAR
COMMIT, DECOMMIT and PREFETCH never go there: they act as if they raised the permission for a moment. The others need
OP_CHILDREN (without it, with vmar_errors="rfc": ACCESS_DENIED). What lies before it has been done.

1.6/8c OUT_OF_RANGE op_range: past the stream size
The mapping was made with FAULT_BEYOND_STREAM_SIZE, and the range passes the page that holds it; one that begins behind
that page is let through, as the kernel does. What lies before it has been done.

1.6/8d ACCESS_DENIED op_range: beyond a mapping's maximum
COMMIT, DECOMMIT and ZERO need WRITE in it, PREFETCH needs READ. What lies before it has been done.

1.6/8e OUT_OF_RANGE op_range: the VMO's own refusal
Such as a range beyond its end. What lies before it has been done.

1.6/9 BAD_STATE op_range: a gap at the end
What lies before it has been done.

1.7/1 ACCESS_DENIED get_info: the handle
BAD_HANDLE, WRONG_TYPE, or ACCESS_DENIED without INSPECT where the topic needs it.

1.7/2 NOT_SUPPORTED get_info: unknown topic
INFO_HANDLE_BASIC, INFO_VMAR, INFO_VMO, INFO_VMAR_MAPS and INFO_PROCESS_MAPS.

1.7/3 BAD_STATE get_info: nothing is there any more
The VMAR was destroyed or its process is gone.

1.8/1 BAD_HANDLE handles: no such value
It was never given to this process, or has been closed or sent away.

1.8/2 ACCESS_DENIED handles: no DUPLICATE right
handle_replace needs none.

1.8/3 INVALID_ARGS handles: more rights than there are
Rights can be dropped, and never regained. handle_replace has closed its handle then.

1.8/4 BAD_HANDLE handle_check_valid
The value stands for nothing.

1.8/5 ACCESS_DENIED channels: the handle of the channel
BAD_HANDLE, WRONG_TYPE, or ACCESS_DENIED without WRITE to write, READ to read.

1.8/6 OUT_OF_RANGE channels: too much for a message
At most 65,536 bytes and 64 handles. Handles that were to be moved are closed.

1.8/7 PEER_CLOSED channels: nobody is at the other end
Handles that were to be moved are closed.

1.8/8 ACCESS_DENIED channels: a handle without TRANSFER
To be moved it needs TRANSFER, to be duplicated DUPLICATE as well. Handles that were to be moved are closed.

1.8/9 NOT_SUPPORTED channels: an end through itself
Nobody could ever close it. Handles that were to be moved are closed.

1.8/10 BAD_HANDLE channels: a handle that is not there
Unknown, or to be moved twice. Handles that were to be moved are closed.

1.8/11 WRONG_TYPE channels: not of the type that was announced
Handles that were to be moved are closed.

1.8/12 INVALID_ARGS channels: rights or operation of an entry
Rights that the handle lacks, or an operation that is neither MOVE nor DUPLICATE. Handles that were to be moved are
closed.

1.8/13 SHOULD_WAIT channels: nothing to read
The peer may still write.

1.9/1 ACCESS_DENIED process memory: the handle
BAD_HANDLE, WRONG_TYPE, or ACCESS_DENIED: reading needs READ and WRITE on the process, writing WRITE.

1.9/2 NOT_FOUND process memory: nothing is mapped at the first byte
Current permissions are ignored.

1.9/3 OUT_OF_RANGE process memory: past the VMO's end
The first byte lies there.

1.9/4 BAD_STATE process memory: the process is gone
Its memory went with it.

VMO/1 ACCESS_DENIED VMO: the handle
BAD_HANDLE, WRONG_TYPE, or ACCESS_DENIED without the right for the call.

VMO/2 INVALID_ARGS VMO: arguments
Unknown options, or a range that is not of whole pages.

VMO/3 OUT_OF_RANGE VMO: past the end
Of the VMO, or larger than this machine's objects can be.

VMO/4 UNAVAILABLE VMO: not resizable
It was created without VMO_RESIZABLE.

CAP/1 ACCESS_DENIED capabilities: of another address space
PERM_CAP for a VMO whose capabilities the policy keeps from this address space; the message has the policy's rule. Data
can be mapped.

CAP/2 ACCESS_DENIED capabilities: VMO_SHARE_CAP
The policy lets nobody share them.

CAP/3 ACCESS_DENIED vmar_capability: the handle
BAD_HANDLE or WRONG_TYPE. The handle's READ, WRITE, EXECUTE and CAP become the permissions of the capability.

CAP/4 BAD_STATE vmar_capability: the VMAR was destroyed
By vmar_destroy, by an unmap or destroy further up, or with its process.

CAP/5 INVALID_ARGS vmar_capability: the range
It is empty, not inside the VMAR, or in another process.

CAP/6 INVALID_ARGS vmar_capability: bounds that cannot be represented
Large ones have to be aligned, as everywhere in CHERI.

REMOTE/1 UNAVAILABLE another process's VMAR: the process has not come by
It is stopped, or amid an operation that does not end, or has another handler for SIGURG. Nothing is changed.

REMOTE/2 UNAVAILABLE another process's VMAR: a change is in progress
The process has begun to carry out a call, this or an earlier one, and is stopped. It finishes that call when it goes
on, or dies with it; a call that was still waiting for that has changed nothing.

host NO_MEMORY this machine's kernel refused
No rule forbids it; the message says what Linux said. Nothing is changed.
"""
