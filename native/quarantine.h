/* quarantine.h: slots that were freed and may not be used again yet. Bookkeeping alone, as in slots.h; the allocator keeps
 * its threads apart.
 *
 * Two lists of ranges: what waits for a pass, and what belongs to one, which is under way or was not completed. Each is an
 * array that doubles, so that a pass can be given all of it.
 */
#ifndef CAPSHM_QUARANTINE_H
#define CAPSHM_QUARANTINE_H

#include <stdbool.h>

#include "allocator.h"

struct ranges {
    struct allocator_range *first;
    uint64_t count;
    uint64_t capacity;
    uint64_t bytes;
};

struct quarantine {
    struct allocator_policy policy;
    struct ranges waiting;
    struct ranges passing;
    _Atomic bool is_passing; /* false again when the pass ends, whether it was completed or not */
    uint64_t passes; /* that were completed */
};

/* False: no memory, and nothing has changed. */
bool quarantine_add(struct quarantine *quarantine, struct allocator_range range);

/* What the policy says about a heap of so many bytes. */
bool quarantine_is_pass_due(const struct quarantine *quarantine, uint64_t heap);

/* All that waits belongs to the pass. False: no memory, and nothing has changed. */
bool quarantine_move_to_pass(struct quarantine *quarantine);

/* Takes one range from the pass that is left in it. */
struct allocator_range quarantine_take_from_pass(struct quarantine *quarantine);

/* Empty, without a policy. */
void quarantine_forget(struct quarantine *quarantine);

#endif
