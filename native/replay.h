/* replay.h: a recorded program's allocations, done again.
 *
 * A trace (capshm/lab/trace.py) is a row of events for each process. Allocations have numbers, given out again when they
 * are free, so that a table as long as the most that ever lived at once finds them all. A child has its parent's
 * numbers up to the fork, and after that its own.
 */
#ifndef CAPSHM_REPLAY_H
#define CAPSHM_REPLAY_H

#include <stdint.h>

enum replay_kind {
    REPLAY_ALLOCATE, /* number: it is free. size: in bytes */
    REPLAY_FREE,     /* number: it lives */
    REPLAY_RESIZE,   /* number: it lives. size: in bytes */
    REPLAY_EXEC,     /* a new program: nothing lives any more */
    REPLAY_FORK,     /* number: of the new process, in the trace */
    REPLAY_WAIT,     /* number: of a child that has ended by now */
};

struct replay_event {
    uint32_t kind; /* enum replay_kind */
    uint32_t number;
    uint64_t size;
};

_Static_assert(sizeof(struct replay_event) == 16, "files have it like this");

#endif
