/* derive.c: deriving capabilities (cheribsd:5.2). It never faults: what is not allowed clears the tag. It runs inside
 * the gate, so that a revocation finds either the old register or the new one. What is derived has the origin of what it
 * is derived from. */
#include "capshm.h"
#include "checks.h"

/* A value on its way from one register to another. */
struct derived {
    struct granule value;
    bool tag;
    uint64_t operand;
    const struct capability_register *authority; /* register 0 if none is needed */
};

/* Applies it to a register; authority 0: there is none. */
static enum status derive(uint32_t from, uint32_t authority, uint64_t operand, uint32_t into,
                          void (*apply)(struct derived *)) {
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
        struct derived derived = {held->value, register_has_tag(held), operand, register_ready(authority)};
        apply(&derived);
        register_set(&register_file[into], derived.value, held->origin, derived.tag);
    }
    gate_leave();
    return status;
}

static void set_address(struct derived *it) {
    capability_set_address(&it->value, &it->tag, it->operand);
}

enum status capshm_with_address(uint32_t from, uint64_t address, uint32_t into) {
    return derive(from, 0, address, into, set_address);
}

static void add(struct derived *it) {
    capability_set_address(&it->value, &it->tag, it->value.address + it->operand);
}

enum status capshm_with_increment(uint32_t from, uint64_t increment, uint32_t into) {
    return derive(from, 0, increment, into, add);
}

static void set_bounds(struct derived *it) {
    capability_set_bounds(&it->value, &it->tag, it->operand);
}

static void set_exact_bounds(struct derived *it) {
    const bool is_exact = capability_set_bounds(&it->value, &it->tag, it->operand);
    it->tag = it->tag && is_exact;
}

enum status capshm_with_bounds(uint32_t from, uint64_t length, bool is_exact_required, uint32_t into) {
    return derive(from, 0, length, into, is_exact_required ? set_exact_bounds : set_bounds);
}

/* v9: a sealed input loses its tag. rvy: only if something changes, and permissions that depend on others fall with
 * them. */
static void mask_permissions(struct derived *it) {
    const uint32_t before = capability_permissions(it->value.metadata);
    uint32_t after = before & (uint32_t)it->operand;
    if (process.is_rvy) {
        if (!(after & PERMISSION_LOAD))
            after &= ~(uint32_t)PERMISSION_LOAD_CAP;
        if (!(after & PERMISSION_STORE))
            after &= ~(uint32_t)(PERMISSION_STORE_CAP | PERMISSION_STORE_LOCAL);
        if (!(after & PERMISSION_EXECUTE))
            after &= ~(uint32_t)PERMISSION_SYSTEM_REGISTERS;
    }
    if (capability_is_sealed(it->value.metadata) && (!process.is_rvy || after != before))
        it->tag = false;
    it->value.metadata = capability_with_permissions(it->value.metadata, after);
}

enum status capshm_with_permissions(uint32_t from, uint32_t mask, uint32_t into) {
    return derive(from, 0, mask, into, mask_permissions);
}

static void clear_tag(struct derived *it) {
    it->tag = false;
}

enum status capshm_without_tag(uint32_t from, uint32_t into) {
    return derive(from, 0, 0, into, clear_tag);
}

/* Tagged, unsealed, with the permission, and its address, taken for an object type, in its bounds and not reserved. */
static bool is_authority_for_type(const struct capability_register *authority, uint32_t permission) {
    return has_rights(authority, permission) && is_in_bounds(authority, authority->value.address, 1) &&
           authority->value.address < OBJECT_TYPE_FIRST_RESERVED;
}

static void seal(struct derived *it) {
    it->tag =
        it->tag && !capability_is_sealed(it->value.metadata) && is_authority_for_type(it->authority, PERMISSION_SEAL);
    it->value.metadata = capability_with_object_type(it->value.metadata, (uint32_t)it->authority->value.address);
}

enum status capshm_seal(uint32_t from, uint32_t authority, uint32_t into) {
    return derive(from, authority, 0, into, seal);
}

static void unseal(struct derived *it) {
    it->tag = it->tag && is_authority_for_type(it->authority, PERMISSION_UNSEAL) &&
              capability_object_type(it->value.metadata) == it->authority->value.address;
    it->value.metadata = capability_with_object_type(it->value.metadata, OBJECT_TYPE_UNSEALED);
    if (!(it->authority->rights & PERMISSION_GLOBAL)) {
        const uint32_t permissions = capability_permissions(it->value.metadata) & ~(uint32_t)PERMISSION_GLOBAL;
        it->value.metadata = capability_with_permissions(it->value.metadata, permissions);
    }
}

enum status capshm_unseal(uint32_t from, uint32_t authority, uint32_t into) {
    return derive(from, authority, 0, into, unseal);
}

static void seal_entry(struct derived *it) {
    it->tag = it->tag && !capability_is_sealed(it->value.metadata);
    it->value.metadata = capability_with_object_type(it->value.metadata, OBJECT_TYPE_SENTRY);
}

enum status capshm_seal_entry(uint32_t from, uint32_t into) {
    return derive(from, 0, 0, into, seal_entry);
}
