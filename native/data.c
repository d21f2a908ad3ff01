/* data.c: plain bytes through a checked authority (cheribsd:5.3).
 *
 * A data write clears the tag of every granule that it touches before the first of its bytes is written: no death
 * leaves a tag over a mixture.
 */
#include "capshm.h"
#include "checks.h"
#include "private.h"
#include "program.h"

/* Bytes from address on that lie in its page, at most wanted. */
static uint64_t bytes_in_page(uint64_t address, uint64_t wanted) {
    const uint64_t left = PAGE_BYTES - address % PAGE_BYTES;
    return wanted < left ? wanted : left;
}

static enum status check_authority(uint32_t authority, uint64_t address, uint64_t length, uint32_t permission) {
    const struct capability_register *const held = register_ready(authority);
    if (likely(has_rights(held, permission) && is_in_bounds(held, address, length)))
        return STATUS_OK;
    return explain_refusal(authority, address, length, permission);
}

/* Every page of the range permits the access. */
static enum status check_pages(uint32_t authority, uint64_t address, uint64_t length, uint32_t page_permission) {
    while (length > 0) {
        const uint64_t entry = page_table_look_up(address);
        const uint64_t permitted = entry | (entry & PAGE_COPY ? PAGE_WRITE : 0);
        if ((permitted & page_permission) != page_permission)
            return refuse_page(authority, address, entry);
        const uint64_t now = bytes_in_page(address, length);
        address += now;
        length -= now;
    }
    return STATUS_OK;
}

/* What an access to bytes needs of the authority and of every page. */
struct need {
    uint32_t permission;
    uint32_t page;
};
static const struct need need_read = {PERMISSION_LOAD, PAGE_READ};
static const struct need need_write = {PERMISSION_STORE, PAGE_WRITE};
static const struct need need_both = {PERMISSION_LOAD | PERMISSION_STORE, PAGE_READ | PAGE_WRITE};

/* Authority and pages of a whole data access, before anything is changed. */
static enum status check_range(uint32_t authority, uint64_t offset, uint64_t length, struct need need,
                               uint64_t *address) {
    if (!register_is_valid(authority, 1))
        return STATUS_INVALID;
    const enum status entered = process_enter();
    if (entered != STATUS_OK)
        return refuse(entered, authority, 0);
    *address = register_file[authority].value.address + offset;
    enum status status = check_authority(authority, *address, length, need.permission);
    if (status == STATUS_OK)
        status = check_pages(authority, *address, length, need.page);
    gate_leave();
    return status;
}

enum status capshm_view(uint32_t authority, uint64_t offset, uint64_t length, bool is_writable, uint64_t *address) {
    const enum status checked = check_range(authority, offset, length, is_writable ? need_both : need_read, address);
    if (checked != STATUS_OK || !is_writable)
        return checked;
    for (uint64_t left = length, place = *address; left > 0;) {
        const uint64_t now = bytes_in_page(place, left);
        const bool is_shared = page_table_look_up(place) & PAGE_COPY; /* raw writes are only for pages of one's own */
        const enum status status = is_shared ? private_copy_page(place, authority) : STATUS_AGAIN;
        if (status != STATUS_AGAIN)
            return status;
        place += now;
        left -= now;
    }
    return STATUS_OK;
}

/* Clears the tags of all granules that length bytes at address touch, which lie in one page.
 * On LINE_HELD place is the line to wait for; the lines before it are clear. */
static enum line_result clear_in_page(uint64_t entry, uint64_t address, uint64_t length, struct line_place *place) {
    uint64_t granule = address & ~(uint64_t)(GRANULE_SIZE - 1);
    const uint64_t end = address + length;
    while (granule < end) {
        const uint64_t left = (end - granule + GRANULE_SIZE - 1) >> GRANULE_SHIFT;
        const uint32_t now = granules_in_line(granule, left);
        *place = line_place_of(page_table_region(entry), granule, now);
        const enum line_result result = line_clear(*place);
        if (result != LINE_DONE)
            return result;
        granule += (uint64_t)now << GRANULE_SHIFT;
    }
    return LINE_DONE;
}

/* Reads or writes the bytes of one page. */
static enum status transfer_in_page(uint32_t authority, uint64_t address, char *buffer, uint64_t length, uint64_t total,
                                    bool is_write, uint64_t *waited) {
    const enum status entered = process_enter();
    if (entered != STATUS_OK)
        return refuse(entered, authority, address);
    const struct need need = is_write ? need_write : need_read;
    enum status status = check_authority(authority, address, total, need.permission);
    const uint64_t entry = page_table_look_up(address);
    if (status == STATUS_OK && !(entry & need.page))
        status = is_write ? refuse_write(authority, address, entry) : refuse_page(authority, address, entry);
    if (status != STATUS_OK)
        return leave_refused(status, authority);
    struct line_place place = {0};
    enum line_result result = LINE_DONE;
    if (is_write) {
        result = clear_in_page(entry, address, length, &place);
        if (result == LINE_DONE)
            result = write_bytes(address, buffer, length);
    } else if (!program_copy(buffer, (const void *)address, length)) {
        result = LINE_FAULTED;
    }
    if (unlikely(result != LINE_DONE))
        return leave_unfinished(place, result, authority, address, waited);
    gate_leave();
    return STATUS_OK;
}

static enum status transfer(uint32_t authority, uint64_t offset, char *buffer, uint64_t length, bool is_write) {
    uint64_t address;
    const enum status checked = check_range(authority, offset, length, is_write ? need_write : need_read, &address);
    if (checked != STATUS_OK)
        return checked;
    uint64_t waited = 0;
    while (length > 0) {
        const uint64_t now = bytes_in_page(address, length);
        const enum status status = transfer_in_page(authority, address, buffer, now, length, is_write, &waited);
        if (status == STATUS_AGAIN)
            continue;
        if (status != STATUS_OK)
            return status;
        address += now;
        buffer += now;
        length -= now;
    }
    return STATUS_OK;
}

enum status capshm_read(uint32_t authority, uint64_t offset, void *buffer, uint64_t length) {
    return transfer(authority, offset, buffer, length, false);
}

enum status capshm_write(uint32_t authority, uint64_t offset, const void *buffer, uint64_t length) {
    return transfer(authority, offset, (char *)buffer, length, true); /* is_write: the buffer is only read */
}
