/* capability.c: handles are numbers of registers; whatever is done to them is an operation of the core. */
#include "capshm/client.h"

#include "capshm.h"
#include "client/member.h"

_Static_assert((int)CAPSHM_PERMISSION_GLOBAL == (int)PERMISSION_GLOBAL, "");
_Static_assert((int)CAPSHM_PERMISSION_EXECUTE == (int)PERMISSION_EXECUTE, "");
_Static_assert((int)CAPSHM_PERMISSION_LOAD == (int)PERMISSION_LOAD, "");
_Static_assert((int)CAPSHM_PERMISSION_STORE == (int)PERMISSION_STORE, "");
_Static_assert((int)CAPSHM_PERMISSION_LOAD_CAP == (int)PERMISSION_LOAD_CAP, "");
_Static_assert((int)CAPSHM_PERMISSION_STORE_CAP == (int)PERMISSION_STORE_CAP, "");
_Static_assert((int)CAPSHM_PERMISSION_STORE_LOCAL == (int)PERMISSION_STORE_LOCAL, "");
_Static_assert((int)CAPSHM_PERMISSION_SW_VMEM == (int)PERMISSION_SW_VMEM, "");

/* A handle that was never made is no lack of a machine. */
static enum capshm_status finish(enum status status, const char *call) {
    return refuse_by_core(status == STATUS_NOT_ATTACHED && capshm_is_attached() ? STATUS_INVALID : status, call);
}

/* The same for what fills a new register, which goes back if there is nothing to fill it with. */
static enum capshm_status finish_new(enum status status, const char *call, capshm_capability made,
                                     capshm_capability *into) {
    if (status == STATUS_OK)
        *into = made;
    else
        capshm_release(made.number, 1);
    return finish(status, call);
}

enum capshm_status capshm_capability_describe(capshm_capability capability, struct capshm_description *description) {
    struct capability_register held;
    struct capshm_decoded decoded;
    const enum status status = capshm_inspect(capability.number, &held);
    if (status != STATUS_OK)
        return finish(status, "describe");
    capshm_decode(held.value.metadata, held.value.address, &decoded);
    *description = (struct capshm_description){
        .address = held.value.address,
        .base = decoded.base,
        .length = decoded.top_carry && decoded.base == 0 ? UINT64_MAX : decoded.top - decoded.base,
        .permissions = decoded.permissions,
        .tag = register_has_tag(&held),
        .is_sealed = decoded.object_type != OBJECT_TYPE_UNSEALED,
    };
    return CAPSHM_OK;
}

enum capshm_status capshm_capability_with_address(capshm_capability from, uint64_t address, capshm_capability *into) {
    capshm_capability made;
    enum capshm_status status = member_new_handle("with_address", &made);
    if (status == CAPSHM_OK)
        status = finish_new(capshm_with_address(from.number, address, made.number), "with_address", made, into);
    return status;
}

enum capshm_status capshm_capability_with_bounds(capshm_capability from, uint64_t length, capshm_capability *into) {
    capshm_capability made;
    enum capshm_status status = member_new_handle("with_bounds", &made);
    if (status == CAPSHM_OK)
        status = finish_new(capshm_with_bounds(from.number, length, false, made.number), "with_bounds", made, into);
    return status;
}

enum capshm_status capshm_capability_with_permissions(capshm_capability from, uint32_t permissions,
                                                      capshm_capability *into) {
    capshm_capability made;
    enum capshm_status status = member_new_handle("with_permissions", &made);
    if (status == CAPSHM_OK)
        status =
            finish_new(capshm_with_permissions(from.number, permissions, made.number), "with_permissions", made, into);
    return status;
}

enum capshm_status capshm_capability_from_number(uint64_t number, capshm_capability *into) {
    capshm_capability made;
    enum capshm_status status = member_new_handle("from_number", &made);
    if (status == CAPSHM_OK)
        status = finish_new(capshm_make(made.number, number, 0, false), "from_number", made, into);
    return status;
}

enum capshm_status capshm_capability_load(capshm_capability authority, uint64_t offset, capshm_capability *into) {
    capshm_capability made;
    enum capshm_status status = member_new_handle("load", &made);
    if (status == CAPSHM_OK)
        status = finish_new(capshm_load(authority.number, offset, made.number), "load", made, into);
    return status;
}

enum capshm_status capshm_capability_store(capshm_capability authority, uint64_t offset, capshm_capability value) {
    return finish(capshm_store(authority.number, offset, value.number), "store");
}

enum capshm_status capshm_capability_read(capshm_capability authority, uint64_t offset, void *buffer, size_t length) {
    return finish(capshm_read(authority.number, offset, buffer, length), "read");
}

enum capshm_status capshm_capability_write(capshm_capability authority, uint64_t offset, const void *buffer,
                                           size_t length) {
    return finish(capshm_write(authority.number, offset, buffer, length), "write");
}

void capshm_capability_release(capshm_capability capability) {
    if (capability.number == 0)
        return;
    /* Whoever goes on using the handle by mistake is to have no authority by it. */
    capshm_without_tag(capability.number, capability.number);
    capshm_release(capability.number, 1);
}
