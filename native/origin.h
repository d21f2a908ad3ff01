/* origin.h: whose capability it is, and what becomes of it when somebody else revokes.
 *
 * A capability means memory of the address space that it was made in, its origin; where others may have it as well, in
 * objects that are shared, it must go when that address space has it revoked, and not when another has freed whatever lies
 * at the same address there. So every value has an origin.
 *
 * Numbers. The broker gives each address space a number that no other ever had: generation * REVOCATION_RECORDS + its
 * record. record.origin is that number as long as the address space is there. In registers and private memory 0 stands
 * for this address space, so that a fork makes a child's copies the child's own without work; whatever is shared has the
 * number itself, and load and store translate (region.own_origin). Storing somebody else's value does not change whose it is.
 *
 *     registers             capability_register.origin; derived values have that of what they are derived from
 *     objects               a number for each granule, behind the twins, in step with the tag (sideband.h)
 *     private memory        the same, and not used, nor paid for, before this process has held somebody else's value:
 *                           `has_foreign`, which then stays so, and which forks inherit
 *
 * A pass that is made machine-wide for some address spaces, its members, has a number that is larger than all before.
 * While the gate is closed the broker
 *     (a) writes the number into the stamps (stamps.h) of what the members have painted, and of what leaves quarantine
 *     (b) sweeps all objects: a granule is revoked if its origin is a member whose shadow revokes it, or does not exist
 *         any more. In what belongs to one member alone, the member's shadow decides as well, as in its private memory
 *     (c) shows the number in records[0].passes, and counts the pass in the members' records (revoke.h)
 * and every process, before its next operation,
 *     (d) if it is a member, sweeps by its own shadow what it holds, its own values and those of others
 *     (e) if it has ever held others' values, takes the tags of those that their origins have revoked in passes that it
 *         has not swept for, `passes`, or whose origins are gone.
 * (e) needs the stamps because their paint may have changed while this process was asleep. It is exact: a value is met by (e)
 * only if it was there before the pass, since whoever loads or stores has swept for all passes before; what was made later
 * at the same place is of a later number. That is also why a child begins with its parent's `passes`.
 *
 * Origins that are gone. The broker cannot say any more what they have revoked. A sleeper that has missed such a pass would
 * keep what was revoked, so all their values go, with the next pass in objects and with (e) elsewhere. Until then they can
 * be loaded, and mean the loader's own memory, as everybody's do.
 *
 * Ever revoked. A value of another origin means, where it is used, the user's own memory at that address. To use it where
 * this address space has itself had that memory revoked would undo that; so such a value is loaded without its tag, and
 * counted, for the audit: its base has a stamp of the loader's, from whatever pass. A child begins with its parent's
 * stamps. So a value that was stored before a fork never brings the child to memory that the child has revoked, and stays
 * good for the parent.
 *
 * Deaths. The broker before (c): the gate stays closed for ever (gate.h). Its stamps are good at every instant, and a number
 * that was used for an attempt is not used again. A member, or whoever asked: nothing waits for it, its stamps go with its
 * number, and its values by (b) and (e) of the next pass. A process before or in (e): what it held has gone with it. One
 * that is made by exec is a new address space, with a new number; the old one's values are those of one that is gone.
 */
#ifndef CAPSHM_ORIGIN_H
#define CAPSHM_ORIGIN_H

#include <stdbool.h>
#include <stddef.h>

#include "granule.h"
#include "revoke.h"
#include "sweep.h"

struct region;

/* What this process has to do with others' values. */
struct origins {
    _Atomic bool has_foreign;
    uint64_t passes; /* of the machine: swept for */
    _Atomic uint64_t refused_loads;
};

extern struct origins origins __attribute__((visibility("hidden")));

/* Inside the gate, of values that were loaded from the region, stride bytes apart, their origins behind them: which of the
 * tagged ones come out with their tags. */
uint64_t origin_admit(const struct region *region, const void *values, size_t stride, uint64_t tagged);

/* (e). Inside the gate, the other threads kept out. */
void origin_sweep(struct sweep_counts *counts);
/* The same for private memory that was copied when this process had swept for so many passes of the machine. */
void origin_sweep_memory(uint64_t address, uint64_t length, uint64_t passes, struct sweep_counts *counts);

/* (b), for lines of an object, by a broker that has stopped the machine. shadows: by the numbers of the members' records;
 * NULL: no member, or one that has nothing revoked. */
void sweep_by_origin(struct tag_line *lines, const struct granule *twins, const uint32_t *numbers, size_t line_count,
                     const struct revocation_record *records, const struct shadow *const *shadows,
                     struct sweep_counts *counts);

#endif
