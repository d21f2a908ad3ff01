/* process.h: what one process of the core keeps, how its threads come and go, and how it forks.
 *
 * All of it is private memory, so a fork copies it. One thing must not be copied, and the kernel wipes the memory
 * that holds it (MADV_WIPEONFORK): the threads' members, which point to gate slots of the parent. A child that ran
 * the hooks gets members of its own; one that did not has none and is refused everywhere.
 *
 * Fork, in order. before: quiesce the other threads; enter the gate, so that no pass runs (cheribsd:F23), and stay
 * inside; make all shared mappings lock their tag lines, because from now on two processes store. parent: leave,
 * resume. child: rebuild the mutex and the members, claim a slot. A child that dies or fails before that holds no slot
 * and no lock.
 *
 * Quiescing: the other threads' `seen` is set to a value that no signal has, one membarrier, and their flags are waited
 * for. They meet in the slow path at the process's mutex and go on when it is free. It costs the operations nothing.
 */
#ifndef CAPSHM_PROCESS_H
#define CAPSHM_PROCESS_H

#include <stdbool.h>

#include "fault.h"
#include "gate.h"

struct process {
    struct gate *gate;
    uint64_t lock_timeout; /* ns to wait for a living holder of a tag line */
    bool (*interruption)(void); /* asked now and then by threads that are parked; true: the operation is given up */
    bool is_rvy;           /* a store that lacks StoreCap or StoreLocal strips the tag, no fault (cheribsd:5.3) */
};

extern struct process process __attribute__((visibility("hidden")));

/* Guards everything in the process that is not reached by operations: regions, free registers, members. Giving it back for
 * the last time, a thread does what other processes ask of this one (remote.h). */
void process_lock(void);
void process_unlock(void);

/* For a signal handler: whether its thread is inside an operation or has the lock in hand, or is about to. */
bool process_is_thread_inside(void);
/* Has the thread's next operation take the slow way, where the lock is taken and given back. */
void process_delay_thread(void);

/* The descriptor of the connection to the broker (capshm_keep_from_children); -1: there is none, or none any more. */
int process_connection(void);

/* Opens the way into an operation, or finds out why not: parks while the gate is closed, sweeps after a pass (revoke.h),
 * gives a new thread its slot. STATUS_AGAIN: try again. STATUS_NOT_ATTACHED, STATUS_NO_MEMORY, STATUS_BROKER_GONE,
 * STATUS_HOLDER_STOPPED of a line that must be copied to be swept, STATUS_INTERRUPTED if the interruption says so, or
 * STATUS_GATE_CLOSED for the thread that has closed the gate: it would wait for itself. */
enum status process_clear_way(void);

/* Enters an operation; gate_leave ends it. */
static inline enum status process_enter(void) {
    while (unlikely(gate_try_enter() == NULL)) {
        const enum status status = process_clear_way();
        if (status != STATUS_AGAIN)
            return status;
    }
    return STATUS_OK;
}

/* True if no second thread of the process has come to an operation, and no fork is under way. With the lock in hand. */
bool process_is_alone(void);

/* In the child of a fork: owner-bound objects lose their tags (mapping.c). */
void mapping_lose_tags_at_fork(void);

/* Waits until no other thread of the process is inside an operation and keeps them out; the mutex is held between. */
void process_quiesce(void);
void process_resume(void);

#endif
