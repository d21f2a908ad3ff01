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
 * An area is filled in one of three ways. A graph of count items (DRIVER_ITEM_SIZE bytes each):
 *
 *     count slots of requests     16 bytes: a capability to the request
 *     count slots of answers      16 bytes: empty; whoever has served a request stores the response's capability here
 *     count requests              64 bytes: a capability to the response, and a key
 *     count responses             64 bytes: a sum, which each serving adds to
 *
 * Or rings, one behind the other, each for one process that hands capabilities over and one that takes them; the objects
 * of all of them stand behind the last, or in another area:
 *
 *     DRIVER_RING_HEADER bytes    the two ends: how many were handed over, how many were given back
 *     capacity slots              16 bytes: a capability to the object
 *
 *     capacity objects            64 bytes, for each ring
 *
 * The ends are words that the processes wait at: a short spin, then a futex for a tenth of a second at a time. Nobody here
 * watches the other side: whoever has made the two does, and ends both (capshm/lab/cells/crew.py).
 *
 * Or pages of DRIVER_PAGE_SIZE bytes. A page has a head of 16 bytes, its number and its key, and of its other granules so
 * many as there are to be pointers, up to DRIVER_PAGE_POINTERS, hold a capability to the head; they stand evenly. A heap is
 * nothing but pages; page number i is the i-th. A pool, which many processes share, has
 *
 *     slots of descriptors        16 bytes: a capability to the frame that has its page
 *     latches of descriptors      4 bytes: how many have pinned the page
 *     frames                      one page each
 *
 * One process replaces pages while others read. Key and number of a page together tell its descriptor, and nothing else:
 * so what readers add up is the same whichever page they meet, if what they meet is one page.
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
    DRIVER_RINGS = 64, /* that one process may produce for */
    DRIVER_PAGE_SIZE = 4096,
    DRIVER_PAGE_POINTERS = DRIVER_PAGE_SIZE / 16 - 1,
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
    _Alignas(128) uint64_t operations; /* requests served; capabilities taken from a ring; pages read, or written to */
    uint64_t crossed; /* capabilities that came out of shared memory with their tags */
    uint64_t rederived; /* capabilities that came without, and were derived anew */
    uint64_t refused; /* calls and stores that the policy refused */
    uint64_t checksum; /* of all that was served, or handed over, or taken in shared memory, modulo 2^64 */
    uint64_t forks; /* processes that this one has made */
    uint64_t passes; /* revocations that this one has asked for, and that gave it memory to use again */
    uint64_t pages; /* that passes have visited for it, of 4 KiB, its own and those of objects; */
    uint64_t tag_words; /* words of 64 tags that they have read there; */
    uint64_t tags; /* tags that they have found; */
    uint64_t cleared; /* and those that they have cleared */
};

/* Fills an area with a graph; every answer's slot is left as it is, empty in new memory. */
enum status driver_fill(struct driver_area *area, uint64_t count, uint64_t seed, struct driver_counts *counts);
/* Serves each of the share requests from first on once, in an order that the seed gives: finds the response through the
 * request, adds to its sum, and stores its capability as the answer. */
enum status driver_serve(struct driver_area *area, uint64_t count, uint64_t first, uint64_t share, uint64_t seed,
                         struct driver_counts *counts);
/* Adds up the sums of all responses, found through the answers, in *sum. Every request must have been served. */
enum status driver_collect(struct driver_area *area, uint64_t count, struct driver_counts *counts, uint64_t *sum);

/* Rings in an area, and where their objects are: from first_object on in that area or another. */
struct driver_rings {
    struct driver_area *slots;
    struct driver_area *objects;
    uint64_t first_object;
    uint32_t count;
    uint32_t capacity;
};

/* Hands over total capabilities through each of the rings, to objects that it has written, and waits until all of them
 * were given back. */
enum status driver_produce(const struct driver_rings *rings, uint32_t total, uint64_t seed,
                           struct driver_counts *counts);
/* Takes the capabilities from first up to end out of a ring, reads and writes through each, and gives its slot back. Those
 * before first were taken already. */
enum status driver_consume(const struct driver_rings *rings, uint32_t number, uint32_t first, uint32_t end,
                           struct driver_counts *counts);

/* Fills a heap of so many pages. */
enum status driver_heap_fill(struct driver_area *area, uint64_t pages, uint32_t pointers, uint64_t seed,
                             struct driver_counts *counts);
/* Writes to so many of the pages, in an order that the seed gives: finds the head by a pointer, changes the key, and stores
 * the pointer in the place of another. */
enum status driver_heap_touch(struct driver_area *area, uint64_t pages, uint64_t share, uint32_t pointers,
                              uint64_t seed, struct driver_counts *counts);

struct driver_pool {
    struct driver_area *area;
    uint32_t descriptors;
    uint32_t frames;
    uint32_t pointers; /* in each page */
};

/* Where in the area a frame begins; that behind the last ends the pool. */
uint64_t driver_pool_frame(const struct driver_pool *pool, uint32_t frame);
/* Reads the page of every descriptor once, in an order that the seed gives: pins it, finds its head through the descriptor
 * and a pointer in the page, unpins it. */
enum status driver_pool_read(const struct driver_pool *pool, uint64_t seed, struct driver_counts *counts);
/* Has each descriptor lead to a page in its frame. frames: those of all descriptors, and then those to spare. The seed is
 * the same in all calls but driver_pool_read. */
enum status driver_pool_fill(const struct driver_pool *pool, const uint32_t *frames, uint64_t seed,
                             struct driver_counts *counts);
/* Replaces pages, numbered from first_page on, by pages in spare frames from number *done on, which are used up or not: of
 * those descriptors that nobody has pinned, in the order of the candidates, which are all descriptors. frames: the emptied
 * ones are to spare now. */
enum status driver_pool_replace(const struct driver_pool *pool, uint32_t *frames, const uint32_t *candidates,
                                uint64_t first_page, uint64_t seed, struct driver_counts *counts, uint32_t *done);

/* From now on the kernel kills the calling process when its parent has ended. False: that is not the parent any more, or
 * errno tells why not. */
bool driver_end_with(int32_t parent);

#endif
