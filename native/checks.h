/* checks.h: the checks of a memory access in the order of the ISA (cheribsd:5.3), for all that use an authority.
 *
 * tag, seal, permission, permission for tagged data, bounds, alignment, page. What is asked at every access is inline;
 * why it was refused is found out once more, out of line, when it was. Everything here runs inside the gate unless it
 * says otherwise.
 */
#ifndef CAPSHM_CHECKS_H
#define CAPSHM_CHECKS_H

#include <stdbool.h>

#include "compiler.h"
#include "fault.h"
#include "line.h"
#include "page_table.h"
#include "process.h"
#include "register_file.h"

/* Fills the thread's fault and returns status. */
enum status refuse(enum status status, uint32_t authority, uint64_t address) __attribute__((cold));

/* The register to check: decoded, whatever it holds. */
static inline struct capability_register *register_ready(uint32_t number) {
    struct capability_register *const held = &register_file[number];
    if (!(__atomic_load_n(&held->rights, __ATOMIC_ACQUIRE) & RIGHT_DECODED))
        register_decode(held);
    return held;
}

/* Why the authority does not allow size bytes at address. */
enum status explain_refusal(uint32_t authority, uint64_t address, uint64_t size, uint32_t permission)
    __attribute__((cold));

/* A page whose entry does not permit what is wanted. */
enum status refuse_page(uint32_t authority, uint64_t address, uint64_t entry) __attribute__((cold));

/* The same for a write, which a page may also ask to wait for a copy: STATUS_COPY_FIRST, which leave_refused answers. */
enum status refuse_write(uint32_t authority, uint64_t address, uint64_t entry) __attribute__((cold));

/* Leaves the gate with the refusal of an access that faulted, or waits for a held line: STATUS_AGAIN asks for another
 * turn. */
enum status leave_unfinished(struct line_place place, enum line_result result, uint32_t authority, uint64_t address,
                             uint64_t *waited) __attribute__((cold));

/* Tag, seal, permission. False also for a register that has not been decoded: see register_ready. */
ALWAYS_INLINE bool has_rights(const struct capability_register *authority, uint32_t permission) {
    const uint32_t needed = permission | RIGHT_LIVE | RIGHT_TAG | RIGHT_UNSEALED;
    return (__atomic_load_n(&authority->rights, __ATOMIC_ACQUIRE) & needed) == needed;
}

ALWAYS_INLINE bool is_in_bounds(const struct capability_register *authority, uint64_t address, uint64_t size) {
    const uint64_t base = __atomic_load_n(&authority->base, __ATOMIC_RELAXED);
    const uint64_t length = __atomic_load_n(&authority->length, __ATOMIC_RELAXED);
    return size <= length && address - base <= length - size;
}

/* How many granules from address on lie in one tag line, at most wanted. */
static inline uint32_t granules_in_line(uint64_t address, uint64_t wanted) {
    const uint64_t left = LINE_GRANULES - (address >> GRANULE_SHIFT & (LINE_GRANULES - 1));
    return (uint32_t)(wanted < left ? wanted : left);
}

/* The page's answer to a load of capabilities: STATUS_OK and the place; without a line where tags are stripped. */
ALWAYS_INLINE enum status place_load(const struct capability_register *held, uint32_t authority, uint64_t address,
                                     uint32_t count, struct line_place *place) {
    const uint64_t entry = page_table_look_up(address);
    if (unlikely(!(entry & PAGE_READ)))
        return refuse_page(authority, address, entry);
    *place = line_place_of(page_table_region(entry), address, count);
    if (unlikely(!(held->rights & PERMISSION_LOAD_CAP) || !(entry & PAGE_LOAD_CAP)))
        place->has_line = false; /* cheribsd:A17, and an authority without LoadCap: stripped, no fault */
    return STATUS_OK;
}

/* What the authority says to tagged values: which of them keep their tags. The values' rights lie stride bytes apart.
 * STATUS_OK, or the refusal of the first value that may not be stored. */
ALWAYS_INLINE enum status judge_values(const struct capability_register *held, uint32_t authority, uint64_t address,
                                       const struct capability_register *values, size_t stride, uint32_t count,
                                       uint64_t *tagged) {
    *tagged = 0;
    for (uint32_t i = 0; i < count; i++) {
        const struct capability_register *const value =
            (const struct capability_register *)((const char *)values + i * stride);
        if (!(value->rights & RIGHT_TAG))
            continue;
        const bool may_store = held->rights & PERMISSION_STORE_CAP;
        const bool may_store_local = (capability_permissions(value->value.metadata) & PERMISSION_GLOBAL) ||
                                     (held->rights & PERMISSION_STORE_LOCAL);
        if (likely(may_store && may_store_local))
            *tagged |= (uint64_t)1 << i;
        else if (!process.is_rvy)
            return refuse(may_store ? STATUS_STORE_LOCAL_VIOLATION : STATUS_PERMISSION_VIOLATION, authority,
                          address + ((uint64_t)i << GRANULE_SHIFT));
    }
    return STATUS_OK;
}

/* Refusals of a single tagged value in a run of values. */
static inline bool is_about_value(enum status status) {
    return status == STATUS_PERMISSION_VIOLATION || status == STATUS_STORE_LOCAL_VIOLATION ||
           status == STATUS_STORE_TAG_VIOLATION;
}

/* Writes bytes over granules whose tags have been cleared. */
enum line_result write_bytes(uint64_t address, const void *bytes, size_t length);

/* Stores untagged granules where capabilities may not be stored: plain data, and the tags go. */
enum line_result store_plainly(struct line_place place, const char *values, size_t stride);

/* Stores values, stride bytes apart, into the page that holds address; all of them in one tag line. *done: stored
 * before a fault. STATUS_OK: *result tells how it went, at *place. */
ALWAYS_INLINE enum status store_in_page(uint32_t authority, uint64_t address, const char *values, size_t stride,
                                        uint32_t count, uint64_t tagged, struct line_place *place,
                                        enum line_result *result, uint32_t *done) {
    const uint64_t entry = page_table_look_up(address);
    *done = 0;
    const uint64_t first_tagged = address + ((uint64_t)__builtin_ctzll(tagged | (uint64_t)1 << 63) << GRANULE_SHIFT);
    if (unlikely(!(entry & PAGE_WRITE)))
        /* What is refused must not copy the page either. */
        return tagged != 0 && (entry & PAGE_COPY) && !(entry & PAGE_STORE_CAP)
                   ? refuse(STATUS_STORE_TAG_VIOLATION, authority, first_tagged)
                   : refuse_write(authority, address, entry);
    *place = line_place_of(page_table_region(entry), address, count);
    if (likely((entry & PAGE_STORE_CAP) && place->region->is_lines_writable)) {
        if (tagged != 0)
            page_table_mark_dirty(address, entry);
        *result = line_store(*place, values, stride, tagged, done);
        return STATUS_OK;
    }
    if (tagged != 0)
        return refuse(STATUS_STORE_TAG_VIOLATION, authority, first_tagged);
    *result = store_plainly(*place, values, stride);
    return STATUS_OK;
}

#endif
