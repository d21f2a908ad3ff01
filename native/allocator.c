/* allocator.c: malloc as operations on capabilities, the quarantine, and its passes. */
#include "allocator.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "capshm.h"
#include "checks.h"
#include "slots.h"

enum {
    FIRST_RANGES = 1024,
    FREED_AT_ONCE = 4096, /* slots in one operation: who stops the world does not wait for more */
    LEAST_MEMORY = 1 << 15, /* bytes that can be handed in */
};

/* Slots in quarantine. An array that doubles, so that a pass can be given all of it. */
struct ranges {
    struct allocator_range *first;
    uint64_t count;
    uint64_t capacity;
    uint64_t bytes;
};

static struct allocator {
    struct allocator_policy policy;
    struct ranges waiting;
    struct ranges passing; /* of the pass that is under way, or that was not completed */
    _Atomic bool is_passing;
    uint64_t bytes; /* of slots that are not free */
    uint64_t passes;
} allocator;

static _Atomic bool is_locked;

/* Into an operation, with the lock. Whoever has the lock is inside one: it waits for nothing, and a fork finds the lock
 * free. Who finds it taken waits outside. */
static enum status enter(uint32_t number) {
    for (;;) {
        const enum status status = process_enter();
        if (unlikely(status != STATUS_OK))
            return refuse(status, number, 0);
        if (likely(!atomic_exchange_explicit(&is_locked, true, memory_order_acquire))) /* partner: leave */
            return STATUS_OK;
        gate_leave();
        sched_yield();
    }
}

static enum status leave(enum status status) {
    atomic_store_explicit(&is_locked, false, memory_order_release);
    gate_leave();
    return status;
}

static uint64_t length_for(uint64_t size) {
    return capability_representable_length(size < GRANULE_SIZE ? GRANULE_SIZE : size);
}

/* Also where rounding up would begin at 0 again. */
static bool is_beyond_arena(uint64_t size) {
    return size > address_space.arena_size;
}

/* Derived from the capability of the slot's memory: bounds of this length, without SW_VMEM. */
static void fill(uint32_t into, struct slot slot, uint64_t length) {
    const struct capability_register *const memory = &register_file[slot.span->memory];
    struct granule value = memory->value;
    bool tag = register_has_tag(memory);
    capability_set_address(&value, &tag, slot_address(slot));
    capability_set_bounds(&value, &tag, length);
    const uint32_t permissions = capability_permissions(value.metadata) & ~(uint32_t)PERMISSION_SW_VMEM;
    value.metadata = capability_with_permissions(value.metadata, permissions);
    register_set(&register_file[into], value, tag);
    allocator.bytes += slot.span->slot_size;
}

static bool is_pass_due(void) {
    const struct allocator_policy *const policy = &allocator.policy;
    return allocator.waiting.count > 0 && !allocator.is_passing && allocator.bytes >= policy->floor &&
           allocator.waiting.bytes * policy->denominator >= allocator.bytes * policy->numerator;
}

enum status capshm_allocator_take(uint64_t size, uint32_t into) {
    if (!register_is_valid(into, 1))
        return STATUS_INVALID;
    const enum status entered = enter(into);
    if (unlikely(entered != STATUS_OK))
        return entered;
    if (unlikely(is_pass_due()))
        return leave(STATUS_REVOCATION_DUE);
    if (unlikely(is_beyond_arena(size)))
        return leave(STATUS_MEMORY_NEEDED);
    const uint64_t length = length_for(size);
    const struct slot slot = slots_take(length);
    if (unlikely(slot.span == NULL))
        return leave(STATUS_MEMORY_NEEDED);
    fill(into, slot, length);
    return leave(STATUS_OK);
}

static uint64_t memory_for(uint64_t size) {
    if (is_beyond_arena(size))
        return size;
    const uint64_t length = length_for(size);
    const uint64_t wanted = length <= SLOT_LARGEST_IN_CHUNK ? slots_chunk_size(length) : length;
    return capability_representable_length((wanted + PAGE_BYTES - 1) & ~(uint64_t)(PAGE_BYTES - 1));
}

enum status capshm_allocator_needed(uint64_t size, uint64_t *length) {
    const enum status entered = enter(0);
    if (entered != STATUS_OK)
        return entered;
    *length = memory_for(size);
    return leave(STATUS_OK);
}

/* What a span of the memory that `held` reaches over would be. False: it is not good for one. */
static bool measure(const struct capability_register *held, uint64_t length, uint64_t *slot_size, uint64_t *count) {
    const bool is_mapping = length > SLOT_LARGEST_IN_CHUNK;
    *slot_size = is_mapping ? held->length : slot_size_for(length);
    *count = held->length / *slot_size;
    return has_rights(held, PERMISSION_LOAD | PERMISSION_STORE) && (held->rights & RIGHT_GRANULE) &&
           held->base % PAGE_BYTES == 0 && held->length >= LEAST_MEMORY && held->length >= length &&
           *count < UINT32_MAX / 2;
}

enum status capshm_allocator_add(uint32_t memory, uint64_t size, uint32_t into) {
    if (!register_is_valid(memory, 1) || !register_is_valid(into, 1) || is_beyond_arena(size))
        return STATUS_INVALID;
    struct capability_register held;
    enum status status = capshm_inspect(memory, &held);
    if (status != STATUS_OK)
        return status;
    register_decode(&held);
    const uint64_t length = length_for(size);
    uint64_t slot_size, count;
    uint32_t own;
    if (!measure(&held, length, &slot_size, &count))
        return STATUS_INVALID;
    uint32_t *const states = length > SLOT_LARGEST_IN_CHUNK ? NULL : calloc(count, sizeof *states);
    if ((states == NULL && length <= SLOT_LARGEST_IN_CHUNK) || capshm_reserve(1, &own) != STATUS_OK) {
        free(states);
        return STATUS_NO_MEMORY;
    }
    status = enter(memory);
    if (status == STATUS_OK) {
        register_file[own] = register_file[memory];
        const struct slot slot = slots_add(held.base, slot_size, (uint32_t)count, own, states);
        if (slot.span != NULL)
            fill(into, slot, length);
        status = leave(slot.span != NULL ? STATUS_OK : STATUS_NO_MEMORY);
    }
    if (status != STATUS_OK) {
        capshm_release(own, 1);
        free(states);
    }
    return status;
}

/* The live slot that a pointer is; none: span NULL. */
static struct slot find(uint32_t pointer) {
    const struct capability_register *const held = register_ready(pointer);
    if (!has_rights(held, 0) || held->value.address != held->base)
        return (struct slot){0};
    const struct slot slot = slots_find(held->base);
    return slot.span != NULL && slot_state(slot) == SLOT_LIVE ? slot : (struct slot){0};
}

enum status capshm_allocator_find(uint32_t pointer, struct allocator_range *found) {
    if (!register_is_valid(pointer, 1))
        return STATUS_INVALID;
    const enum status entered = enter(pointer);
    if (entered != STATUS_OK)
        return entered;
    const struct slot slot = find(pointer);
    if (slot.span == NULL)
        return leave(STATUS_NOT_ALLOCATED);
    *found = (struct allocator_range){slot_address(slot), slot.span->slot_size};
    return leave(STATUS_OK);
}

enum status capshm_allocator_resize(uint32_t pointer, uint64_t size) {
    if (!register_is_valid(pointer, 1))
        return STATUS_INVALID;
    const enum status entered = enter(pointer);
    if (entered != STATUS_OK)
        return entered;
    if (find(pointer).span == NULL)
        return leave(STATUS_NOT_ALLOCATED);
    const uint64_t present = register_file[pointer].length;
    return leave(size <= present && present - size <= present / 2 ? STATUS_OK : STATUS_MUST_MOVE);
}

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

static void set_free(struct slot slot) {
    allocator.bytes -= slot.span->slot_size;
    slot_set_free(slot);
}

enum status capshm_allocator_give_back(uint32_t pointer) {
    if (!register_is_valid(pointer, 1))
        return STATUS_INVALID;
    const enum status entered = enter(pointer);
    if (unlikely(entered != STATUS_OK))
        return entered;
    const struct slot slot = find(pointer);
    if (unlikely(slot.span == NULL))
        return leave(STATUS_NOT_ALLOCATED);
    if (!allocator.policy.is_quarantining) {
        set_free(slot);
        return leave(slot_is_mapping(slot) ? STATUS_MEMORY_UNUSED : STATUS_OK);
    }
    struct ranges *const waiting = &allocator.waiting;
    if (!has_room(waiting, waiting->count + 1))
        return leave(STATUS_NO_MEMORY);
    waiting->first[waiting->count++] = (struct allocator_range){slot_address(slot), slot.span->slot_size};
    waiting->bytes += slot.span->slot_size;
    slot_set_quarantined(slot);
    return leave(allocator.policy.is_every_free ? STATUS_REVOCATION_DUE : STATUS_OK);
}

enum status capshm_allocator_unused(uint32_t into) {
    if (!register_is_valid(into, 1))
        return STATUS_INVALID;
    const enum status entered = enter(into);
    if (entered != STATUS_OK)
        return entered;
    const struct span *const span = slots_first_unused();
    if (span == NULL)
        return leave(STATUS_NOT_ALLOCATED);
    register_file[into] = register_file[span->memory];
    return leave(STATUS_OK);
}

enum status capshm_allocator_drop_unused(void) {
    const enum status entered = enter(0);
    if (entered != STATUS_OK)
        return entered;
    const struct span *const span = slots_first_unused();
    if (span == NULL)
        return leave(STATUS_NOT_ALLOCATED);
    const uint32_t memory = span->memory;
    slots_drop_first_unused();
    leave(STATUS_OK);
    return capshm_release(memory, 1);
}

enum status capshm_allocator_set_policy(const struct allocator_policy *policy) {
    const enum status entered = enter(0);
    if (entered != STATUS_OK)
        return entered;
    allocator.policy = *policy;
    return leave(STATUS_OK);
}

/* All that waits belongs to the pass. False: no memory, and nothing has changed. */
static bool move_to_pass(void) {
    struct ranges *const passing = &allocator.passing;
    struct ranges *const waiting = &allocator.waiting;
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

enum status capshm_allocator_begin_pass(const struct allocator_range **ranges, uint64_t *count) {
    const enum status entered = enter(0);
    if (entered != STATUS_OK)
        return entered;
    if (allocator.is_passing)
        return leave(STATUS_PASS_UNDER_WAY);
    if (!move_to_pass())
        return leave(STATUS_NO_MEMORY);
    if (allocator.passing.count == 0)
        return leave(STATUS_NOT_ALLOCATED);
    allocator.is_passing = true;
    *ranges = allocator.passing.first;
    *count = allocator.passing.count;
    return leave(STATUS_OK);
}

/* Frees slots of the pass, FREED_AT_ONCE at most. */
static void free_some(void) {
    struct ranges *const passing = &allocator.passing;
    for (uint32_t i = 0; i < FREED_AT_ONCE && passing->count > 0; i++) {
        const struct allocator_range range = passing->first[--passing->count];
        passing->bytes -= range.length;
        set_free(slots_find(range.start));
    }
}

enum status capshm_allocator_end_pass(bool is_revoked) {
    if (!allocator.is_passing)
        return STATUS_INVALID;
    enum status status = STATUS_OK;
    for (bool has_more = is_revoked; has_more && status == STATUS_OK;) {
        status = enter(0);
        if (status != STATUS_OK)
            break;
        free_some();
        has_more = allocator.passing.count > 0;
        allocator.passes += !has_more;
        status = leave(has_more || slots_first_unused() == NULL ? STATUS_OK : STATUS_MEMORY_UNUSED);
    }
    allocator.is_passing = false;
    return status;
}

enum status capshm_allocator_count(struct allocator_counts *counts) {
    const enum status entered = enter(0);
    if (entered != STATUS_OK)
        return entered;
    *counts = (struct allocator_counts){
        .heap = allocator.bytes,
        .quarantine = allocator.waiting.bytes + allocator.passing.bytes,
        .passes = allocator.passes,
        .is_quarantining = allocator.policy.is_quarantining,
    };
    return leave(STATUS_OK);
}

void allocator_start_child(void) {
    allocator.is_passing = false;
}

static void release_register(uint32_t memory) {
    register_file_release(memory, 1);
}

void allocator_forget(void) {
    slots_forget(release_register);
    free(allocator.waiting.first);
    free(allocator.passing.first);
    memset(&allocator, 0, sizeof allocator);
    is_locked = false; /* a child that came without the hooks may have a copy of another thread's lock */
}
