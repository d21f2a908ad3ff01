/* memory.c: CheriBSD's calls. The broker decides each on its model; what it answers is carried out here, and taken back
 * there if the kernel cannot. */
#include "capshm/client.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "capshm.h"
#include "client/member.h"

enum { LETTERS_SIZE = 8 };

/* What to tell of a change that could not be carried out; reason: errno at that time. */
static enum capshm_status refuse_change(enum status status, int reason, const char *call) {
    return status == STATUS_NO_MEMORY ? refuse_by_host(reason, "%s: %s", call, strerror(reason))
                                      : refuse_by_core(status, call);
}

/* Procstat's letters in the core's bits. */
static uint32_t page_permissions(const char *letters) {
    static const char names[] = "rwxRW";
    static const uint32_t bits[] = {PAGE_READ, PAGE_WRITE, PAGE_EXECUTE, PAGE_LOAD_CAP, PAGE_STORE_CAP};
    uint32_t permissions = 0;
    for (; *letters != '\0'; letters++) {
        const char *const name = strchr(names, *letters);
        permissions |= name != NULL ? bits[name - names] : 0;
    }
    return permissions;
}

/* A pointer as the broker takes it: a capability with all that it authorises, or null. */
static enum capshm_status add_address(struct request *request, capshm_capability address) {
    struct capability_register held;
    struct capshm_decoded decoded;
    if (address.number == 0) {
        request_text(request, "address", NULL);
        return CAPSHM_OK;
    }
    const enum status status = capshm_inspect(address.number, &held);
    if (status != STATUS_OK)
        return refuse_by_core(status == STATUS_NOT_ATTACHED ? STATUS_INVALID : status, request->call);
    capshm_decode(held.value.metadata, held.value.address, &decoded);
    request_add(request, ",\"address\":[%" PRIu64 ",%" PRIu64 ",", held.value.address, decoded.base);
    if (decoded.top_carry)
        request_add(request, "18446744073709551616"); /* 2^64: no other has the carry */
    else
        request_add(request, "%" PRIu64, decoded.top);
    request_add(request, ",%" PRIu32 ",%s,%s]", decoded.permissions, register_has_tag(&held) ? "true" : "false",
                decoded.object_type != OBJECT_TYPE_UNSEALED ? "true" : "false");
    return CAPSHM_OK;
}

/* Begins a request about a range of memory. */
static enum capshm_status begin_range(const char *call, capshm_capability address, size_t length,
                                      struct request **request) {
    enum capshm_status status = member_request(call, request);
    if (status == CAPSHM_OK)
        status = add_address(*request, address);
    if (status == CAPSHM_OK)
        request_word(*request, "length", length);
    return status;
}

/* Sends what the broker only has to know. */
static void tell(struct request *request) {
    struct answer answer;
    if (exchange_ask(request, -1, &answer) == CAPSHM_OK)
        answer_close(&answer);
}

/* The last change was not carried out from there on. */
static void tell_reverted(uint64_t start) {
    struct request *const request = exchange_request("revert");
    request_word(request, "start", start);
    tell(request);
}

/* mmap --------------------------------------------------------------------------------------------------------------- */

/* What the broker has decided. */
struct decision {
    struct capshm_object_mapping mapping;
    uint64_t reserved[2]; /* a new reservation, from .. to; 0, 0: none */
    uint64_t capability[3]; /* base, length, permissions */
};

/* The descriptor that came for a letter; otherwise if none did. */
static int given(const struct answer *answer, const char *letters, char letter, int otherwise) {
    const char *const place = strchr(letters, letter);
    return place != NULL ? answer->descriptors[place - letters] : otherwise;
}

/* descriptor: the caller's own, or -1. */
static bool read_decision(const struct answer *answer, int descriptor, uint64_t offset, struct decision *decision) {
    struct capshm_object_mapping *const mapping = &decision->mapping;
    struct json reserved;
    struct json capability;
    char rights[LETTERS_SIZE];
    char maximum[LETTERS_SIZE];
    char has[LETTERS_SIZE];
    uint64_t object;
    *mapping = (struct capshm_object_mapping){.offset = offset};
    if (!answer_word(answer, "address", &mapping->address) || !answer_word(answer, "length", &mapping->length) ||
        !answer_word(answer, "object", &object) || !answer_text(answer, "rights", rights, sizeof rights) ||
        !answer_text(answer, "maximum", maximum, sizeof maximum) || !answer_text(answer, "has", has, sizeof has) ||
        !answer_boolean(answer, "is_shared", &mapping->is_shared) ||
        !answer_boolean(answer, "is_kept_at_fork", &mapping->is_kept_at_fork) ||
        !json_member(answer->body, "reserved", &reserved) || !answer_words(reserved, decision->reserved, 2) ||
        !json_member(answer->body, "capability", &capability) || !answer_words(capability, decision->capability, 3) ||
        object > UINT32_MAX || strlen(has) != answer->descriptor_count)
        return false;
    mapping->object = (uint32_t)object;
    mapping->permissions = page_permissions(rights);
    mapping->data = given(answer, has, 'd', object != 0 ? descriptor : -1);
    mapping->tags = given(answer, has, 't', -1);
    mapping->clear = given(answer, has, 'c', -1);
    mapping->is_tags_writable = strchr(maximum, 'W') != NULL;
    mapping->is_clear_writable = mapping->is_shared && strchr(maximum, 'w') != NULL;
    return true;
}

/* Nothing is permitted in the padding behind a mapping, which its reservation has. */
static enum status map_padding(const struct decision *decision) {
    const uint64_t end = decision->mapping.address + decision->mapping.length;
    if (decision->reserved[0] != decision->mapping.address || decision->reserved[1] <= end)
        return STATUS_OK;
    const struct capshm_object_mapping padding = {.address = end,
                                                  .length = decision->reserved[1] - end,
                                                  .data = -1,
                                                  .tags = -1,
                                                  .clear = -1,
                                                  .is_kept_at_fork = true};
    return capshm_map_object(&padding);
}

/* The root over the whole address space is narrowed in the register, which nobody else knows yet. */
static enum status fill_handle(const uint64_t capability[3], capshm_capability handle) {
    enum status status = capshm_make(handle.number, capability[0], METADATA_ROOT, true);
    if (status == STATUS_OK)
        status = capshm_with_bounds(handle.number, capability[1], false, handle.number);
    if (status == STATUS_OK)
        status = capshm_with_permissions(handle.number, (uint32_t)capability[2], handle.number);
    return status;
}

static enum capshm_status carry_out_mapping(const struct decision *decision, capshm_capability handle) {
    const uint64_t start = decision->mapping.address;
    const uint64_t length = decision->mapping.length;
    enum status status = capshm_map_object(&decision->mapping);
    if (status != STATUS_OK) {
        const int reason = errno;
        tell_reverted(start); /* what was there before is there still */
        return refuse_change(status, reason, "mmap");
    }
    status = map_padding(decision);
    if (status == STATUS_OK)
        status = fill_handle(decision->capability, handle);
    if (status == STATUS_OK)
        return CAPSHM_OK;
    const int reason = errno;
    if (capshm_unmap_range(start, length) == STATUS_OK) {
        struct request *const request = exchange_request("undo");
        request_word(request, "start", start);
        request_word(request, "end", start + length);
        tell(request);
    }
    return refuse_change(status, reason, "mmap");
}

static enum capshm_status map(capshm_capability address, size_t length, int protection, int flags, int descriptor,
                              int64_t offset, capshm_capability handle) {
    struct request *request;
    struct answer answer;
    struct decision decision;
    enum capshm_status status = begin_range("map", address, length, &request);
    if (status != CAPSHM_OK)
        return status;
    request_integer(request, "prot", protection);
    request_integer(request, "flags", flags);
    request_integer(request, "offset", offset);
    request_boolean(request, "has_descriptor", descriptor >= 0);
    status = exchange_ask(request, descriptor, &answer);
    if (status != CAPSHM_OK)
        return status;
    status = read_decision(&answer, descriptor, (uint64_t)offset, &decision) ? carry_out_mapping(&decision, handle)
                                                                             : answer_is_strange("map");
    answer_close(&answer);
    return status;
}

enum capshm_status capshm_mmap(capshm_capability address, size_t length, int protection, int flags, int descriptor,
                               int64_t offset, capshm_capability *mapped) {
    capshm_capability handle;
    enum capshm_status status = member_new_handle("mmap", &handle); /* before anything is changed */
    if (status != CAPSHM_OK)
        return status;
    const uint64_t signals = exchange_begin();
    status = map(address, length, protection, flags, descriptor, offset, handle);
    exchange_end(signals);
    if (status == CAPSHM_OK)
        *mapped = handle;
    else
        capshm_capability_release(handle);
    return status;
}

/* mprotect, munmap --------------------------------------------------------------------------------------------------- */

/* Gives the rows of "changes", [start, end, letters, ...], these permissions. */
static enum status protect_rows(struct json rows) {
    for (struct json row = {0}; json_next(rows, &row);) {
        struct json column = {0};
        uint64_t range[2];
        char letters[LETTERS_SIZE];
        if (!json_next(row, &column) || !json_word(column, &range[0]) || !json_next(row, &column) ||
            !json_word(column, &range[1]) || !json_next(row, &column) || !json_text(column, letters, sizeof letters))
            return STATUS_INVALID;
        const enum status status = capshm_protect(range[0], range[1] - range[0], page_permissions(letters));
        if (status != STATUS_OK)
            return status;
    }
    return STATUS_OK;
}

/* The kernel had no memory for more areas. To go back needs none: they become one again. */
static void protect_as_before(void) {
    struct answer answer;
    struct json rows;
    struct request *const request = exchange_request("revert");
    request_word(request, "start", 0);
    if (exchange_ask(request, -1, &answer) != CAPSHM_OK)
        return;
    if (json_member(answer.body, "changes", &rows))
        protect_rows(rows);
    answer_close(&answer);
}

static enum capshm_status protect(capshm_capability address, size_t length, int protection) {
    struct request *request;
    struct answer answer;
    struct json rows;
    enum capshm_status refused = begin_range("protect", address, length, &request);
    if (refused != CAPSHM_OK)
        return refused;
    request_integer(request, "prot", protection);
    refused = exchange_ask(request, -1, &answer);
    if (refused != CAPSHM_OK)
        return refused;
    if (!json_member(answer.body, "changes", &rows)) {
        refused = answer_is_strange("protect");
    } else {
        const enum status status = protect_rows(rows);
        const int reason = errno;
        if (status != STATUS_OK) {
            protect_as_before();
            refused = refuse_change(status, reason, "mprotect");
        }
    }
    answer_close(&answer);
    return refused;
}

enum capshm_status capshm_mprotect(capshm_capability address, size_t length, int protection) {
    const uint64_t signals = exchange_begin();
    const enum capshm_status status = protect(address, length, protection);
    exchange_end(signals);
    return status;
}

/* Unmaps the rows of "changes", [start, end]. */
static enum capshm_status unmap_rows(struct json rows) {
    for (struct json row = {0}; json_next(rows, &row);) {
        uint64_t range[2];
        if (!answer_words(row, range, 2))
            return answer_is_strange("unmap");
        const enum status status = capshm_unmap_range(range[0], range[1] - range[0]);
        if (status == STATUS_OK)
            continue;
        const int reason = errno;
        tell_reverted(range[0]);
        return refuse_change(status, reason, "munmap");
    }
    return CAPSHM_OK;
}

static enum capshm_status unmap(capshm_capability address, size_t length) {
    struct request *request;
    struct answer answer;
    struct json rows;
    enum capshm_status status = begin_range("unmap", address, length, &request);
    if (status == CAPSHM_OK)
        status = exchange_ask(request, -1, &answer);
    if (status != CAPSHM_OK)
        return status;
    status = json_member(answer.body, "changes", &rows) ? unmap_rows(rows) : answer_is_strange("unmap");
    answer_close(&answer);
    return status;
}

enum capshm_status capshm_munmap(capshm_capability address, size_t length) {
    const uint64_t signals = exchange_begin();
    const enum capshm_status status = unmap(address, length);
    exchange_end(signals);
    return status;
}
