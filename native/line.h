/* line.h: the hot half of sideband.h, inline: a capability operation is a few nanoseconds, and a call with its
 * arguments in memory would double it. Numbers in comments are the steps of sideband.h.
 */
#ifndef CAPSHM_LINE_H
#define CAPSHM_LINE_H

#include "clock.h"
#include "gate.h"
#include "program.h"
#include "sideband.h"

#define ALWAYS_INLINE static inline __attribute__((always_inline))

enum { LOCK_GRANULE_SHIFT = 16, LOCK_SPINS = 100 };
#define LOCK_SLOT UINT64_C(0xffff)
#define LOCK_WHOLE (UINT64_C(1) << 22)
#define LOCK_VERSION_ONE (UINT64_C(1) << 23)

/* The lock word of a dead holder that this thread may not free but read through, and the line that it was met on. */
struct dead_lock {
    const struct tag_line *line;
    uint64_t lock;
};
extern _Thread_local struct dead_lock dead_lock __attribute__((tls_model("initial-exec")));

/* The word that frees this lock. */
static inline uint64_t lock_freed(uint64_t lock) {
    return (lock & ~(LOCK_VERSION_ONE - 1)) + LOCK_VERSION_ONE;
}

/* (1), (2). True: the lock is ours, and *locked is the word to unlock with. */
ALWAYS_INLINE bool line_lock(const struct line_place *place, uint64_t *locked) {
    struct gate_member *const self = thread_member;
    const uint64_t mine =
        (uint64_t)place->first << LOCK_GRANULE_SHIFT | self->lock_identity | (place->count > 1 ? LOCK_WHOLE : 0);
    uint64_t lock = atomic_load_explicit(&place->line->lock, memory_order_relaxed);
    for (uint32_t spin = 0; unlikely(lock & LOCK_SLOT); spin++) {
        if (spin == LOCK_SPINS)
            return false;
        clock_relax();
        lock = atomic_load_explicit(&place->line->lock, memory_order_relaxed);
    }
    const uint64_t target = place->region->target_origin + ((uint64_t)place->data >> LINE_DATA_SHIFT);
    atomic_store_explicit(&self->slot->target, target, memory_order_relaxed);
    /* A death between the two leaves a target without a lock, never the reverse. */
    atomic_signal_fence(memory_order_seq_cst);
    STEP(LINE_NAMED);
    *locked = lock | mine;
    if (!atomic_compare_exchange_strong_explicit(&place->line->lock, &lock, *locked, memory_order_acquire,
                                                 memory_order_relaxed)) {
        atomic_store_explicit(&self->slot->target, 0, memory_order_relaxed);
        return false;
    }
    atomic_signal_fence(memory_order_seq_cst);
    STEP(LINE_LOCKED);
    return true;
}

/* (8), (9). */
ALWAYS_INLINE void line_unlock(const struct line_place *place, uint64_t locked) {
    atomic_store_explicit(&place->line->lock, lock_freed(locked), memory_order_release);
    atomic_signal_fence(memory_order_seq_cst);
    STEP(LINE_UNLOCKED);
    atomic_store_explicit(&thread_member->slot->target, 0, memory_order_relaxed);
}

ALWAYS_INLINE bool line_is_alone(const struct region *region) {
    return !atomic_load_explicit(&region->is_locking, memory_order_relaxed);
}

/* (6), for granules that are to be tagged. */
ALWAYS_INLINE void line_reset_clear(const struct line_place *place, uint64_t tags) {
    if (unlikely(atomic_load_explicit(place->clear, memory_order_relaxed) & tags))
        atomic_fetch_and_explicit(place->clear, ~tags, memory_order_release);
    STEP(CLEAR_MAP_RESET);
}

/* Stores one value where one thread alone can reach the line. False: it faulted, and the granule is untagged.
 * The place is worked out piece by piece: kept whole, it would not fit into the registers that need not be saved. */
ALWAYS_INLINE bool line_store_alone(struct region *region, uint64_t address, const struct granule *value, bool tag) {
    const uint64_t bit = (uint64_t)1 << (address >> GRANULE_SHIFT & (LINE_GRANULES - 1));
    const bool is_stored = (!tag || likely(program_store(line_place_of(region, address, 1).twin, value))) &&
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

/* True if the lock word excludes loads of these granules. */
ALWAYS_INLINE bool line_is_held(const struct line_place *place, uint64_t lock) {
    if (likely((lock & LOCK_SLOT) == 0))
        return false;
    const uint32_t granule = (uint32_t)(lock >> LOCK_GRANULE_SHIFT) & (LINE_GRANULES - 1);
    if (!(lock & LOCK_WHOLE) && (granule < place->first || granule >= place->first + place->count))
        return false;
    return dead_lock.line != place->line || dead_lock.lock != lock;
}

enum line_attempt { ATTEMPT_DONE, ATTEMPT_CHANGED, ATTEMPT_HELD, ATTEMPT_FAULTED };

/* One turn of the sequence lock. */
ALWAYS_INLINE enum line_attempt line_load_once(const struct line_place *place, char *values, size_t stride,
                                               uint64_t *tagged) {
    const uint64_t lock = atomic_load_explicit(&place->line->lock, memory_order_acquire); /* (1) */
    if (unlikely(line_is_held(place, lock)))
        return ATTEMPT_HELD;
    const uint64_t mask = line_mask(place->first, place->count);
    const uint64_t set = atomic_load_explicit(&place->line->tags, memory_order_acquire) & mask; /* (2) */
    const uint64_t cleared = set == 0 ? 0 : atomic_load_explicit(place->clear, memory_order_acquire);
    const uint64_t candidates = (set & ~cleared) >> place->first;
    uint64_t differing = 0;
    STEP(LOAD_BEGUN);
    for (uint32_t i = 0; i < place->count; i++) {
        struct granule *const data = (struct granule *)(values + i * stride);
        if (unlikely(!program_load(&place->data[i], data)))
            return ATTEMPT_FAULTED;
        if (candidates >> i & 1) {
            struct granule twin;
            if (unlikely(!program_load(&place->twin[i], &twin)))
                return ATTEMPT_FAULTED;
            const bool differs = ((data->address ^ twin.address) | (data->metadata ^ twin.metadata)) != 0;
            differing |= (uint64_t)differs << i;
        }
    }
    STEP(LOAD_COPIED);
    atomic_signal_fence(memory_order_seq_cst); /* the loads above are acquire loads, or ordered by x86-64 */
    if (unlikely(atomic_load_explicit(&place->line->lock, memory_order_relaxed) != lock)) /* (3) */
        return ATTEMPT_CHANGED;
    *tagged = candidates & ~differing;
    if (unlikely(differing != 0))
        line_scrub(*place, (uint32_t)__builtin_ctzll(differing));
    return ATTEMPT_DONE;
}

/* The same for one granule, when nothing is out of the ordinary. False: held, changed, faulted, cleared, or a tag bit
 * over a twin that differs; nothing was done then. */
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
    }
    STEP(LOAD_COPIED);
    atomic_signal_fence(memory_order_seq_cst);
    return likely(atomic_load_explicit(&place->line->lock, memory_order_relaxed) == lock); /* (3) */
}

/* Loads one granule and its tag; repeats until nothing changed meanwhile. Others' stores to the same line are progress
 * of theirs, so this is no lock. place->count is 1, and there is a line. */
ALWAYS_INLINE enum line_result line_load_one(const struct line_place *place, struct granule *value, bool *tag) {
    for (uint32_t spin = 0;;) {
        uint64_t tagged = 0;
        const enum line_attempt attempt = line_load_once(place, (char *)value, 0, &tagged);
        *tag = tagged;
        if (likely(attempt == ATTEMPT_DONE))
            return LINE_DONE;
        if (attempt == ATTEMPT_FAULTED)
            return LINE_FAULTED;
        if (attempt == ATTEMPT_HELD && spin++ == LOCK_SPINS)
            return LINE_HELD;
        clock_relax();
    }
}

#endif
