/* driver_ring.c: rings, and the two words at which their processes wait (driver.h). */
#define _GNU_SOURCE /* syscall */
#include <linux/futex.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"
#include "driver_program.h"

enum { BATCH = 32, SPINS = 1000, PATIENCE_MS = 100 };

struct ring_end {
    _Alignas(128) _Atomic uint32_t position; /* modulo 2^32 */
    _Atomic bool is_awaited;                 /* its reader sleeps, or is about to */
};

struct ring_ends {
    struct ring_end handed_over;
    struct ring_end given_back;
};

_Static_assert(sizeof(struct ring_ends) <= DRIVER_RING_HEADER, "the slots begin behind the header");

static uint64_t ring_size(uint32_t capacity) {
    return DRIVER_RING_HEADER + (uint64_t)capacity * DRIVER_RING_ITEM_SIZE;
}

static enum status find_ends(const struct program *program, uint64_t ring, struct ring_ends **ends) {
    uint64_t address = program->area->memory + ring;
    if (!is_plain(program))
        TRY(capshm_view(program->area->authority, ring, sizeof **ends, true, &address));
    *ends = (struct ring_ends *)address;
    return STATUS_OK;
}

static void publish(struct ring_end *end, uint32_t position) {
    /* Sequentially consistent, like the partners in await_change: either the reader's flag is seen here, or the new
     * position by the kernel when it puts the reader to sleep. The batch before it is released with it. */
    atomic_store(&end->position, position);
    if (atomic_load(&end->is_awaited))
        syscall(SYS_futex, &end->position, FUTEX_WAKE, 1, NULL, NULL, 0);
}

/* Returns where the end is when it has left seen. */
static uint32_t await_change(struct ring_end *end, uint32_t seen) {
    uint32_t position = atomic_load_explicit(&end->position, memory_order_acquire);
    for (int i = 0; i < SPINS && position == seen; i++) {
        clock_relax();
        position = atomic_load_explicit(&end->position, memory_order_acquire);
    }
    if (position != seen)
        return position;
    const struct timespec patience = {.tv_nsec = PATIENCE_MS * 1000000L};
    atomic_store(&end->is_awaited, true);
    while ((position = atomic_load(&end->position)) == seen)
        syscall(SYS_futex, &end->position, FUTEX_WAIT, seen, &patience, NULL, 0);
    atomic_store_explicit(&end->is_awaited, false, memory_order_relaxed);
    return position;
}

static uint32_t batch_of(uint32_t left) {
    return left < BATCH ? left : BATCH;
}

/* Fills the slots from done to end of a ring. */
static enum status hand_over(const struct program *program, uint64_t ring, uint32_t capacity, uint64_t seed,
                             uint32_t done, uint32_t end) {
    const struct pointer whole = whole_area(program->area);
    const uint64_t slots = ring + DRIVER_RING_HEADER;
    const uint64_t objects = slots + (uint64_t)capacity * GRANULE_SIZE;
    const uint64_t step = step_over(capacity, seed);
    struct pointer object = pointer_in(program->area, FIRST);
    for (; done != end; done++) {
        const uint64_t slot = done % capacity;
        const uint64_t word = chance(seed ^ ring, done);
        TRY(derive(program, objects + slot * step % capacity * DRIVER_OBJECT_SIZE, DRIVER_OBJECT_SIZE, &object));
        TRY(write_word(program, object, 0, word));
        TRY(store(program, whole, slots + slot * GRANULE_SIZE, object));
        program->counts->checksum += word;
    }
    return STATUS_OK;
}

enum status driver_produce(struct driver_area *area, uint32_t rings, uint32_t capacity, uint32_t total, uint64_t seed,
                           struct driver_counts *counts) {
    const struct program program = {area, counts};
    struct ring_ends *ends[DRIVER_RINGS];
    uint32_t given_back[DRIVER_RINGS] = {0};
    if (rings > DRIVER_RINGS || capacity < BATCH)
        return STATUS_INVALID;
    for (uint32_t ring = 0; ring < rings; ring++)
        TRY(find_ends(&program, ring * ring_size(capacity), &ends[ring]));
    for (uint32_t done = 0; done < total;) {
        const uint32_t end = done + batch_of(total - done);
        for (uint32_t ring = 0; ring < rings; ring++) {
            while (end - given_back[ring] > capacity)
                given_back[ring] = await_change(&ends[ring]->given_back, given_back[ring]);
            TRY(hand_over(&program, ring * ring_size(capacity), capacity, seed, done, end));
            publish(&ends[ring]->handed_over, end);
        }
        done = end;
    }
    for (uint32_t ring = 0; ring < rings; ring++) {
        while (given_back[ring] != total)
            given_back[ring] = await_change(&ends[ring]->given_back, given_back[ring]);
    }
    return STATUS_OK;
}

enum status driver_consume(struct driver_area *area, uint32_t ring, uint32_t capacity, uint32_t total,
                           struct driver_counts *counts) {
    const struct program program = {area, counts};
    const struct pointer whole = whole_area(area);
    const uint64_t slots = ring * ring_size(capacity) + DRIVER_RING_HEADER;
    struct pointer object = pointer_in(area, FIRST);
    struct ring_ends *ends;
    if (capacity < BATCH)
        return STATUS_INVALID;
    TRY(find_ends(&program, ring * ring_size(capacity), &ends));
    uint32_t handed_over = 0;
    for (uint32_t done = 0; done < total;) {
        const uint32_t end = done + batch_of(total - done);
        while (handed_over == done)
            handed_over = await_change(&ends->handed_over, handed_over);
        for (; done != end && done != handed_over; done++) {
            uint64_t word;
            TRY(load(&program, whole, slots + (uint64_t)(done % capacity) * GRANULE_SIZE, &object));
            TRY(read_word(&program, object, 0, &word));
            TRY(write_word(&program, object, sizeof word, word));
            counts->operations++;
            counts->checksum += word;
        }
        publish(&ends->given_back, done);
    }
    return STATUS_OK;
}
