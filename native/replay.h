/* replay.h: a recorded program's allocations, done again.
 *
 * A trace (capshm/lab/inputs/trace.py) is a row of events for each process. Allocations have numbers, given out again when they
 * are free, so that a table as long as the most that ever lived at once finds them all. A child has its parent's
 * numbers up to the fork, and after that its own.
 *
 * The loop is there once, and runs in one of two worlds: with the allocator of capshm (allocator.h) and capabilities, or
 * with the C library's and plain pointers. In both the program does the same with its memory: the table is memory of the
 * program, an allocation gets a pointer to the one before it in its first granule, or in more of them that stand evenly,
 * and a byte at its end. The first pointer and the byte are read before it is freed.
 */
#ifndef CAPSHM_REPLAY_H
#define CAPSHM_REPLAY_H

#include <stdbool.h>
#include <stdint.h>

#include "fault.h"

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

/* What is known of an allocation, by its number. */
struct replay_slot {
    uint64_t length; /* that may be used */
    bool is_live;
};

enum {
    REPLAY_OLD,   /* registers: what is freed or resized, */
    REPLAY_NEW,   /* what is allocated, */
    REPLAY_OTHER, /* and what an allocation points to */
    REPLAY_REGISTERS,
};

/* A process that replays its events. A fork copies it, with the slots and the table. */
struct replay {
    const struct replay_event *events;
    uint64_t count;
    uint64_t position; /* of the next event */
    struct replay_slot *slots;
    uint32_t slot_count;
    uint32_t newest;    /* number of the allocation that was made last; it may be free by now */
    uint32_t table;     /* emulated: the register of the capability to slot_count granules */
    uint32_t registers; /* emulated: the first of REPLAY_REGISTERS in a row */
    uint32_t first_left; /* of the event at position, an exec: numbers below it are free already */
    bool is_taken;      /* the event at position has its memory already, in REPLAY_NEW */
    double density;      /* share of an allocation's granules that point to the one before; one does in any case */
    void **pointers;    /* plain: the table; NULL: emulated */
    uint64_t operations; /* allocations, frees and resizes so far */
    uint64_t checksum; /* of the bytes at the ends of what was freed: the same in both worlds */
};

/* Replays up to the next fork or wait, which is left at position, or to the end.
 * STATUS_MEMORY_NEEDED, STATUS_REVOCATION_DUE, STATUS_MEMORY_UNUSED: the caller does what allocator.h says, and calls
 * again; memory for the event at position is taken into REPLAY_NEW, and is_taken set.
 * STATUS_INVALID: the event at position does not fit those before. */
enum status replay_run(struct replay *replay);

#endif
