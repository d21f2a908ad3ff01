/* checks.c: the refusals of checks.h. */
#include "checks.h"

#include "gate.h"
#include "program.h"
#include "step.h"

_Thread_local struct fault thread_fault;

enum status refuse(enum status status, uint32_t authority, uint64_t address) {
    thread_fault.address = address;
    thread_fault.register_index = authority;
    return status;
}

enum status explain_refusal(uint32_t authority, uint64_t address, uint64_t size, uint32_t permission) {
    const struct capability_register *const held = &register_file[authority];
    const uint64_t offset = address - held->base;
    enum status status = STATUS_OK;
    if (!(held->rights & RIGHT_LIVE))
        status = STATUS_NOT_ATTACHED;
    else if (!(held->rights & RIGHT_TAG))
        status = STATUS_TAG_VIOLATION;
    else if (!(held->rights & RIGHT_UNSEALED))
        status = STATUS_SEAL_VIOLATION;
    else if ((held->rights & permission) != permission)
        status = STATUS_PERMISSION_VIOLATION;
    else if (size > held->length || offset > held->length - size)
        status = STATUS_BOUNDS_VIOLATION;
    return refuse(status, authority, address);
}

enum status refuse_page(uint32_t authority, uint64_t address, uint64_t entry) {
    return refuse(entry & PAGE_MAPPED ? STATUS_PAGE_NOT_PERMITTED : STATUS_PAGE_NOT_MAPPED, authority, address);
}

enum status refuse_write(uint32_t authority, uint64_t address, uint64_t entry) {
    return entry & PAGE_COPY ? refuse(STATUS_COPY_FIRST, authority, address) : refuse_page(authority, address, entry);
}

/* Program memory could not be touched although the page table permits it: truncated, no memory, or unmapped past
 * capshm. */
static enum status refuse_access(uint32_t authority, uint64_t address) {
    const enum status status = program_fault.is_bus_error      ? STATUS_PAGE_BEYOND_OBJECT
                               : program_fault.is_mapping_gone ? STATUS_PAGE_NOT_MAPPED
                                                               : STATUS_PAGE_NOT_PERMITTED;
    return refuse(status, authority, address);
}

enum status leave_unfinished(struct line_place place, enum line_result result, uint32_t authority, uint64_t address,
                             uint64_t *waited) {
    const uint64_t lock = result == LINE_HELD ? atomic_load(&place.line->lock) : 0;
    gate_leave();
    if (result == LINE_FAULTED)
        return refuse_access(authority, address);
    const enum status status = line_wait(place, lock, process.lock_timeout, waited);
    return status == STATUS_AGAIN ? status : refuse(status, authority, address);
}

enum line_result write_bytes(uint64_t address, const void *bytes, size_t length) {
    STEP(WRITE_CLEARED);
    if (!program_copy((void *)address, bytes, length))
        return LINE_FAULTED;
    STEP(WRITE_DONE);
    return LINE_DONE;
}

enum line_result store_plainly(struct line_place place, const char *values, size_t stride) {
    const enum line_result cleared = line_clear(place);
    if (cleared != LINE_DONE)
        return cleared;
    STEP(WRITE_CLEARED);
    for (uint32_t i = 0; i < place.count; i++) {
        if (!program_store(&place.data[i], (const struct granule *)(values + i * stride)))
            return LINE_FAULTED;
    }
    STEP(WRITE_DONE);
    return LINE_DONE;
}
