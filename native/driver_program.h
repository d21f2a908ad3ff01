/* driver_program.h: what a program does in one of its areas, in either world: derives, loads, stores, reads and writes.
 *
 * Inline, because in the plain world each of these is an instruction or two, and a call would be most of what is measured.
 */
#ifndef CAPSHM_DRIVER_PROGRAM_H
#define CAPSHM_DRIVER_PROGRAM_H

#include <string.h>

#include "capshm.h"
#include "compiler.h"
#include "driver.h"

#define TRY(operation)                                                                                                 \
    do {                                                                                                               \
        const enum status tried = (operation);                                                                         \
        if (unlikely(tried != STATUS_OK))                                                                              \
            return tried;                                                                                              \
    } while (0)

struct program {
    struct driver_area *area;
    struct driver_counts *counts;
    struct driver_area *target; /* where the pointers lead that are in the area: in most cases into the same */
};

static inline struct program program_in(struct driver_area *area, struct driver_counts *counts) {
    return (struct program){area, counts, area};
}

/* A pointer that a program holds: in the emulated world in a register, in the plain one as these words. */
struct pointer {
    uint32_t held;
    struct {
        uint64_t bounds;
        uint64_t address;
    } plain;
};

_Static_assert(sizeof((struct pointer){0}.plain) == GRANULE_SIZE, "in memory both worlds' pointers take a granule");

static inline struct pointer whole_area(struct driver_area *area) {
    return (struct pointer){.held = area->authority};
}

/* One of the driver's registers, for a pointer to come. */
static inline struct pointer pointer_in(struct driver_area *area, uint32_t number) {
    return (struct pointer){.held = area->registers + number};
}
enum { FIRST, SECOND, UNTAGGED };
_Static_assert(UNTAGGED + 1 == DRIVER_REGISTERS, "each of them has one use");

static inline bool is_plain(const struct program *program) {
    return program->area->memory != 0;
}

static inline void *plainly(const struct program *program, struct pointer through, uint64_t offset) {
    return (void *)(program->area->memory + through.plain.address + offset);
}

/* A pointer to length bytes of the area. */
static inline enum status derive(const struct program *program, uint64_t offset, uint64_t length,
                                 struct pointer *into) {
    if (is_plain(program)) {
        into->plain.bounds = length;
        into->plain.address = offset;
        return STATUS_OK;
    }
    TRY(capshm_with_increment(program->area->authority, offset, into->held));
    return capshm_with_bounds(into->held, length, true, into->held);
}

/* Gives the untagged value of a register the authority of what it leads to, where that has it: otherwise it stays
 * untagged, and its first use is refused. */
static inline enum status derive_anew(const struct program *program, uint32_t value) {
    struct capability_register untagged;
    TRY(capshm_inspect(value, &untagged));
    const struct capability_bounds bounds = capability_bounds(untagged.value);
    TRY(capshm_with_address(program->target->authority, bounds.base, value));
    TRY(capshm_with_bounds(value, bounds.top - bounds.base, true, value));
    return capshm_with_address(value, untagged.value.address, value);
}

static inline enum status load(const struct program *program, struct pointer through, uint64_t offset,
                               struct pointer *into) {
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

static inline enum status store(const struct program *program, struct pointer through, uint64_t offset,
                                struct pointer value) {
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

static inline enum status read_word(const struct program *program, struct pointer through, uint64_t offset,
                                    uint64_t *word) {
    if (!is_plain(program))
        return capshm_read(through.held, offset, word, sizeof *word);
    memcpy(word, plainly(program, through, offset), sizeof *word);
    return STATUS_OK;
}

static inline enum status write_word(const struct program *program, struct pointer through, uint64_t offset,
                                     uint64_t word) {
    if (!is_plain(program))
        return capshm_write(through.held, offset, &word, sizeof word);
    memcpy(plainly(program, through, offset), &word, sizeof word);
    return STATUS_OK;
}

/* Plain memory at *address, for words of length bytes that several processes change at once. */
static inline enum status view(const struct program *program, uint64_t offset, uint64_t length, uint64_t *address) {
    *address = program->area->memory + offset;
    return is_plain(program) ? STATUS_OK : capshm_view(program->area->authority, offset, length, true, address);
}

/* A number that looks like chance for each number (the last steps of SplitMix64; Steele, Lea, Flood, OOPSLA 2014). */
static inline uint64_t mixed(uint64_t number) {
    number += UINT64_C(0x9e3779b97f4a7c15);
    number = (number ^ number >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    number = (number ^ number >> 27) * UINT64_C(0x94d049bb133111eb);
    return number ^ number >> 31;
}

/* Number such of the numbers that a seed gives. */
static inline uint64_t chance(uint64_t seed, uint64_t such) {
    return mixed(mixed(seed) + such);
}

static inline uint64_t greatest_common_divisor(uint64_t one, uint64_t other) {
    while (other != 0) {
        const uint64_t rest = one % other;
        one = other;
        other = rest;
    }
    return one;
}

/* A step that meets each of count places once before it meets one again. */
static inline uint64_t step_over(uint64_t count, uint64_t seed) {
    uint64_t step = chance(seed, 0) % count;
    while (greatest_common_divisor(step, count) != 1)
        step++;
    return step % count;
}

#endif
