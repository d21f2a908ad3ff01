/* run_out.h: how a keeper gets a stopped thread out of its operation without letting it go on.
 *
 * A thread that is stopped in the middle of an operation keeps every pass waiting. It can be run on by ptrace, and by it
 * alone: the stop is the process's (SIGSTOP, or a terminal's), and stays so for all its other threads.
 *
 *     (1) SEIZE, INTERRUPT    this thread alone is halted now, still as part of a stopped process
 *     (2) its signals but those that a fault raises are blocked: what is pending stays so until somebody continues it
 *     (3) SINGLESTEP, until its flag is clear or the deadline is over
 *     (4) its signals are unblocked, DETACH: the kernel puts it back into the stop of its process
 *
 * So it does the instructions of its operation, and none of what comes after. With CONT and INTERRUPT instead of single
 * steps it takes a tenth of the time, but whoever is not scheduled in between sees the stopped process go on with its
 * program, for milliseconds on a busy machine. That is done only where the steps are too many, in copies of several
 * KiB.
 *
 * Its parent is told of nothing: the process was stopped, and is. If somebody continues the process meanwhile it goes on
 * after (4). It may be killed at any time. If the keeper dies at (2) to (4) the kernel stops the thread again, and its
 * signals stay blocked; its machine has ended.
 *
 * Not run out: a thread amid a fork, which would make a child of a stopped process that runs; one that another process
 * traces; one that this process may not trace. A keeper that is neither root nor the client's own user may not, nor one
 * whose clients are hardened; under Yama each process names the keeper (run_out_permit).
 *
 * The keeper waits without a bound at (1) and (4) for a thread that is not interruptible then: inside a page fault, which
 * ends unless a file system hangs.
 */
#ifndef CAPSHM_RUN_OUT_H
#define CAPSHM_RUN_OUT_H

#include <stdbool.h>
#include <stdint.h>

#include "gate.h"

/* If the slot's thread, of that process, is stopped inside an operation: runs it out of it. True: it is outside, or dead.
 * deadline: of CLOCK_MONOTONIC, in ns. */
bool run_out(const struct gate_slot *slot, int32_t pid, uint64_t deadline);

/* Lets that process trace this one where the kernel asks for it (PR_SET_PTRACER); a child of a fork says it for itself. */
void run_out_permit(int32_t keeper);

#endif
