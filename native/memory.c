/* memory.c: loads and stores of capabilities through a checked authority (cheribsd:5.3).
 *
 * The ways that almost all single loads and stores take come as straight code, load_quickly and capshm_store. Whatever
 * is out of the ordinary starts again in load_line or store_line, which have the shape of everything else in this core.
 * Inside the gate: check the authority for all of what is left of the range, look the page up, do the granules of one
 * tag line; outside again: wait if the line was held, go on with the next line. So a thread is never inside the gate
 * for more than a line, a stop never waits long, and after each stop the authority, which a revocation may have
 * reached, is checked anew.
 */
#include "capshm.h"
#include "checks.h"
#include "origin.h"
#include "private.h"
#include "process.h"

/* Loads ------------------------------------------------------------------------------------------------------------ */

/* Loads count granules of one line into registers from first on. The range to check has total granules. */
static enum status load_line(uint32_t authority, uint64_t address, uint64_t total, uint32_t first, uint32_t count,
                             uint64_t *waited) {
    const enum status entered = process_enter();
    if (entered != STATUS_OK)
        return refuse(entered, authority, address);
    const struct capability_register *const held = register_ready(authority);
    enum status status = STATUS_OK;
    struct line_place place;
    if (!has_rights(held, PERMISSION_LOAD) || !is_in_bounds(held, address, total << GRANULE_SHIFT))
        status = explain_refusal(authority, address, total << GRANULE_SHIFT, PERMISSION_LOAD);
    else if (address % GRANULE_SIZE != 0)
        status = refuse(STATUS_ALIGNMENT_VIOLATION, authority, address);
    else
        status = place_load(held, authority, address, count, &place);
    if (status != STATUS_OK) {
        gate_leave();
        return status;
    }
    struct capability_register *const into = &register_file[first];
    uint64_t tagged;
    const enum line_result result = line_load(place, &into->value, sizeof *into, &tagged);
    for (uint32_t i = 0; i < count; i++)
        into[i].rights = 0; /* after a fault their values may be half of one thing and half of another */
    if (unlikely(result != LINE_DONE))
        return leave_unfinished(place, result, authority, address, waited);
    tagged = origin_admit(place.region, into, sizeof *into, tagged);
    for (uint32_t i = 0; i < count; i++)
        register_load(&into[i], into[i].value, into[i].origin, tagged >> i & 1);
    gate_leave();
    return STATUS_OK;
}

enum status capshm_load_many(uint32_t authority, uint64_t offset, uint32_t first, uint32_t count) {
    if (!register_is_valid(authority, 1) || !register_is_valid(first, count))
        return STATUS_INVALID;
    uint64_t address = register_file[authority].value.address + offset;
    uint64_t waited = 0;
    do {
        const uint32_t now = granules_in_line(address, count);
        const enum status status = load_line(authority, address, count, first, now, &waited);
        if (status == STATUS_AGAIN)
            continue;
        if (status != STATUS_OK)
            return status;
        address += (uint64_t)now << GRANULE_SHIFT;
        first += now;
        count -= now;
    } while (count > 0);
    return STATUS_OK;
}

/* All that the authority must allow for one granule, in as few instructions as it takes. */
ALWAYS_INLINE bool may_access_granule(const struct capability_register *held, uint32_t permission, uint64_t address) {
    return has_rights(held, permission | RIGHT_GRANULE) && address % GRANULE_SIZE == 0 &&
           address - __atomic_load_n(&held->base, __ATOMIC_RELAXED) <=
               __atomic_load_n(&held->last_granule, __ATOMIC_RELAXED);
}

/* The way that almost every load takes, without a call: all checks hold and nobody is in the way. False: nothing was
 * done. */
ALWAYS_INLINE bool load_quickly(uint32_t authority, uint64_t offset, uint32_t into) {
    struct gate_slot *const slot = (authority | into) < REGISTER_COUNT ? gate_try_enter() : NULL;
    if (unlikely(slot == NULL))
        return false;
    const struct capability_register *const held = &register_file[authority];
    const uint64_t address = held->value.address + offset;
    const uint64_t needed = PAGE_READ | PAGE_LOAD_CAP;
    bool is_done = false;
    if (likely(may_access_granule(held, PERMISSION_LOAD | PERMISSION_LOAD_CAP, address))) {
        const uint64_t entry = page_table_look_up_in_arena(address);
        if (unlikely((entry & needed) != needed))
            goto leave;
        const struct line_place place = line_place_of(page_table_region(entry), address, 1);
        struct granule value;
        bool tag;
        is_done = line_load_quickly(&place, &value, &tag);
        if (likely(is_done))
            register_load(&register_file[into], value, 0, tag);
    }
leave:
    gate_leave_slot(slot);
    return is_done;
}

enum status capshm_load(uint32_t authority, uint64_t offset, uint32_t into) {
    return likely(load_quickly(authority, offset, into)) ? STATUS_OK : capshm_load_many(authority, offset, into, 1);
}

/* Stores ----------------------------------------------------------------------------------------------------------- */

static enum status store_line(uint32_t authority, uint64_t address, uint64_t total, uint32_t first, size_t stride,
                              uint32_t count, uint64_t *waited) {
    const enum status entered = process_enter();
    if (unlikely(entered != STATUS_OK))
        return refuse(entered, authority, address);
    const struct capability_register *const held = register_ready(authority);
    const struct capability_register *const values = &register_file[first];
    enum status status = STATUS_OK;
    uint64_t tagged;
    if (unlikely(!has_rights(held, PERMISSION_STORE)))
        status = explain_refusal(authority, address, total << GRANULE_SHIFT, PERMISSION_STORE);
    if (likely(status == STATUS_OK))
        status = judge_values(held, authority, address, values, stride, count, &tagged);
    if (unlikely(status == STATUS_OK && !is_in_bounds(held, address, total << GRANULE_SHIFT)))
        status = explain_refusal(authority, address, total << GRANULE_SHIFT, PERMISSION_STORE);
    if (unlikely(status == STATUS_OK && address % GRANULE_SIZE != 0))
        status = refuse(STATUS_ALIGNMENT_VIOLATION, authority, address);
    struct line_place place;
    enum line_result result = LINE_DONE;
    uint32_t done = 0;
    if (likely(status == STATUS_OK))
        status = store_in_page(authority, address, (const char *)&values->value, stride, count, tagged, &place, &result,
                               &done);
    if (unlikely(status != STATUS_OK))
        return leave_refused(status, authority);
    if (unlikely(result != LINE_DONE))
        return leave_unfinished(place, result, authority, address + ((uint64_t)done << GRANULE_SHIFT), waited);
    gate_leave();
    return STATUS_OK;
}

/* stride 0: the same value everywhere. */
static enum status store_run(uint32_t authority, uint64_t address, uint32_t first, size_t stride, uint64_t count) {
    uint64_t waited = 0;
    uint64_t step = LINE_GRANULES;
    do {
        const uint32_t now = granules_in_line(address, count < step ? count : step);
        const enum status status = store_line(authority, address, count, first, stride, now, &waited);
        if (status == STATUS_AGAIN)
            continue;
        if (status != STATUS_OK && now > 1 && is_about_value(status)) {
            step = 1; /* one by one, so that the values before the refused one are stored (cheribsd:6.3) */
            continue;
        }
        if (status != STATUS_OK)
            return status;
        address += (uint64_t)now << GRANULE_SHIFT;
        first += stride == 0 ? 0 : now;
        count -= now;
    } while (count > 0);
    return STATUS_OK;
}

enum status capshm_store_many(uint32_t authority, uint64_t offset, uint32_t first, uint32_t count) {
    if (!register_is_valid(authority, 1) || !register_is_valid(first, count))
        return STATUS_INVALID;
    const uint64_t address = register_file[authority].value.address + offset;
    return store_run(authority, address, first, sizeof(struct capability_register), count);
}

enum status capshm_fill(uint32_t authority, uint64_t offset, uint64_t count, uint32_t value) {
    if (!register_is_valid(authority, 1) || !register_is_valid(value, 1) || count >> (64 - GRANULE_SHIFT) != 0)
        return STATUS_INVALID;
    return store_run(authority, register_file[authority].value.address + offset, value, 0, count);
}

/* The ways out of capshm_store, out of line so that the way through it needs no stack. Something is out of the
 * ordinary: store_run knows all the cases. */
static __attribute__((noinline)) enum status store_carefully(uint32_t authority, uint64_t address, uint32_t value,
                                                             struct gate_slot *slot) {
    if (slot != NULL)
        gate_leave_slot(slot);
    return store_run(authority, address, value, 0, 1);
}

/* Others may reach the line too, or have values in it. */
static __attribute__((noinline)) enum status store_shared(uint32_t authority, uint64_t address, uint32_t value,
                                                          struct gate_slot *slot, struct region *region) {
    const struct capability_register *const stored = &register_file[value];
    const bool tag = register_has_tag(stored);
    const bool is_done = line_is_alone(region) ? line_store_alone(region, address, &stored->value, tag)
                                               : line_store_one(region, address, &stored->value, tag);
    gate_leave_slot(slot);
    return likely(is_done) ? STATUS_OK : store_run(authority, address, value, 0, 1);
}

enum status capshm_store(uint32_t authority, uint64_t offset, uint32_t value) {
    if (unlikely((authority | value) >= REGISTER_COUNT))
        return STATUS_INVALID;
    const struct capability_register *const held = &register_file[authority];
    const uint64_t address = held->value.address + offset;
    struct gate_slot *const slot = gate_try_enter();
    if (unlikely(slot == NULL))
        return store_carefully(authority, address, value, NULL);
    const uint64_t needed = PAGE_WRITE | PAGE_STORE_CAP | PAGE_CAPABILITY_DIRTY;
    const uint32_t rights = PERMISSION_STORE | PERMISSION_STORE_CAP | PERMISSION_STORE_LOCAL;
    if (unlikely(!may_access_granule(held, rights, address)))
        return store_carefully(authority, address, value, slot);
    const uint64_t entry = page_table_look_up_in_arena(address);
    if (unlikely((entry & needed) != needed))
        return store_carefully(authority, address, value, slot);
    struct region *const region = page_table_region(entry);
    if (!line_is_alone(region) || unlikely(line_has_origins(region)))
        return store_shared(authority, address, value, slot, region);
    const struct capability_register *const stored = &register_file[value];
    if (unlikely(!line_store_alone(region, address, &stored->value, register_has_tag(stored))))
        return store_carefully(authority, address, value, slot);
    gate_leave_slot(slot);
    return STATUS_OK;
}
