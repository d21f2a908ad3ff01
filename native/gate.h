/* gate.h: how the world is stopped without interrupting anybody.
 *
 * Who must be stopped? A thread that is not inside a capability operation needs no interruption: it must only be kept
 * from starting one. So each operation sets its thread's in-operation flag, tests the gate's signal, and clears the
 * flag at the end. Whoever closes the gate changes the signal, issues one membarrier and waits until no flag is set.
 *
 *     operation                               closer
 *     (1) in_operation = 1                    (1) signal: closer 0 -> the closer's slot
 *     (2) compiler barrier                    (2) membarrier(GLOBAL_EXPEDITED)
 *     (3) signal == seen ? go on : slow path  (3) for each slot: wait until in_operation == 0 or its owner is dead
 *     (4) ... the operation ...
 *     (5) in_operation = 0 (release)
 *
 * Invariant: once (3) of the closer is done, no thread touches a capability until the gate opens. A thread that the
 * membarrier finds before (1) reads the closed signal at (3); one that it finds after (1) has made its flag visible.
 * The order of (1) and (3) would need a full fence, 5 ns for each operation; the membarrier moves that price to the
 * closer, 2 to 4 us for each stop.
 *
 * The signal is the number of openings and the slot of whoever has closed the gate, in one word that is never the same
 * twice, so that nobody ever takes a living closer for a dead one. A thread goes on only if the signal is the one that
 * it has seen last; so the one comparison also catches it after an opening, and if that began a new epoch, it sweeps
 * its process's registers before it loads or stores again. A process that was asleep all the time pays then, and nobody
 * before. If the closer dies, whoever waits for it opens the gate; unless it was the keeper.
 *
 * The keeper is the broker of a machine, which closes the gate for revocations. When it dies nobody is left who could
 * say what was swept, so a gate that it has closed stays so, and every operation ends with STATUS_BROKER_GONE.
 *
 * A thread whose flag is set is not stopped, whatever its state: stopped by SIGSTOP inside an operation, it would store
 * the old value when it goes on. The closer waits for the flag, for the owner's death, and at most for its timeout;
 * then the gate opens again and the stragglers are named. A keeper may also run a stopped thread out of its operation
 * (run_out.h). No operation waits for anything but memory while its flag is set.
 *
 * Slots. Every thread has a slot in the shared gate. Its owner word is the pid and the start time of its process, so
 * that neither a slot nor a pid is ever mistaken for its earlier life. While a thread holds the lock of a tag line,
 * `target` names it: after a death whoever reuses the slot, or waits for the line, finds the lock and frees it. A death
 * leaves in_operation and target as they were; both are read only together with the question whether the owner lives.
 *
 * A process that came by fork without the hooks (a raw clone in C) is not attached: the memory that points to its slot
 * is wiped by the kernel (MADV_WIPEONFORK), the first operation finds nothing there and is refused.
 */
#ifndef CAPSHM_GATE_H
#define CAPSHM_GATE_H

#include <stdbool.h>

#include "compiler.h"
#include "fault.h"
#include "granule.h"
#include "step.h"

enum {
    GATE_SLOTS = 1 << 16, /* the lock field of a tag line has 16 bits for the holder; slot 0 stands for nobody */
    GATE_OPENING_SHIFT = 16,
    GATE_OBJECTS = 1 << 24, /* a slot's target has 24 bits for the object; 0 stands for none */
    GATE_OWNER_PID_SHIFT = 42, /* Linux has 22 bits of pid at most; 42 bits of ticks are more than a thousand years */
};

enum gate_position { GATE_OUTSIDE, GATE_INSIDE, GATE_AMID_FORK };

struct gate_slot {
    _Alignas(64) _Atomic uint64_t owner; /* pid << 42 | start time in clock ticks since boot; 0: free */
    _Atomic uint64_t target;             /* object << 40 | tag line + 1; 0: no line is locked by this slot */
    _Atomic uint64_t halted;             /* the gate's signal when a signal came to its thread last (halt.h) */
    _Atomic uint32_t in_operation;       /* an enum gate_position: a flag for all but who runs threads out */
    _Atomic int32_t thread;              /* of its owner */
};

struct gate {
    _Alignas(64) _Atomic uint64_t signal; /* openings << 16 | slot of whoever closed it, 0 while it is open */
    _Atomic uint64_t epoch;      /* grows before an opening after which everybody has to sweep */
    _Atomic uint32_t slots_used; /* no slot from here on was ever claimed; a power of two */
    _Atomic uint32_t hand;       /* where the next claim looks for a slot */
    _Atomic uint32_t claims;     /* since the hand's round began */
    _Atomic uint32_t objects;    /* numbers given to objects so far, GATE_OBJECTS - 1 at most */
    _Atomic uint32_t keeper;     /* the broker's slot; 0: nobody's */
    struct gate_slot slots[GATE_SLOTS];
};

/* What a thread needs at each operation; in memory that a fork wipes. */
struct gate_member {
    struct gate_slot *slot; /* NULL: this thread has none yet, or this process is not attached */
    struct gate *gate;
    _Atomic uint64_t seen;
    uint64_t lock_identity; /* the slot's number, as it goes into lock words */
};

extern _Thread_local struct gate_member *thread_member __attribute__((tls_model("initial-exec")));

/* Enters if nothing stands in the way; NULL if something does: process_enter finds out what. */
static inline struct gate_slot *gate_try_enter(void) {
    struct gate_member *const self = thread_member;
    struct gate_slot *const slot = self->slot;
    if (unlikely(slot == NULL))
        return NULL;
    atomic_store_explicit(&slot->in_operation, GATE_INSIDE, memory_order_relaxed);
    atomic_signal_fence(memory_order_seq_cst); /* partner: the closer's membarrier */
    const uint64_t signal = atomic_load_explicit(&self->gate->signal, memory_order_acquire);
    if (unlikely(signal != atomic_load_explicit(&self->seen, memory_order_relaxed))) {
        atomic_store_explicit(&slot->in_operation, GATE_OUTSIDE, memory_order_release);
        return NULL;
    }
    STEP(OPERATION_ENTERED);
    return slot;
}

static inline void gate_leave_slot(struct gate_slot *slot) {
    atomic_store_explicit(&slot->in_operation, GATE_OUTSIDE, memory_order_release);
    STEP(OPERATION_LEFT);
}

static inline void gate_leave(void) {
    gate_leave_slot(thread_member->slot);
}

/* Asks the kernel for what gates need: membarrier, for which it registers this process, and pidfd_open, without which
 * nobody could tell the dead from the living. False: errno tells why. */
bool gate_register_process(void);

/* A full memory barrier in every running thread of every process that is registered: 2 to 4 us, so that others need
 * none. */
void gate_barrier_everywhere(void);

/* Frees the lock that a slot of a dead owner holds on the line that target names; number is the slot's. Others may do
 * the same, and the slot may have a new owner by then: only a lock that was read while the owner was still the dead one
 * may be freed. False: the line is not in this process's reach. */
typedef bool gate_recovery(const struct gate_slot *slot, uint32_t number, uint64_t owner, uint64_t target);

/* Gives a member a slot of the gate, reusing those of the dead. False: all are taken by the living, or cannot be
 * freed. */
bool gate_claim_slot(struct gate *gate, struct gate_member *member, gate_recovery *recover);
void gate_release_slot(struct gate_member *member);

/* True if the process that claimed the slot with this owner word has ended. Costs some system calls. */
bool gate_owner_is_dead(uint64_t owner);

static inline int32_t gate_owner_pid(uint64_t owner) {
    return (int32_t)(owner >> GATE_OWNER_PID_SHIFT);
}

/* Makes this process the keeper of a gate in which nobody has a slot yet: its one thread can close and open it, and does
 * no operations. */
bool gate_keep(struct gate *gate);

/* Whether that process is the keeper of this process's gate. False in one that is not attached, or came without hooks. */
bool gate_is_keeper(int32_t pid);

/* In a signal handler: notes in the thread's slot that the signal has come, and parks while the gate stays closed as it
 * is, its keeper lives, and unless the thread is inside an operation. Async-signal-safe. */
void gate_park_interrupted(void);

/* What keeps a member out. */
enum gate_obstacle {
    GATE_IS_OPEN,   /* the signal has changed since the member last looked: *signal is what it may see now */
    GATE_IS_CLOSED, /* still, after a while or an interruption by a (Unix) signal */
    GATE_IS_MINE,   /* closed by the member itself */
    GATE_IS_ABANDONED, /* closed by the keeper, which is dead */
};

/* Waits while the gate is closed, but not for long: looks whether the closer still lives. */
enum gate_obstacle gate_wait(struct gate_member *member, uint64_t *signal);

/* Closes the gate over everyone but the calling thread, which must have a slot and be outside any operation.
 * timeout: nanoseconds. STATUS_INCOMPLETE: the gate is open again, or another's; stragglers holds the first capacity of
 * the *straggler_count processes that were waited for in vain. */
enum status gate_close(uint64_t timeout, int32_t *stragglers, size_t capacity, size_t *straggler_count);

bool gate_is_closed_by_this_thread(void);

/* Opens the gate. With a new epoch every process sweeps its registers before its next operation. */
void gate_open(bool is_new_epoch);

#endif
