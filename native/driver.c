/* driver.c: loads, stores and accesses of a program in either world, and the loops made of them. */
#define _GNU_SOURCE /* syscall */
#include "driver.h"

#include <linux/futex.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "capshm.h"
#include "clock.h"
#include "compiler.h"

#define TRY(operation)                                                                                                 \
    do {                                                                                                               \
        const enum status tried = (operation);                                                                         \
        if (unlikely(tried != STATUS_OK))                                                                              \
            return tried;                                                                                              \
    } while (0)

/* A program in one of its areas ------------------------------------------------------------------------------------- */

struct program {
    struct driver_area *area;
    struct driver_counts *counts;
};

/* A pointer that a program holds: in the emulated world in a register, in the plain one as these words. */
struct pointer {
    uint32_t held;
    struct {
        uint64_t bounds;
        uint64_t address;
    } plain;
};

_Static_assert(sizeof((struct pointer){0}.plain) == GRANULE_SIZE, "in memory both worlds' pointers take a granule");

static struct pointer whole_area(struct driver_area *area) {
    return (struct pointer){.held = area->authority};
}

/* One of the driver's registers, for a pointer to come. */
static struct pointer pointer_in(struct driver_area *area, uint32_t number) {
    return (struct pointer){.held = area->registers + number};
}
enum { FIRST, SECOND, UNTAGGED };
_Static_assert(UNTAGGED + 1 == DRIVER_REGISTERS, "each of them has one use");

static bool is_plain(const struct program *program) {
    return program->area->memory != 0;
}

static void *plainly(const struct program *program, struct pointer through, uint64_t offset) {
    return (void *)(program->area->memory + through.plain.address + offset);
}

/* A pointer to length bytes of the area. */
static enum status derive(const struct program *program, uint64_t offset, uint64_t length, struct pointer *into) {
    if (is_plain(program)) {
        into->plain.bounds = length;
        into->plain.address = offset;
        return STATUS_OK;
    }
    TRY(capshm_with_increment(program->area->authority, offset, into->held));
    return capshm_with_bounds(into->held, length, true, into->held);
}

/* Gives the untagged value of a register the authority of the area, where that has it: otherwise it stays untagged, and
 * its first use is refused. */
static enum status derive_anew(const struct program *program, uint32_t value) {
    struct capability_register untagged;
    TRY(capshm_inspect(value, &untagged));
    const struct capability_bounds bounds = capability_bounds(untagged.value);
    TRY(capshm_with_address(program->area->authority, bounds.base, value));
    TRY(capshm_with_bounds(value, bounds.top - bounds.base, true, value));
    return capshm_with_address(value, untagged.value.address, value);
}

static enum status load(const struct program *program, struct pointer through, uint64_t offset, struct pointer *into) {
    if (is_plain(program)) {
        memcpy(&into->plain, plainly(program, through, offset), sizeof into->plain);
        return STATUS_OK;
    }
    uint32_t tag;
    TRY(capshm_load(through.held, offset, into->held));
    TRY(capshm_tag(into->held, &tag));
    if (tag) {
        program->counts->crossed += program->area->is_shared;
        return STATUS_OK;
    }
    program->counts->rederived++;
    return derive_anew(program, into->held);
}

static enum status store(const struct program *program, struct pointer through, uint64_t offset, struct pointer value) {
    if (is_plain(program)) {
        memcpy(plainly(program, through, offset), &value.plain, sizeof value.plain);
        return STATUS_OK;
    }
    struct driver_area *const area = program->area;
    if (!area->is_data_only) {
        const enum status status = capshm_store(through.held, offset, value.held);
        if (status != STATUS_STORE_TAG_VIOLATION)
            return status;
        program->counts->refused++;
        area->is_data_only = true;
    }
    const struct pointer untagged = pointer_in(area, UNTAGGED);
    TRY(capshm_without_tag(value.held, untagged.held));
    return capshm_store(through.held, offset, untagged.held);
}

static enum status read_word(const struct program *program, struct pointer through, uint64_t offset, uint64_t *word) {
    if (!is_plain(program))
        return capshm_read(through.held, offset, word, sizeof *word);
    memcpy(word, plainly(program, through, offset), sizeof *word);
    return STATUS_OK;
}

static enum status write_word(const struct program *program, struct pointer through, uint64_t offset, uint64_t word) {
    if (!is_plain(program))
        return capshm_write(through.held, offset, &word, sizeof word);
    memcpy(plainly(program, through, offset), &word, sizeof word);
    return STATUS_OK;
}

/* Chance ------------------------------------------------------------------------------------------------------------ */

/* A number that looks like chance for each number (the last steps of SplitMix64; Steele, Lea, Flood, OOPSLA 2014). */
static uint64_t mixed(uint64_t number) {
    number += UINT64_C(0x9e3779b97f4a7c15);
    number = (number ^ number >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    number = (number ^ number >> 27) * UINT64_C(0x94d049bb133111eb);
    return number ^ number >> 31;
}

static uint64_t greatest_common_divisor(uint64_t one, uint64_t other) {
    while (other != 0) {
        const uint64_t rest = one % other;
        one = other;
        other = rest;
    }
    return one;
}

/* A step that meets each of count places once before it meets one again. */
static uint64_t step_over(uint64_t count, uint64_t seed) {
    uint64_t step = mixed(seed) % count;
    while (greatest_common_divisor(step, count) != 1)
        step++;
    return step % count;
}

/* Graphs ------------------------------------------------------------------------------------------------------------ */

enum { RESPONSE_OFFSET = 0, KEY_OFFSET = 16, SUM_OFFSET = 0 };

struct graph {
    uint64_t answers; /* where each part begins; the slots of requests begin at 0 */
    uint64_t requests;
    uint64_t responses;
};

static struct graph graph_of(uint64_t count) {
    return (struct graph){
        .answers = count * GRANULE_SIZE,
        .requests = 2 * count * GRANULE_SIZE,
        .responses = 2 * count * GRANULE_SIZE + count * DRIVER_OBJECT_SIZE,
    };
}

enum status driver_fill(struct driver_area *area, uint64_t count, uint64_t seed, struct driver_counts *counts) {
    const struct program program = {area, counts};
    const struct pointer whole = whole_area(area);
    const struct graph graph = graph_of(count);
    struct pointer request = pointer_in(area, FIRST);
    struct pointer response = pointer_in(area, SECOND);
    for (uint64_t item = 0; item < count; item++) {
        TRY(derive(&program, graph.requests + item * DRIVER_OBJECT_SIZE, DRIVER_OBJECT_SIZE, &request));
        TRY(derive(&program, graph.responses + item * DRIVER_OBJECT_SIZE, DRIVER_OBJECT_SIZE, &response));
        TRY(store(&program, request, RESPONSE_OFFSET, response));
        TRY(write_word(&program, request, KEY_OFFSET, mixed(seed ^ item)));
        TRY(write_word(&program, response, SUM_OFFSET, 0));
        TRY(store(&program, whole, item * GRANULE_SIZE, request));
    }
    return STATUS_OK;
}

enum status driver_serve(struct driver_area *area, uint64_t count, uint64_t first, uint64_t share, uint64_t seed,
                         struct driver_counts *counts) {
    const struct program program = {area, counts};
    const struct pointer whole = whole_area(area);
    const struct graph graph = graph_of(count);
    struct pointer request = pointer_in(area, FIRST);
    struct pointer response = pointer_in(area, SECOND);
    if (share == 0)
        return STATUS_OK;
    const uint64_t step = step_over(share, seed);
    uint64_t place = mixed(~seed) % share;
    for (uint64_t i = 0; i < share; i++) {
        const uint64_t slot = (first + place) * GRANULE_SIZE;
        uint64_t key;
        uint64_t sum;
        TRY(load(&program, whole, slot, &request));
        TRY(load(&program, request, RESPONSE_OFFSET, &response));
        TRY(read_word(&program, request, KEY_OFFSET, &key));
        TRY(read_word(&program, response, SUM_OFFSET, &sum));
        TRY(write_word(&program, response, SUM_OFFSET, sum + mixed(key)));
        TRY(store(&program, whole, graph.answers + slot, response));
        counts->operations++;
        counts->checksum += area->is_shared ? mixed(key) : 0;
        place = place + step < share ? place + step : place + step - share;
    }
    return STATUS_OK;
}

enum status driver_collect(struct driver_area *area, uint64_t count, struct driver_counts *counts, uint64_t *sum) {
    const struct program program = {area, counts};
    const struct pointer whole = whole_area(area);
    const struct graph graph = graph_of(count);
    struct pointer response = pointer_in(area, FIRST);
    *sum = 0;
    for (uint64_t item = 0; item < count; item++) {
        uint64_t word;
        TRY(load(&program, whole, graph.answers + item * GRANULE_SIZE, &response));
        TRY(read_word(&program, response, SUM_OFFSET, &word));
        *sum += word;
    }
    return STATUS_OK;
}

/* Rings ------------------------------------------------------------------------------------------------------------- */

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
        const uint64_t word = mixed(seed ^ ring ^ done);
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

/* Processes --------------------------------------------------------------------------------------------------------- */

bool driver_end_with(int32_t parent) {
    return prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 && getppid() == parent;
}
