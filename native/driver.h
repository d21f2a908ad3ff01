/* driver.h: the inner loops of the laboratory's workloads, so that a cell measures policies and not an interpreter.
 *
 * Each loop is there once, and runs in one of two worlds. In the emulated world an area of memory is a capability in a
 * register, and the driver reaches it by the operations of capshm.h, as any program does: it has no other way. In the
 * plain world an area is an address, and what would be a capability is two words without a tag, the bounds (how many
 * bytes) and the address (counted from the area's beginning, so that not everybody must map it at the same place).
 *
 * What a policy takes away a program makes up for, as real software would. A capability that comes out of shared memory
 * without its tag is derived anew: from the program's own authority over the area, with the address and the bounds that
 * the untagged bits speak of. A store that is refused because the area holds no capabilities tells the program so once;
 * from then on it stores them without their tags.
 *
 * An area is filled in one of two ways. A graph of count items (DRIVER_ITEM_SIZE bytes each):
 *
 *     count slots of requests     16 bytes: a capability to the request
 *     count slots of answers      16 bytes: empty; whoever has served a request stores the response's capability here
 *     count requests              64 bytes: a capability to the response, and a key
 *     count responses             64 bytes: a sum, which each serving adds to
 *
 * Or rings, one behind the other, each for one process that hands capabilities over and one that takes them:
 *
 *     DRIVER_RING_HEADER bytes    the two ends: how many were handed over, how many were given back
 *     capacity slots              16 bytes: a capability to the object
 *     capacity objects            64 bytes
 *
 * The ends are words that the processes wait at: a short spin, then a futex for a tenth of a second at a time. Nobody here
 * watches the other side: whoever has made the two does, and ends both (capshm/lab/crew.py).
 *
 * Every function returns STATUS_OK, or the refusal of the operation at which it stopped; what was done before stays.
 */
#ifndef CAPSHM_DRIVER_H
#define CAPSHM_DRIVER_H

#include <stdbool.h>
#include <stdint.h>

#include "fault.h"

enum {
    DRIVER_OBJECT_SIZE = 64,
    DRIVER_ITEM_SIZE = 2 * 16 + 2 * DRIVER_OBJECT_SIZE,
    DRIVER_RING_HEADER =
        1024, /* as much as one tag line speaks for, so that raw words and tags have nothing in common */
    DRIVER_RING_ITEM_SIZE = 16 + DRIVER_OBJECT_SIZE,
    DRIVER_RINGS = 16, /* that one process may produce for */
    DRIVER_REGISTERS = 3,
};

/* A program's way to an area: its own, not shared with another process. */
struct driver_area {
    uint64_t memory;    /* plain world: where the area begins; 0: emulated */
    uint32_t authority; /* emulated: the register of the capability to the area, whose address is where it begins */
    uint32_t registers; /* the first of DRIVER_REGISTERS in a row that the driver may use */
    bool is_shared;     /* what is loaded comes from another process, and counts as crossed if it has its tag */
    bool is_data_only;  /* the program knows that it cannot store capabilities there */
};

/* What one process has done. Each has cache lines of its own. */
struct driver_counts {
    _Alignas(128) uint64_t operations; /* requests served; capabilities taken from a ring */
    uint64_t crossed;    /* capabilities that came out of shared memory with their tags */
    uint64_t rederived;  /* capabilities that came without, and were derived anew */
    uint64_t refused;    /* calls and stores that the policy refused */
    uint64_t checksum;   /* of all that was served, or handed over, or taken in shared memory, modulo 2^64 */
    uint64_t forks;      /* processes that this one has made */
    uint64_t passes;     /* revocations that this one has asked for, and that gave it memory to use again */
    uint64_t pages;      /* that passes have visited for it, of 4 KiB, its own and those of objects; */
    uint64_t tag_words;  /* words of 64 tags that they have read there; */
    uint64_t tags;       /* tags that they have found; */
    uint64_t cleared;    /* and those that they have cleared */
};

/* Fills an area with a graph; every answer's slot is left as it is, empty in new memory. */
enum status driver_fill(struct driver_area *area, uint64_t count, uint64_t seed, struct driver_counts *counts);
/* Serves each of the share requests from first on once, in an order that the seed gives: finds the response through the
 * request, adds to its sum, and stores its capability as the answer. */
enum status driver_serve(struct driver_area *area, uint64_t count, uint64_t first, uint64_t share, uint64_t seed,
                         struct driver_counts *counts);
/* Adds up the sums of all responses, found through the answers, in *sum. Every request must have been served. */
enum status driver_collect(struct driver_area *area, uint64_t count, struct driver_counts *counts, uint64_t *sum);

/* Hands over total capabilities through each of the rings that the area begins with, to objects that it has written, and
 * waits until all of them were given back. */
enum status driver_produce(struct driver_area *area, uint32_t rings, uint32_t capacity, uint32_t total, uint64_t seed,
                           struct driver_counts *counts);
/* Takes total capabilities out of ring number ring, reads and writes through each, and gives its slot back. */
enum status driver_consume(struct driver_area *area, uint32_t ring, uint32_t capacity, uint32_t total,
                           struct driver_counts *counts);

/* From now on the kernel kills the calling process when its parent has ended. False: that is not the parent any more, or
 * errno tells why not. */
bool driver_end_with(int32_t parent);

#endif
