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

/* One ring, as a process at one of its ends sees it. */
struct ring {
    struct program slots; /* which lead to objects */
    struct program objects;
    uint64_t first_slot; /* offsets */
    uint64_t first_object;
    uint32_t capacity;
    struct ring_ends *ends;
};

static enum status find_ring(const struct driver_rings *rings, uint32_t number, struct driver_counts *counts,
                             struct ring *ring) {
    const uint64_t header = number * (DRIVER_RING_HEADER + (uint64_t)rings->capacity * GRANULE_SIZE);
    uint64_t ends;
    *ring = (struct ring){
        .slots = {rings->slots, counts, rings->objects},
        .objects = program_in(rings->objects, counts),
        .first_slot = header + DRIVER_RING_HEADER,
        .first_object = rings->first_object + (uint64_t)number * rings->capacity * DRIVER_OBJECT_SIZE,
        .capacity = rings->capacity,
    };
    TRY(view(&ring->slots, header, sizeof *ring->ends, &ends));
    ring->ends = (struct ring_ends *)ends;
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

/* Fills the slots from done to end of a ring; the seed is its own. */
static enum status hand_over(const struct ring *ring, uint64_t seed, uint32_t done, uint32_t end) {
    const struct pointer slots = whole_area(ring->slots.area);
    const uint64_t step = step_over(ring->capacity, seed);
    struct pointer object = pointer_in(ring->objects.area, FIRST);
    for (; done != end; done++) {
        const uint64_t slot = done % ring->capacity;
        const uint64_t place = ring->first_object + slot * step % ring->capacity * DRIVER_OBJECT_SIZE;
        const uint64_t word = chance(seed, done);
        TRY(derive(&ring->objects, place, DRIVER_OBJECT_SIZE, &object));
        TRY(write_word(&ring->objects, object, 0, word));
        TRY(store(&ring->slots, slots, ring->first_slot + slot * GRANULE_SIZE, object));
        ring->slots.counts->checksum += word;
    }
    return STATUS_OK;
}

enum status driver_produce(const struct driver_rings *rings, uint32_t total, uint64_t seed,
                           struct driver_counts *counts) {
    struct ring ring[DRIVER_RINGS];
    uint32_t given_back[DRIVER_RINGS] = {0};
    if (rings->count > DRIVER_RINGS || rings->capacity < BATCH)
        return STATUS_INVALID;
    for (uint32_t number = 0; number < rings->count; number++)
        TRY(find_ring(rings, number, counts, &ring[number]));
    for (uint32_t done = 0; done < total;) {
        const uint32_t end = done + batch_of(total - done);
        for (uint32_t number = 0; number < rings->count; number++) {
            while (end - given_back[number] > rings->capacity)
                given_back[number] = await_change(&ring[number].ends->given_back, given_back[number]);
            TRY(hand_over(&ring[number], seed + number, done, end));
            publish(&ring[number].ends->handed_over, end);
        }
        done = end;
    }
    for (uint32_t number = 0; number < rings->count; number++) {
        while (given_back[number] != total)
            given_back[number] = await_change(&ring[number].ends->given_back, given_back[number]);
    }
    return STATUS_OK;
}

enum status driver_consume(const struct driver_rings *rings, uint32_t number, uint32_t first, uint32_t end,
                           struct driver_counts *counts) {
    struct ring ring;
    if (rings->capacity < BATCH)
        return STATUS_INVALID;
    TRY(find_ring(rings, number, counts, &ring));
    const struct pointer slots = whole_area(rings->slots);
    struct pointer object = pointer_in(rings->objects, FIRST);
    uint32_t handed_over = first;
    for (uint32_t done = first; done < end;) {
        const uint32_t batch_end = done + batch_of(end - done);
        while (handed_over == done)
            handed_over = await_change(&ring.ends->handed_over, handed_over);
        for (; done != batch_end && done != handed_over; done++) {
            uint64_t word;
            TRY(load(&ring.slots, slots, ring.first_slot + (uint64_t)(done % ring.capacity) * GRANULE_SIZE, &object));
            TRY(read_word(&ring.objects, object, 0, &word));
            TRY(write_word(&ring.objects, object, sizeof word, word));
            counts->operations++;
            counts->checksum += word;
        }
        publish(&ring.ends->given_back, done);
    }
    return STATUS_OK;
}
