/* quarantine.c: the ranges that wait, and those of the pass. */
#include "quarantine.h"

#include <stdlib.h>
#include <string.h>

#include "compiler.h"

enum { FIRST_RANGES = 1024 };

/* Room for so many. */
static bool has_room(struct ranges *ranges, uint64_t count) {
    if (likely(count <= ranges->capacity))
        return true;
    uint64_t capacity = ranges->capacity == 0 ? FIRST_RANGES : ranges->capacity;
    while (capacity < count)
        capacity *= 2;
    struct allocator_range *const grown = realloc(ranges->first, capacity * sizeof *grown);
    if (grown == NULL)
        return false;
    ranges->first = grown;
    ranges->capacity = capacity;
    return true;
}

bool quarantine_add(struct quarantine *quarantine, struct allocator_range range) {
    struct ranges *const waiting = &quarantine->waiting;
    if (!has_room(waiting, waiting->count + 1))
        return false;
    waiting->first[waiting->count++] = range;
    waiting->bytes += range.length;
    return true;
}

bool quarantine_is_pass_due(const struct quarantine *quarantine, uint64_t heap) {
    const struct allocator_policy *const policy = &quarantine->policy;
    return quarantine->waiting.count > 0 && !quarantine->is_passing && heap >= policy->floor &&
           quarantine->waiting.bytes * policy->denominator >= heap * policy->numerator;
}

bool quarantine_move_to_pass(struct quarantine *quarantine) {
    struct ranges *const passing = &quarantine->passing;
    struct ranges *const waiting = &quarantine->waiting;
    if (passing->count == 0) {
        const struct ranges empty = *passing;
        *passing = *waiting;
        *waiting = empty;
        return true;
    }
    if (!has_room(passing, passing->count + waiting->count))
        return false;
    if (waiting->count > 0)
        memcpy(&passing->first[passing->count], waiting->first, waiting->count * sizeof *waiting->first);
    passing->count += waiting->count;
    passing->bytes += waiting->bytes;
    waiting->count = waiting->bytes = 0;
    return true;
}

struct allocator_range quarantine_take_from_pass(struct quarantine *quarantine) {
    struct ranges *const passing = &quarantine->passing;
    const struct allocator_range range = passing->first[--passing->count];
    passing->bytes -= range.length;
    return range;
}

void quarantine_forget(struct quarantine *quarantine) {
    free(quarantine->waiting.first);
    free(quarantine->passing.first);
    memset(quarantine, 0, sizeof *quarantine);
}
