/* registers.c: reserving, filling and looking at registers. All but the first is an operation, inside the gate. */
#include "capshm.h"
#include "checks.h"

enum status capshm_reserve(uint32_t count, uint32_t *first) {
    process_lock();
    const enum status status = register_file_reserve(count, first);
    process_unlock();
    return status;
}

enum status capshm_release(uint32_t first, uint32_t count) {
    if (first == 0 || count == 0 || !register_is_valid(first, count))
        return STATUS_INVALID;
    process_lock();
    register_file_release(first, count);
    process_unlock();
    return STATUS_OK;
}

enum status capshm_make(uint32_t into, uint64_t address, uint64_t metadata, bool tag) {
    if (!register_is_valid(into, 1))
        return STATUS_INVALID;
    const enum status entered = process_enter();
    if (entered != STATUS_OK)
        return refuse(entered, into, address);
    register_set(&register_file[into], (struct granule){address, metadata}, 0, tag);
    gate_leave();
    return STATUS_OK;
}

/* Looking at a register is an operation too: a revocation may just have reached it. */
static enum status look(uint32_t first, uint32_t count) {
    if (unlikely(!register_is_valid(first, count)))
        return STATUS_INVALID;
    const enum status entered = process_enter();
    if (unlikely(entered != STATUS_OK))
        return refuse(entered, first, 0);
    for (uint32_t i = 0; i < count; i++) {
        if (unlikely(!(register_file[first + i].rights & RIGHT_LIVE))) {
            gate_leave();
            return refuse(STATUS_NOT_ATTACHED, first + i, 0);
        }
    }
    return STATUS_OK;
}

enum status capshm_inspect(uint32_t from, struct capability_register *out) {
    const enum status status = look(from, 1);
    if (status != STATUS_OK)
        return status;
    *out = register_file[from];
    gate_leave();
    return STATUS_OK;
}

enum status capshm_tag(uint32_t from, uint32_t *tag) {
    const enum status status = look(from, 1);
    if (status != STATUS_OK)
        return status;
    *tag = register_has_tag(&register_file[from]);
    gate_leave();
    return STATUS_OK;
}

enum status capshm_tags(uint32_t first, uint32_t count, uint8_t *tags) {
    const enum status status = look(first, count);
    if (status != STATUS_OK)
        return status;
    for (uint32_t i = 0; i < count; i++)
        tags[i] = register_has_tag(&register_file[first + i]);
    gate_leave();
    return STATUS_OK;
}

enum status capshm_equal(uint32_t left, uint32_t right, uint32_t *is_equal) {
    if (!register_is_valid(right, 1))
        return STATUS_INVALID;
    const enum status status = look(left, 1);
    if (status != STATUS_OK)
        return status;
    const struct capability_register *const one = &register_file[left];
    const struct capability_register *const other = &register_file[right];
    *is_equal = one->value.address == other->value.address && one->value.metadata == other->value.metadata &&
                register_has_tag(one) == register_has_tag(other);
    gate_leave();
    return STATUS_OK;
}

enum status capshm_gather(const uint32_t *from, uint32_t count, uint32_t into) {
    if (!register_is_valid(into, count))
        return STATUS_INVALID;
    const enum status entered = process_enter();
    if (entered != STATUS_OK)
        return refuse(entered, into, 0);
    enum status status = STATUS_OK;
    for (uint32_t i = 0; i < count && status == STATUS_OK; i++) {
        if (!register_is_valid(from[i], 1))
            status = STATUS_INVALID;
        else if (!(register_file[from[i]].rights & RIGHT_LIVE))
            status = refuse(STATUS_NOT_ATTACHED, from[i], 0);
        else
            register_file[into + i] = register_file[from[i]];
    }
    gate_leave();
    return status;
}
