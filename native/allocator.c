/* allocator.c: malloc and the passes of its quarantine, as operations on capabilities. */
#include "allocator.h"

#include <sched.h>
#include <stdlib.h>

#include "capshm.h"
#include "checks.h"
#include "quarantine.h"
#include "slots.h"

enum {
    FREED_AT_ONCE = 4096, /* slots in one operation: who stops the world does not wait for more */
    LEAST_MEMORY = 1 << 15, /* bytes that can be handed in */
};

static struct quarantine quarantine;
static uint64_t heap_bytes; /* of slots that are not free */
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
    register_set(&register_file[into], value, 0, tag);
    heap_bytes += slot.span->slot_size;
}

enum status capshm_allocator_take(uint64_t size, uint32_t into) {
    if (!register_is_valid(into, 1))
        return STATUS_INVALID;
    const enum status entered = enter(into);
    if (unlikely(entered != STATUS_OK))
        return entered;
    if (unlikely(quarantine_is_pass_due(&quarantine, heap_bytes)))
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
    if (!has_rights(held, PERMISSION_LOAD | PERMISSION_STORE) || !(held->rights & RIGHT_GRANULE) ||
        held->base % PAGE_BYTES != 0 || held->length < LEAST_MEMORY || held->length < length)
        return false;
    const bool is_mapping = length > SLOT_LARGEST_IN_CHUNK;
    *slot_size = is_mapping ? held->length : slot_size_for(length);
    *count = held->length / *slot_size;
    return *count < UINT32_MAX / 2;
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

static void set_free(struct slot slot) {
    heap_bytes -= slot.span->slot_size;
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
    if (!quarantine.policy.is_quarantining) {
        set_free(slot);
        return leave(slot_is_mapping(slot) ? STATUS_MEMORY_UNUSED : STATUS_OK);
    }
    if (!quarantine_add(&quarantine, (struct allocator_range){slot_address(slot), slot.span->slot_size}))
        return leave(STATUS_NO_MEMORY);
    slot_set_quarantined(slot);
    return leave(quarantine.policy.is_every_free ? STATUS_REVOCATION_DUE : STATUS_OK);
}

enum status capshm_allocator_begin_unmap(uint32_t into, uint32_t *mapping) {
    if (!register_is_valid(into, 1))
        return STATUS_INVALID;
    const enum status entered = enter(into);
    if (entered != STATUS_OK)
        return entered;
    const struct slot slot = slots_take_unused();
    if (slot.span == NULL)
        return leave(STATUS_NOT_ALLOCATED);
    register_file[into] = register_file[slot.span->memory];
    *mapping = slot_span_number(slot);
    return leave(STATUS_OK);
}

enum status capshm_allocator_end_unmap(uint32_t mapping, bool is_unmapped) {
    const enum status entered = enter(0);
    if (entered != STATUS_OK)
        return entered;
    const struct slot slot = slots_find_taken(mapping);
    if (slot.span == NULL)
        return leave(STATUS_INVALID);
    if (!is_unmapped) {
        slot_put_back(slot);
        return leave(STATUS_OK);
    }
    const uint32_t memory = slot.span->memory;
    slot_drop(slot);
    leave(STATUS_OK);
    return capshm_release(memory, 1);
}

enum status capshm_allocator_set_policy(const struct allocator_policy *policy) {
    const enum status entered = enter(0);
    if (entered != STATUS_OK)
        return entered;
    quarantine.policy = *policy;
    return leave(STATUS_OK);
}

enum status capshm_allocator_begin_pass(const struct allocator_range **ranges, uint64_t *count) {
    const enum status entered = enter(0);
    if (entered != STATUS_OK)
        return entered;
    if (quarantine.is_passing)
        return leave(STATUS_PASS_UNDER_WAY);
    if (!quarantine_move_to_pass(&quarantine))
        return leave(STATUS_NO_MEMORY);
    if (quarantine.passing.count == 0)
        return leave(STATUS_NOT_ALLOCATED);
    quarantine.is_passing = true;
    *ranges = quarantine.passing.first;
    *count = quarantine.passing.count;
    return leave(STATUS_OK);
}

/* Frees slots of the pass, FREED_AT_ONCE at most. */
static void free_some(void) {
    for (uint32_t i = 0; i < FREED_AT_ONCE && quarantine.passing.count > 0; i++)
        set_free(slots_find(quarantine_take_from_pass(&quarantine).start));
}

enum status capshm_allocator_end_pass(bool is_revoked) {
    if (!quarantine.is_passing)
        return STATUS_INVALID;
    enum status status = STATUS_OK;
    for (bool has_more = is_revoked; has_more && status == STATUS_OK;) {
        status = enter(0);
        if (status != STATUS_OK)
            break;
        free_some();
        has_more = quarantine.passing.count > 0;
        quarantine.passes += !has_more;
        status = leave(has_more || !slots_has_unused() ? STATUS_OK : STATUS_MEMORY_UNUSED);
    }
    quarantine.is_passing = false;
    return status;
}

enum status capshm_allocator_count(struct allocator_counts *counts) {
    const enum status entered = enter(0);
    if (entered != STATUS_OK)
        return entered;
    *counts = (struct allocator_counts){
        .heap = heap_bytes,
        .quarantine = quarantine.waiting.bytes + quarantine.passing.bytes,
        .passes = quarantine.passes,
        .is_quarantining = quarantine.policy.is_quarantining,
    };
    return leave(STATUS_OK);
}

void allocator_start_child(void) {
    quarantine.is_passing = false;
}

static void release_register(uint32_t memory) {
    register_file_release(memory, 1);
}

void allocator_forget(void) {
    slots_forget(release_register);
    quarantine_forget(&quarantine);
    heap_bytes = 0;
    is_locked = false; /* a child that came without the hooks may have a copy of another thread's lock */
}
