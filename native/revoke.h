/* revoke.h: how an address space takes the tags in its own registers and private memory, and what a machine's broker
 * tells it.
 *
 * A pass, as a machine makes it
 *     (1) the broker closes the gate: nobody is inside an operation
 *     (2) it sweeps the sidebands of the address space's objects, with the space's shadow (capshm/broker/revocation/passes.py)
 *     (3) record.leaving, record.passes + 1    in memory that the process can only read
 *     (4) it opens the gate: the signal is another
 *     (5) each process, before its next operation, finds the signal changed; if its record counts more passes than it
 *         has swept for, it sweeps its registers and private memory
 * Registers and private memory are thus swept by their own process, on its own core, and never by one that is asleep. That
 * is the invariant: no operation begins between (4) and the end of (5), and the one that asked for the pass does (5)
 * before it returns.
 *
 * With which paint? A process that sleeps over (3) sweeps with its shadow as it is at (5), maybe much later. Only the
 * process itself writes its shadow, and to paint and to clear are operations: so they come after (5), and the shadow at
 * (5) is that of (3). The record names the last reservation that left quarantine, and no other is needed: the broker lets
 * one go only in a pass that the process has asked for, and who asks has swept for all passes before.
 *
 * Sweeping is done inside the gate, while the other threads are kept out: the next pass waits for it.
 *
 * Deaths. The broker before (3): nobody sweeps, the gate stays closed, and every operation ends with STATUS_BROKER_GONE.
 * Between (3) and (4) as well. A process before or in (5): what was to be swept ends with it. The process that asked, at
 * any time: the broker goes on, and the pass is made for nobody.
 *
 * Fork waits for the pass (it is inside the gate). The child has a record and a shadow of its own: parent and child hold
 * the same values, and each loses its own. Both come from the broker with the plan of the fork; the paint is copied
 * between `before` and the fork itself, when no thread can paint, and only if there is any. The child counts passes from
 * there on.
 *
 * A pass may be made machine-wide: then it also reaches what its members have let others have (origin.h).
 *
 * Pages of MAP_PRIVATE objects that were never written show the object's tags. Those of its own objects the broker has
 * taken; where the object is another's, it keeps them, and the page becomes this process's own first (private.h).
 */
#ifndef CAPSHM_REVOKE_H
#define CAPSHM_REVOKE_H

#include "fault.h"
#include "gate.h"
#include "sweep.h"

enum { REVOCATION_RECORDS = 1 << 16 }; /* as many as the gate has slots; record 0 is the machine's (origin.h) */

/* What the broker says about one address space; the process can only read it. */
struct revocation_record {
    _Alignas(64) _Atomic uint64_t enqueue; /* the published pair of the epoch clock (cheribsd:2.2) */
    _Atomic uint64_t dequeue;
    _Atomic uint64_t passes;  /* made for this address space */
    _Atomic uint64_t leaving; /* the reservation that left quarantine last */
    _Atomic uint64_t leaving_limit;
    _Atomic uint64_t leaving_pass; /* in which of them */
    _Atomic uint32_t origin; /* its number (origin.h); 0: there is no such address space */
    _Atomic uint32_t painted_stamps; /* roots (stamps.h): of what it had painted, and of what has left its quarantine */
    _Atomic uint32_t left_stamps;
};

_Static_assert(sizeof(struct revocation_record) == 64, "a record is a cache line");

/* What sweeps of one's own have met since the counts were taken last. */
struct revocation_counts {
    struct sweep_counts tags;
    uint64_t pages; /* of private memory whose tags were looked at */
    uint64_t pages_read_only; /* those of objects, seen through MAP_PRIVATE */
    uint64_t pages_skipped; /* in the same 2 MiB as others, but clean */
    uint64_t pages_cleaned; /* found without tags for the second time */
    uint64_t nanoseconds;
};

/* The shadow and the record of this process; with no machine a shadow alone, that all processes of the gate share. */
struct revocation {
    struct shadow shadow;
    uint64_t *bits; /* the shadow's, to paint */
    _Atomic int64_t painted; /* granules */
    const struct revocation_record *records; /* NULL: no machine */
    const struct revocation_record *record; /* NULL: no machine, or none yet */
    uint64_t passes; /* swept for */
    uint64_t epoch; /* of the gate, where there is no machine: swept for */
    struct revocation_counts counts;
};

extern struct revocation revocation __attribute__((visibility("hidden")));

/* For a process that joins a gate; is_shared: there is no machine. False: errno tells why. With the lock in hand, as all of
 * these. */
bool revocation_begin(const struct gate *gate, bool is_shared);
void revocation_end(void);

/* Whether there is something to sweep before the next operation. */
bool revocation_is_due(const struct gate *gate);

/* Inside the gate, the other threads kept out: sweeps what is due. STATUS_NO_MEMORY: no page for a copy; STATUS_AGAIN: a
 * line was held, *held and *lock name it; nothing counts as swept after these. */
struct line_place;
enum status revocation_sweep(const struct gate *gate, struct line_place *held, uint64_t *lock);

/* Fork. before: others kept out, inside the gate. in_child: STATUS_NO_MEMORY if the child has no shadow. */
void revocation_fork_before(void);
enum status revocation_fork_in_child(void);

/* Whether a pass was made between two moments that revocation.passes has named. A stage is of the first (private.h). */
bool revocation_was_swept_since(uint64_t passes);

#endif
