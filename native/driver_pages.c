/* driver_pages.c: pages full of pointers, of a heap or of a pool (driver.h). */
#include <sched.h>
#include <stdatomic.h>

#include "driver_program.h"

enum { NUMBER_OFFSET = 0, KEY_OFFSET = 8, PAGE_GRANULES = DRIVER_PAGE_SIZE / GRANULE_SIZE };

_Static_assert(DRIVER_PAGE_POINTERS == PAGE_GRANULES - 1, "the first granule is the page's head");

/* Where in a page one of its pointers is. */
static uint64_t pointer_place(uint32_t pointers, uint64_t which) {
    return (1 + which * DRIVER_PAGE_POINTERS / pointers) * GRANULE_SIZE;
}

static enum status write_page(const struct program *program, struct pointer page, uint32_t pointers,
                              struct pointer to_head) {
    for (uint32_t which = 0; which < pointers; which++)
        TRY(store(program, page, pointer_place(pointers, which), to_head));
    return STATUS_OK;
}

static enum status write_head(const struct program *program, struct pointer head, uint64_t number, uint64_t key) {
    TRY(write_word(program, head, NUMBER_OFFSET, number));
    return write_word(program, head, KEY_OFFSET, key);
}

/* A heap ----------------------------------------------------------------------------------------------------------- */

enum status driver_heap_fill(struct driver_area *area, uint64_t pages, uint32_t pointers, uint64_t seed,
                             struct driver_counts *counts) {
    const struct program program = program_in(area, counts);
    struct pointer page = pointer_in(area, FIRST);
    struct pointer head = pointer_in(area, SECOND);
    for (uint64_t number = 0; number < pages; number++) {
        TRY(derive(&program, number * DRIVER_PAGE_SIZE, DRIVER_PAGE_SIZE, &page));
        TRY(derive(&program, number * DRIVER_PAGE_SIZE, GRANULE_SIZE, &head));
        TRY(write_head(&program, head, number, chance(seed, number)));
        TRY(write_page(&program, page, pointers, head));
    }
    return STATUS_OK;
}

enum status driver_heap_touch(struct driver_area *area, uint64_t pages, uint64_t share, uint32_t pointers,
                              uint64_t seed, struct driver_counts *counts) {
    const struct program program = program_in(area, counts);
    const struct pointer whole = whole_area(area);
    const uint64_t step = step_over(pages, seed);
    struct pointer head = pointer_in(area, FIRST);
    uint64_t number = chance(seed, 1) % pages;
    for (uint64_t i = 0; i < share; i++) {
        const uint64_t page = number * DRIVER_PAGE_SIZE;
        uint64_t key;
        TRY(load(&program, whole, page + pointer_place(pointers, chance(seed, i) % pointers), &head));
        TRY(read_word(&program, head, KEY_OFFSET, &key));
        TRY(write_word(&program, head, KEY_OFFSET, mixed(key)));
        TRY(store(&program, whole, page + pointer_place(pointers, chance(key, i) % pointers), head));
        counts->operations++;
        counts->checksum += key;
        number = (number + step) % pages;
    }
    return STATUS_OK;
}

/* A pool ----------------------------------------------------------------------------------------------------------- */

/* A descriptor's latch: how many have pinned its page, or that the page is being replaced. */
typedef _Atomic uint32_t latch;
static const uint32_t REPLACING = UINT32_C(1) << 31;

static uint64_t round_up(uint64_t number, uint64_t unit) {
    return (number + unit - 1) / unit * unit;
}

/* The slots come first, then the latches in tag lines of their own, then the frames. */
static uint64_t latches_of(const struct driver_pool *pool) {
    return round_up(pool->descriptors * (uint64_t)GRANULE_SIZE, LINE_DATA_SIZE);
}

static uint64_t slot_of(uint64_t descriptor) {
    return descriptor * GRANULE_SIZE;
}

uint64_t driver_pool_frame(const struct driver_pool *pool, uint32_t frame) {
    const uint64_t first = round_up(latches_of(pool) + pool->descriptors * sizeof(latch), DRIVER_PAGE_SIZE);
    return first + (uint64_t)frame * DRIVER_PAGE_SIZE;
}

static enum status find_latches(const struct driver_pool *pool, const struct program *program, latch **latches) {
    uint64_t address;
    TRY(view(program, latches_of(pool), pool->descriptors * sizeof(latch), &address));
    *latches = (latch *)address;
    return STATUS_OK;
}

/* Acquires what the replacing process has released. That is the only one, and is never kept waiting within. */
static void pin(latch *at) {
    uint32_t seen = atomic_load_explicit(at, memory_order_relaxed);
    for (;;) {
        if (seen == REPLACING) {
            sched_yield();
            seen = atomic_load_explicit(at, memory_order_relaxed);
        } else if (atomic_compare_exchange_weak_explicit(at, &seen, seen + 1, memory_order_acquire,
                                                         memory_order_relaxed)) {
            return;
        }
    }
}

static void unpin(latch *at) {
    atomic_fetch_sub_explicit(at, 1, memory_order_release);
}

enum status driver_pool_read(const struct driver_pool *pool, uint64_t seed, struct driver_counts *counts) {
    const struct program program = program_in(pool->area, counts);
    const struct pointer whole = whole_area(pool->area);
    const uint64_t step = step_over(pool->descriptors, seed);
    struct pointer page = pointer_in(pool->area, FIRST);
    struct pointer head = pointer_in(pool->area, SECOND);
    uint64_t descriptor = chance(seed, 1) % pool->descriptors;
    latch *latches;
    TRY(find_latches(pool, &program, &latches));
    for (uint32_t i = 0; i < pool->descriptors; i++) {
        const uint64_t which = chance(seed, i) % pool->pointers;
        uint64_t number;
        uint64_t key;
        pin(&latches[descriptor]);
        TRY(load(&program, whole, slot_of(descriptor), &page));
        TRY(load(&program, page, pointer_place(pool->pointers, which), &head));
        TRY(read_word(&program, head, NUMBER_OFFSET, &number));
        TRY(read_word(&program, head, KEY_OFFSET, &key));
        unpin(&latches[descriptor]);
        counts->operations++;
        counts->checksum += key - mixed(number);
        descriptor = (descriptor + step) % pool->descriptors;
    }
    return STATUS_OK;
}

/* Reads a page into a frame, and has the descriptor lead there. */
static enum status place(const struct driver_pool *pool, const struct program *program, uint32_t descriptor,
                         uint32_t frame, uint64_t number, uint64_t seed) {
    const uint64_t offset = driver_pool_frame(pool, frame);
    struct pointer page = pointer_in(pool->area, FIRST);
    struct pointer head = pointer_in(pool->area, SECOND);
    TRY(derive(program, offset, DRIVER_PAGE_SIZE, &page));
    TRY(derive(program, offset, GRANULE_SIZE, &head));
    TRY(write_head(program, head, number, mixed(number) + chance(seed, descriptor)));
    TRY(write_page(program, page, pool->pointers, head));
    return store(program, whole_area(pool->area), slot_of(descriptor), page);
}

enum status driver_pool_fill(const struct driver_pool *pool, const uint32_t *frames, uint64_t seed,
                             struct driver_counts *counts) {
    const struct program program = program_in(pool->area, counts);
    for (uint32_t descriptor = 0; descriptor < pool->descriptors; descriptor++)
        TRY(place(pool, &program, descriptor, frames[descriptor], descriptor, seed));
    return STATUS_OK;
}

enum status driver_pool_replace(const struct driver_pool *pool, uint32_t *frames, const uint32_t *candidates,
                                uint64_t first_page, uint64_t seed, struct driver_counts *counts, uint32_t *done) {
    const struct program program = program_in(pool->area, counts);
    latch *latches;
    TRY(find_latches(pool, &program, &latches));
    for (uint32_t i = 0; i < pool->descriptors && pool->descriptors + *done < pool->frames; i++) {
        const uint32_t descriptor = candidates[i];
        uint32_t *const spare = &frames[pool->descriptors + *done];
        uint32_t unpinned = 0;
        if (!atomic_compare_exchange_strong_explicit(&latches[descriptor], &unpinned, REPLACING, memory_order_acquire,
                                                     memory_order_relaxed))
            continue;
        TRY(place(pool, &program, descriptor, *spare, first_page + *done, seed));
        atomic_store_explicit(&latches[descriptor], 0, memory_order_release);
        const uint32_t emptied = frames[descriptor];
        frames[descriptor] = *spare;
        *spare = emptied;
        counts->operations++;
        ++*done;
    }
    return STATUS_OK;
}
