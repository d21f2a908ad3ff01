/* derive.c: registers: making, looking at and deriving capabilities (cheribsd:5.2). Derivation never faults: what is
 * not allowed clears the tag. It runs inside the gate, so that a revocation finds either the old register or the new
 * one. */
#include "capshm.h"
#include "checks.h"

/* What one derivation does to a value; tag in and out. */
typedef void derivation(struct granule *value, bool *tag, uint64_t operand,
                        const struct capability_register *authority);

static bool has_tag(const struct capability_register *held) {
    return held->rights & RIGHT_TAG;
}

/* Applies it to a register; authority 0: there is none. */
static enum status derive(uint32_t from, uint32_t authority, uint64_t operand, uint32_t into, derivation *apply) {
    if (!register_is_valid(from, 1) || !register_is_valid(authority, 1) || !register_is_valid(into, 1))
        return STATUS_INVALID;
    const enum status entered = process_enter();
    if (unlikely(entered != STATUS_OK))
        return refuse(entered, from, 0);
    const struct capability_register *const held = &register_file[from];
    enum status status = STATUS_OK;
    if (unlikely(!(held->rights & RIGHT_LIVE) || (authority != 0 && !(register_file[authority].rights & RIGHT_LIVE)))) {
        status = refuse(STATUS_NOT_ATTACHED, from, 0);
    } else {
        struct granule value = held->value;
        bool tag = has_tag(held);
        apply(&value, &tag, operand, register_ready(authority));
        register_set(&register_file[into], value, tag, held->origin);
    }
    gate_leave();
    return status;
}

static void set_address(struct granule *value, bool *tag, uint64_t address,
                        const struct capability_register *authority) {
    (void)authority;
    capability_set_address(value, tag, address);
}

enum status capshm_with_address(uint32_t from, uint64_t address, uint32_t into) {
    return derive(from, 0, address, into, set_address);
}

static void add(struct granule *value, bool *tag, uint64_t increment, const struct capability_register *authority) {
    (void)authority;
    capability_set_address(value, tag, value->address + increment);
}

enum status capshm_with_increment(uint32_t from, uint64_t increment, uint32_t into) {
    return derive(from, 0, increment, into, add);
}

static void set_bounds(struct granule *value, bool *tag, uint64_t length, const struct capability_register *authority) {
    (void)authority;
    capability_set_bounds(value, tag, length);
}

static void set_exact_bounds(struct granule *value, bool *tag, uint64_t length,
                             const struct capability_register *authority) {
    (void)authority;
    const bool is_exact = capability_set_bounds(value, tag, length);
    *tag = *tag && is_exact;
}

enum status capshm_with_bounds(uint32_t from, uint64_t length, bool is_exact_required, uint32_t into) {
    return derive(from, 0, length, into, is_exact_required ? set_exact_bounds : set_bounds);
}

/* v9: a sealed input loses its tag. rvy: only if something changes, and permissions that depend on others fall with
 * them. */
static void mask_permissions(struct granule *value, bool *tag, uint64_t mask,
                             const struct capability_register *authority) {
    (void)authority;
    const uint32_t before = capability_permissions(value->metadata);
    uint32_t after = before & (uint32_t)mask;
    if (process.is_rvy) {
        if (!(after & PERMISSION_LOAD))
            after &= ~(uint32_t)PERMISSION_LOAD_CAP;
        if (!(after & PERMISSION_STORE))
            after &= ~(uint32_t)(PERMISSION_STORE_CAP | PERMISSION_STORE_LOCAL);
        if (!(after & PERMISSION_EXECUTE))
            after &= ~(uint32_t)PERMISSION_SYSTEM_REGISTERS;
    }
    if (capability_is_sealed(value->metadata) && (!process.is_rvy || after != before))
        *tag = false;
    value->metadata = capability_with_permissions(value->metadata, after);
}

enum status capshm_with_permissions(uint32_t from, uint32_t mask, uint32_t into) {
    return derive(from, 0, mask, into, mask_permissions);
}

static void clear_tag(struct granule *value, bool *tag, uint64_t operand, const struct capability_register *authority) {
    (void)value, (void)operand, (void)authority;
    *tag = false;
}

enum status capshm_without_tag(uint32_t from, uint32_t into) {
    return derive(from, 0, 0, into, clear_tag);
}

/* Tagged, unsealed, with the permission, and its address, taken for an object type, in its bounds and not reserved. */
static bool is_authority_for_type(const struct capability_register *authority, uint32_t permission) {
    return has_rights(authority, permission) && is_in_bounds(authority, authority->value.address, 1) &&
           authority->value.address < OBJECT_TYPE_FIRST_RESERVED;
}

static void seal(struct granule *value, bool *tag, uint64_t operand, const struct capability_register *authority) {
    (void)operand;
    *tag = *tag && !capability_is_sealed(value->metadata) && is_authority_for_type(authority, PERMISSION_SEAL);
    value->metadata = capability_with_object_type(value->metadata, (uint32_t)authority->value.address);
}

enum status capshm_seal(uint32_t from, uint32_t authority, uint32_t into) {
    return derive(from, authority, 0, into, seal);
}

static void unseal(struct granule *value, bool *tag, uint64_t operand, const struct capability_register *authority) {
    (void)operand;
    *tag = *tag && is_authority_for_type(authority, PERMISSION_UNSEAL) &&
           capability_object_type(value->metadata) == authority->value.address;
    value->metadata = capability_with_object_type(value->metadata, OBJECT_TYPE_UNSEALED);
    if (!(authority->rights & PERMISSION_GLOBAL)) {
        const uint32_t permissions = capability_permissions(value->metadata) & ~(uint32_t)PERMISSION_GLOBAL;
        value->metadata = capability_with_permissions(value->metadata, permissions);
    }
}

enum status capshm_unseal(uint32_t from, uint32_t authority, uint32_t into) {
    return derive(from, authority, 0, into, unseal);
}

static void seal_entry(struct granule *value, bool *tag, uint64_t operand,
                       const struct capability_register *authority) {
    (void)operand, (void)authority;
    *tag = *tag && !capability_is_sealed(value->metadata);
    value->metadata = capability_with_object_type(value->metadata, OBJECT_TYPE_SENTRY);
}

enum status capshm_seal_entry(uint32_t from, uint32_t into) {
    return derive(from, 0, 0, into, seal_entry);
}

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
    register_set(&register_file[into], (struct granule){address, metadata}, tag, 0);
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
    *tag = has_tag(&register_file[from]);
    gate_leave();
    return STATUS_OK;
}

enum status capshm_tags(uint32_t first, uint32_t count, uint8_t *tags) {
    const enum status status = look(first, count);
    if (status != STATUS_OK)
        return status;
    for (uint32_t i = 0; i < count; i++)
        tags[i] = has_tag(&register_file[first + i]);
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
                has_tag(one) == has_tag(other);
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
