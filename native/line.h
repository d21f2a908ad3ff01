/* line.h: the hot half of sideband.h, inline: a capability operation is a few nanoseconds, and a call with its
 * arguments in memory would double it. Numbers in comments are the steps of sideband.h.
 */
#ifndef CAPSHM_LINE_H
#define CAPSHM_LINE_H

#include "compiler.h"
#include "program.h"
#include "sideband.h"
#include "step.h"

#define LOCK_SLOT UINT64_C(0xffff) /* of a lock word: its holder */

ALWAYS_INLINE bool line_is_alone(const struct region *region) {
    return !atomic_load_explicit(&region->is_locking, memory_order_relaxed);
}

/* Whether values of other address spaces may lie here. Whoever has seen a tag of one, or is the one to replace it, sees
 * this: it is set before the first such value is stored (revoke.h). */
ALWAYS_INLINE bool line_has_origins(const struct region *region) {
    return atomic_load_explicit(&region->has_origins, memory_order_relaxed);
}

static inline uint32_t *line_origin_of(const struct region *region, uint64_t address) {
    return (uint32_t *)(region->origins_origin + address / ORIGIN_UNIT);
}

/* (4), of an origin as it goes with values that are passed on. False: it faulted. */
ALWAYS_INLINE bool line_store_origin(const struct region *region, uint64_t address, uint32_t origin) {
    return program_store_origin(line_origin_of(region, address), origin != 0 ? origin : region->own_origin);
}

/* (6), for granules that are to be tagged. */
ALWAYS_INLINE void line_reset_clear(const struct line_place *place, uint64_t tags) {
    if (unlikely(atomic_load_explicit(place->clear, memory_order_relaxed) & tags))
        atomic_fetch_and_explicit(place->clear, ~tags, memory_order_release);
    STEP(CLEAR_MAP_RESET);
}

/* Stores one value, with its origin behind it, where one thread alone can reach the line. False: it faulted, and the granule is untagged.
 * The place is worked out piece by piece: kept whole, it would not fit into the registers that need not be saved. */
ALWAYS_INLINE bool line_store_alone(struct region *region, uint64_t address, const struct granule *value, bool tag) {
    const uint64_t bit = (uint64_t)1 << (address >> GRANULE_SHIFT & (LINE_GRANULES - 1));
    const bool is_stored =
        (!tag || (likely(program_store(line_place_of(region, address, 1).twin, value)) &&
                  (likely(!line_has_origins(region)) || line_store_origin(region, address, *granule_origin(value))))) &&
        likely(program_store((struct granule *)address, value));
    STEP(DATA_STORED);
    const struct line_place place = line_place_of(region, address, 1);
    if (tag)
        line_reset_clear(&place, bit);
    const uint64_t before = atomic_load_explicit(&place.line->tags, memory_order_relaxed);
    const uint64_t after = tag && is_stored ? before | bit : before & ~bit;
    if (unlikely(after != before))
        atomic_store_explicit(&place.line->tags, after, memory_order_relaxed);
    STEP(TAGS_SET);
    return is_stored;
}

/* Loads one granule when nothing is out of the ordinary. False: held, changed, faulted, cleared, a tag bit over a twin
 * that differs, or somebody else's value; nothing was done then. */
ALWAYS_INLINE bool line_load_quickly(const struct line_place *place, struct granule *value, bool *tag) {
    const uint64_t lock = atomic_load_explicit(&place->line->lock, memory_order_acquire); /* (1) */
    if (unlikely(lock & LOCK_SLOT))
        return false;
    *tag = atomic_load_explicit(&place->line->tags, memory_order_acquire) >> place->first & 1; /* (2) */
    STEP(LOAD_BEGUN);
    if (unlikely(!program_load(place->data, value)))
        return false;
    if (*tag) {
        struct granule twin;
        if (unlikely(!program_load(place->twin, &twin)) ||
            unlikely((twin.address ^ value->address) | (twin.metadata ^ value->metadata)) ||
            unlikely(atomic_load_explicit(place->clear, memory_order_acquire) >> place->first & 1))
            return false;
        uint32_t origin = place->region->own_origin;
        if (line_has_origins(place->region) &&
            (unlikely(!program_load_origin(line_origin_of(place->region, (uint64_t)place->data), &origin)) ||
             unlikely(origin != place->region->own_origin)))
            return false;
    }
    STEP(LOAD_COPIED);
    atomic_signal_fence(memory_order_seq_cst);
    return likely(atomic_load_explicit(&place->line->lock, memory_order_relaxed) == lock); /* (3) */
}

#endif
