/* slots.h: which part of the program's memory is which allocation. Bookkeeping alone: no capability, gate or lock; the
 * allocator (allocator.c) keeps its threads apart.
 *
 * A span is memory that was handed in: a chunk of slots of one size, or a mapping that is one slot. A table by pages finds
 * the span of an address. Each slot has a word: free, and then the number of the next free slot of its span; live; or in
 * quarantine. Spans of one size with a free slot are in a list. So taking, finding and freeing a slot take a fixed number
 * of steps, whatever is allocated.
 *
 * Tables are reserved for the whole arena and take memory only where they are used.
 */
#ifndef CAPSHM_SLOTS_H
#define CAPSHM_SLOTS_H

#include <stdbool.h>
#include <stdint.h>

enum {
    SLOT_LARGEST_IN_CHUNK = 32 << 10,
    SLOT_CLASSES = 28,
};

struct span {
    uint64_t base;
    uint64_t slot_size;
    uint32_t slot_count;
    uint32_t slots_used; /* no slot from here on was ever taken */
    uint32_t first_free; /* number of a slot + 1; 0: none but the unused */
    uint32_t memory;     /* register of the capability to all of it */
    uint32_t *states;
    struct span *next; /* in the list of its class, of the unused mappings, or of the free spans; or in none */
    uint32_t only_state; /* of a mapping that is one slot */
};

/* A slot, or none: span NULL. */
struct slot {
    struct span *span;
    uint32_t number;
};

enum slot_state {
    SLOT_FREE,
    SLOT_LIVE,
    SLOT_QUARANTINED,
};

static inline uint64_t slot_address(struct slot slot) {
    return slot.span->base + slot.number * slot.span->slot_size;
}

/* A mapping that is one slot, not a chunk. */
static inline bool slot_is_mapping(struct slot slot) {
    return slot.span->slot_size > SLOT_LARGEST_IN_CHUNK;
}

/* The bytes that a slot for an allocation of this length has in a chunk; length 1 .. SLOT_LARGEST_IN_CHUNK. */
uint64_t slot_size_for(uint64_t length);

/* The bytes of a chunk to be mapped next for allocations of this length: as many as its class has, within limits. */
uint64_t slots_chunk_size(uint64_t length);

/* Takes a free slot for an allocation of this length; of a mapping of its own there is none. */
struct slot slots_take(uint64_t length);

/* Makes a span of memory at base, whole pages of the arena, and takes its first slot. states: a word for each slot of a
 * chunk, all zero, from calloc; NULL for a mapping. None: no memory for the tables, errno tells why. */
struct slot slots_add(uint64_t base, uint64_t slot_size, uint32_t slot_count, uint32_t memory, uint32_t *states);

/* The slot that begins at this address, in whatever state. */
struct slot slots_find(uint64_t address);

enum slot_state slot_state(struct slot slot);
void slot_set_quarantined(struct slot slot);
/* Free again. A mapping joins the unused ones. */
void slot_set_free(struct slot slot);

bool slots_has_unused(void);

/* Takes a mapping whose slot is free out of the unused ones; none: span NULL. */
struct slot slots_take_unused(void);
/* The mapping that was taken out, by its span's number; none: span NULL. */
struct slot slots_find_taken(uint32_t span_number);
uint32_t slot_span_number(struct slot slot);
/* One that was taken out: back to the unused ones, or gone. */
void slot_put_back(struct slot slot);
void slot_drop(struct slot slot);

/* Calls release with the register of each span, and forgets everything. */
void slots_forget(void (*release)(uint32_t memory));

#endif
