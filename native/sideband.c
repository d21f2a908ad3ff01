/* sideband.c: all of sideband.h but what line.h does inline: under the lock, several granules at once, clearing,
 * waiting, recovery. Numbers in comments are the steps of sideband.h. */
#include "sideband.h"

#include <sched.h>
#include <time.h>

#include "clock.h"
#include "line.h"

enum { LOCK_GRANULE_SHIFT = 16, LOCK_SPINS = 100, WHOLE_LINE_ATTEMPTS = 8 };
#define LOCK_WHOLE (UINT64_C(1) << 22)
#define LOCK_VERSION_ONE (UINT64_C(1) << 23)

/* The lock word of a dead holder that this thread may not free but read through, and the line that it was met on. */
static _Thread_local struct dead_lock {
    const struct tag_line *line;
    uint64_t lock;
} dead_lock;

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

ALWAYS_INLINE enum line_result store_locked(const struct line_place *place, const char *values, size_t stride,
                                            uint64_t tagged, uint32_t *done) {
    const uint64_t mask = line_mask(place->first, place->count);
    uint64_t locked;
    *done = 0;
    if (unlikely(!line_lock(place, &locked)))
        return LINE_HELD;
    const uint64_t before = atomic_load_explicit(&place->line->tags, memory_order_relaxed);
    if (before & mask) /* (3) */
        atomic_store_explicit(&place->line->tags, before & ~mask, memory_order_release);
    atomic_signal_fence(memory_order_seq_cst);
    STEP(TAGS_CLEARED);
    uint32_t i;
    for (i = 0; i < place->count; i++) {
        const struct granule *const value = (const struct granule *)(values + i * stride);
        if ((tagged >> i & 1) &&
            unlikely(!program_store(&place->twin[i], value) ||
                     (line_has_origins(place->region) &&
                      !line_store_origin(place->region, (uint64_t)&place->data[i], *granule_origin(value))))) /* (4) */
            break;
        STEP(TWIN_STORED);
        if (unlikely(!program_store(&place->data[i], value))) /* (5) */
            break;
        STEP(DATA_STORED);
    }
    *done = i;
    const uint64_t tags_now = (tagged & (i == LINE_GRANULES ? UINT64_MAX : ((uint64_t)1 << i) - 1)) << place->first;
    line_reset_clear(place, tags_now);
    /* After a fault at granule i: those before it are stored, it is untagged, those behind it are as they were. */
    const uint64_t untouched = before & ~line_mask(place->first, i < place->count ? i + 1 : i);
    atomic_signal_fence(memory_order_seq_cst);
    atomic_store_explicit(&place->line->tags, untouched | tags_now, memory_order_release); /* (7) */
    atomic_signal_fence(memory_order_seq_cst);
    STEP(TAGS_SET);
    line_unlock(place, locked);
    return likely(i == place->count) ? LINE_DONE : LINE_FAULTED;
}

static enum line_result store_alone(struct line_place place, const char *values, size_t stride, uint64_t tagged,
                                    uint32_t *done) {
    for (*done = 0; *done < place.count; ++*done) {
        const struct granule *const value = (const struct granule *)(values + *done * stride);
        const uint64_t address = (uint64_t)(place.data + *done);
        if (!line_store_alone(place.region, address, value, tagged >> *done & 1))
            return LINE_FAULTED;
    }
    return LINE_DONE;
}

enum line_result line_store(struct line_place place, const char *values, size_t stride, uint64_t tagged,
                            uint32_t *done) {
    if (line_is_alone(place.region))
        return store_alone(place, values, stride, tagged, done);
    return store_locked(&place, values, stride, tagged, done);
}

bool line_store_one(struct region *region, uint64_t address, const struct granule *value, bool tag) {
    const struct line_place place = line_place_of(region, address, 1);
    uint32_t done;
    return store_locked(&place, (const char *)value, 0, tag, &done) == LINE_DONE;
}

void line_scrub(struct line_place one, uint32_t i) {
    one.first += i, one.twin += i, one.data += i, one.count = 1;
    uint64_t locked;
    if (!one.region->is_lines_writable || !line_lock(&one, &locked))
        return;
    struct granule data;
    struct granule twin;
    if (program_load(one.data, &data) && program_load(one.twin, &twin) &&
        (data.address != twin.address || data.metadata != twin.metadata)) {
        const uint64_t tags = atomic_load_explicit(&one.line->tags, memory_order_relaxed);
        atomic_store_explicit(&one.line->tags, tags & ~line_mask(one.first, 1), memory_order_release);
    }
    line_unlock(&one, locked);
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

/* Of granule i, as it goes with values that are passed on. */
ALWAYS_INLINE bool load_origin(const struct line_place *place, uint32_t i, uint32_t *origin) {
    if (unlikely(!program_load_origin(line_origin_of(place->region, (uint64_t)&place->data[i]), origin)))
        return false;
    if (*origin == place->region->own_origin)
        *origin = 0;
    return true;
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
        *granule_origin(data) = 0;
        if (candidates >> i & 1) {
            struct granule twin;
            if (unlikely(!program_load(&place->twin[i], &twin)))
                return ATTEMPT_FAULTED;
            const bool differs = ((data->address ^ twin.address) | (data->metadata ^ twin.metadata)) != 0;
            differing |= (uint64_t)differs << i;
            if (line_has_origins(place->region) && unlikely(!load_origin(place, i, granule_origin(data))))
                return ATTEMPT_FAULTED;
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

static enum line_result load_untagged(struct line_place place, char *values, size_t stride) {
    for (uint32_t i = 0; i < place.count; i++) {
        struct granule *const value = (struct granule *)(values + i * stride);
        if (!program_load(&place.data[i], value))
            return LINE_FAULTED;
        *granule_origin(value) = 0;
    }
    return LINE_DONE;
}

enum line_result line_load(struct line_place place, void *values, size_t stride, uint64_t *tagged) {
    *tagged = 0;
    if (!place.has_line)
        return load_untagged(place, values, stride);
    for (uint32_t attempt = 0; attempt < WHOLE_LINE_ATTEMPTS; attempt++) {
        if (line_load_once(&place, values, stride, tagged) == ATTEMPT_DONE)
            return LINE_DONE;
    }
    /* The line is busy, or something is wrong with a granule: one after the other, which needs less luck. */
    struct line_place single = place;
    single.count = 1;
    *tagged = 0;
    for (uint32_t i = 0; i < place.count; i++, single.first++, single.twin++, single.data++) {
        bool tag;
        const enum line_result result = line_load_one(&single, (struct granule *)((char *)values + i * stride), &tag);
        if (result != LINE_DONE)
            return result;
        *tagged |= (uint64_t)tag << i;
    }
    return LINE_DONE;
}

enum line_result line_clear(struct line_place place) {
    const uint64_t mask = line_mask(place.first, place.count);
    if (place.has_line) {
        if (!(atomic_load_explicit(&place.line->tags, memory_order_relaxed) & mask))
            return LINE_DONE;
        if (place.region->is_lines_writable) {
            uint64_t locked;
            if (!line_lock(&place, &locked))
                return LINE_HELD;
            const uint64_t tags = atomic_load_explicit(&place.line->tags, memory_order_relaxed);
            atomic_store_explicit(&place.line->tags, tags & ~mask, memory_order_release);
            atomic_signal_fence(memory_order_seq_cst);
            line_unlock(&place, locked);
            return LINE_DONE;
        }
    }
    if (place.region->has_clear_map && ~atomic_load_explicit(place.clear, memory_order_relaxed) & mask) {
        atomic_fetch_or_explicit(place.clear, mask, memory_order_seq_cst);
        gate_barrier_everywhere(); /* before the bytes; partner: (5), (6) */
    }
    return LINE_DONE;
}

static bool recover(struct tag_line *line, uint64_t lock) {
    return atomic_compare_exchange_strong(&line->lock, &lock, lock_freed(lock));
}

/* Inside the gate, and only if the line is still mapped: nobody unmaps it then. */
static void recover_mapped(struct line_place place, uint64_t lock) {
    if (gate_try_enter() == NULL)
        return; /* the next attempt of the operation finds out why */
    if (page_table_region(page_table_look_up((uint64_t)place.data)) == place.region)
        recover(place.line, lock);
    gate_leave();
}

enum status line_wait(struct line_place place, uint64_t lock, uint64_t timeout, uint64_t *waited) {
    static _Thread_local uint64_t waited_for;
    if ((lock & LOCK_SLOT) == 0)
        return STATUS_AGAIN;
    if (lock != waited_for)
        *waited = 0; /* the lock has changed hands: that is progress */
    waited_for = lock;
    const uint64_t owner = atomic_load(&thread_member->gate->slots[lock & LOCK_SLOT].owner);
    const uint64_t begin = clock_now();
    if (*waited > 0 && (owner == 0 || gate_owner_is_dead(owner))) {
        if (place.region->is_lines_writable) {
            recover_mapped(place, lock);
        } else {
            dead_lock.line = place.line;
            dead_lock.lock = lock;
        }
        return STATUS_AGAIN;
    }
    if (*waited > timeout) {
        thread_fault.pid = gate_owner_pid(owner);
        return STATUS_HOLDER_STOPPED;
    }
    /* Most holders are only preempted: the first turn gives them the processor, later ones sleep for a tenth of a
     * millisecond. */
    if (*waited == 0) {
        sched_yield();
    } else {
        const struct timespec nap = {.tv_nsec = 100000};
        nanosleep(&nap, NULL);
    }
    *waited += clock_now() - begin;
    return STATUS_AGAIN;
}

bool sideband_recover_target(const struct gate_slot *slot, uint32_t number, uint64_t owner, uint64_t target) {
    const uint32_t object = (uint32_t)(target >> 40);
    if (object == 0)
        return true; /* private memory: it ended with its process */
    for (uint32_t i = 0; i < address_space.region_count; i++) {
        struct region *const region = &address_space.regions[i];
        const uint64_t address = (target - region->target_origin) << LINE_DATA_SHIFT;
        if (region->object != object || !region->is_lines_writable || address - region->base >= region->length)
            continue;
        struct tag_line *const line = line_place_of(region, address, 1).line;
        const uint64_t lock = atomic_load(&line->lock);
        /* If the owner is the dead one even now, the lock was the dead one's when it was read, and a later lock has
         * another version. */
        if ((lock & LOCK_SLOT) == number && atomic_load(&slot->owner) == owner)
            recover(line, lock);
        return true;
    }
    return false;
}
