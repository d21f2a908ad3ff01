/* member.c: attaching to a machine, and leaving it. */
#define _GNU_SOURCE /* program_invocation_name */
#include "client/member.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "capshm.h"

enum { NAME_SIZE = 108, LAYOUT_SIZE = 128 };
enum { GATE, RECORDS, GIVEN }; /* descriptors that the broker's welcome comes with */

/* With the turn. A fork copies it; the core knows that the child is not attached. */
static struct {
    bool is_in;
    bool is_hardened; /* and was not, before it came to the machine */
    char machine[NAME_SIZE];
    struct capshm_facts facts;
} member;

/* What the broker tells a new member. */
struct welcome {
    uint64_t record;
    uint64_t arena_start;
    uint64_t arena_size;
    bool is_hardened;
    char stopper[16];
};

static bool read_welcome(const struct answer *answer, struct welcome *welcome, struct capshm_facts *facts) {
    return answer_word(answer, "vmspace", &facts->vmspace) &&
           answer_text(answer, "policy", facts->policy, sizeof facts->policy) &&
           answer_text(answer, "isa", facts->isa, sizeof facts->isa) &&
           answer_word(answer, "record", &welcome->record) && welcome->record <= UINT32_MAX &&
           answer_word(answer, "arena_start", &welcome->arena_start) &&
           answer_word(answer, "arena_size", &welcome->arena_size) &&
           answer_boolean(answer, "hardened", &welcome->is_hardened) &&
           answer_text(answer, "stopper", welcome->stopper, sizeof welcome->stopper);
}

/* Joins the core to the machine. Whatever fails, the caller detaches. */
static enum capshm_status join(const struct answer *answer, const struct welcome *welcome) {
    enum status status = capshm_attach(welcome->arena_start, welcome->arena_size, answer->descriptors[GATE]);
    if (status == STATUS_NO_MEMORY)
        return refuse_call(CAPSHM_NO_MEMORY,
                           "attach: an arena (arena_size) of %" PRIu64 " MiB cannot be reserved at %#" PRIx64
                           ": %s; an address-space limit (ulimit -v) below that is the usual reason",
                           welcome->arena_size >> 20, welcome->arena_start, strerror(errno));
    if (status == STATUS_INVALID)
        return refuse_call(CAPSHM_FAILED, "attach: the size of the arena cannot change within a process");
    if (status == STATUS_OK)
        status = capshm_join_records(answer->descriptors[RECORDS], (uint32_t)welcome->record);
    if (status != STATUS_OK)
        return refuse_by_core(status, "attach");
    const enum capshm_status kept = exchange_keep_from_children();
    if (kept != CAPSHM_OK)
        return kept;
    capshm_set_isa(strcmp(member.facts.isa, "rvy") == 0);
    if (strcmp(welcome->stopper, "signal") == 0)
        return refuse_by_core(capshm_take_halt_signals(true), "attach");
    return CAPSHM_OK;
}

static enum capshm_status ask_for_part(void) {
    char layout[LAYOUT_SIZE];
    struct answer answer;
    struct welcome welcome;
    snprintf(layout, sizeof layout, "%zu-%zu-%" PRIu64 "-%" PRIu64, capshm_gate_size(), capshm_records_size(),
             OBJECT_SIZE_MAX, ORIGINS_OFFSET);
    struct request *const request = exchange_request("attach");
    request_add(request, ",\"name\":");
    request_shown(request, program_invocation_name);
    request_text(request, "layout", layout);
    enum capshm_status status = exchange_ask(request, -1, &answer);
    if (status != CAPSHM_OK)
        return status;
    if (!read_welcome(&answer, &welcome, &member.facts) || answer.descriptor_count != GIVEN) {
        status = answer_is_strange("attach");
    } else {
        member.is_hardened = welcome.is_hardened && capshm_set_dumpable(false);
        status = join(&answer, &welcome);
    }
    answer_close(&answer);
    return status;
}

/* What is left of a part in a machine. */
static void leave(void) {
    capshm_set_isa(false);
    capshm_detach();
    if (member.is_hardened)
        capshm_set_dumpable(true);
    member.is_hardened = false;
    member.is_in = false;
    exchange_close("the machine has been left");
}

static enum capshm_status attach(const char *machine) {
    if (member.is_in && !capshm_is_attached())
        return refuse_by_core(STATUS_NOT_ATTACHED, "attach");
    if (member.is_in && strcmp(member.machine, machine) == 0)
        return CAPSHM_OK;
    if (member.is_in)
        return refuse_call(CAPSHM_FAILED, "attach: the process is in machine '%s' already", member.machine);
    enum capshm_status status = exchange_connect(machine);
    if (status != CAPSHM_OK)
        return status;
    status = ask_for_part();
    if (status != CAPSHM_OK) {
        leave();
        return status;
    }
    member.is_in = true;
    snprintf(member.machine, sizeof member.machine, "%s", machine);
    return CAPSHM_OK;
}

enum capshm_status capshm_machine_attach(const char *machine) {
    const char *const name = machine != NULL ? machine : getenv("CAPSHM_MACHINE");
    if (name == NULL || *name == '\0')
        return refuse_call(
            CAPSHM_FAILED,
            "attach: which machine? CAPSHM_MACHINE is not set: start the program by machine.spawn(...) or "
            "`capshm run`");
    const uint64_t signals = exchange_begin();
    const enum capshm_status status = attach(name);
    exchange_end(signals);
    return status;
}

void capshm_machine_detach(void) {
    const uint64_t signals = exchange_begin();
    if (member.is_in) {
        struct answer answer;
        const bool was_attached = capshm_is_attached();
        capshm_detach(); /* first: nothing may be mapped any more when the broker hears of it */
        if (was_attached && exchange_ask(exchange_request("leave"), -1, &answer) == CAPSHM_OK)
            answer_close(&answer);
        leave();
    }
    exchange_end(signals);
}

static enum capshm_status check_attached(const char *call) {
    if (member.is_in && (capshm_is_attached() || !exchange_is_connected()))
        return CAPSHM_OK; /* without a connection the next request says why */
    return refuse_by_core(STATUS_NOT_ATTACHED, call);
}

enum capshm_status capshm_machine_facts(struct capshm_facts *facts) {
    const uint64_t signals = exchange_begin();
    const enum capshm_status status = check_attached("facts");
    if (status == CAPSHM_OK)
        *facts = member.facts;
    exchange_end(signals);
    return status;
}

enum capshm_status member_request(const char *call, struct request **request) {
    const enum capshm_status status = check_attached(call);
    if (status == CAPSHM_OK)
        *request = exchange_request(call);
    return status;
}

enum capshm_status member_new_handle(const char *call, capshm_capability *handle) {
    return refuse_by_core(capshm_is_attached() ? capshm_reserve(1, &handle->number) : STATUS_NOT_ATTACHED, call);
}
