/* refusal.c: sentences, and which status stands for what. */
#include "client/refusal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static _Thread_local struct capshm_refusal refusal;

const struct capshm_refusal *capshm_last_refusal(void) {
    return &refusal;
}

static void begin(enum capshm_status status, int error_number, const char *rule) {
    refusal.status = status;
    refusal.error_number = error_number;
    refusal.address = 0;
    snprintf(refusal.rule, sizeof refusal.rule, "%s", rule);
}

static void __attribute__((format(printf, 1, 0))) say(const char *format, va_list arguments) {
    const int used = snprintf(refusal.message, sizeof refusal.message, "process %d: ", (int)getpid());
    vsnprintf(refusal.message + used, sizeof refusal.message - (size_t)used, format, arguments);
}

enum capshm_status refuse_call(enum capshm_status status, const char *format, ...) {
    va_list arguments;
    begin(status, 0, "");
    va_start(arguments, format);
    say(format, arguments);
    va_end(arguments);
    return status;
}

enum capshm_status refuse_by_host(int error_number, const char *format, ...) {
    va_list arguments;
    begin(CAPSHM_REFUSED, error_number, "host");
    va_start(arguments, format);
    say(format, arguments);
    va_end(arguments);
    return CAPSHM_REFUSED;
}

/* The faults of fault.h; the codes are those that Python's errors have. */
static const struct {
    enum capshm_status status;
    const char *code;
    const char *what;
} faults[] = {
    [STATUS_TAG_VIOLATION] = {CAPSHM_TAG_VIOLATION, "PROT_CHERI_TAG", "the authority has no tag"},
    [STATUS_SEAL_VIOLATION] = {CAPSHM_SEAL_VIOLATION, "PROT_CHERI_SEALED", "the authority is sealed"},
    [STATUS_PERMISSION_VIOLATION] = {CAPSHM_PERMISSION_VIOLATION, "PROT_CHERI_PERM",
                                     "the authority lacks the permission"},
    [STATUS_STORE_LOCAL_VIOLATION] = {CAPSHM_PERMISSION_VIOLATION, "PROT_CHERI_STORELOCAL",
                                      "the value is tagged and not GLOBAL, and the authority lacks STORE_LOCAL"},
    [STATUS_BOUNDS_VIOLATION] = {CAPSHM_BOUNDS_VIOLATION, "PROT_CHERI_BOUNDS", "not inside the authority's bounds"},
    [STATUS_ALIGNMENT_VIOLATION] = {CAPSHM_ALIGNMENT_VIOLATION, "PROT_CHERI_UNALIGNED_BASE",
                                    "a capability lies at a multiple of 16"},
    [STATUS_PAGE_NOT_MAPPED] = {CAPSHM_PAGE_VIOLATION, "SEGV_MAPERR", "nothing is mapped there"},
    [STATUS_PAGE_NOT_PERMITTED] = {CAPSHM_PAGE_VIOLATION, "SEGV_ACCERR", "the page does not permit the access"},
    [STATUS_PAGE_BEYOND_OBJECT] = {CAPSHM_PAGE_VIOLATION, "BUS_ADRERR",
                                   "past the end of the object, or no memory is left for its page"},
    [STATUS_STORE_TAG_VIOLATION] = {CAPSHM_STORE_TAG_VIOLATION, "SEGV_STORETAG",
                                    "the value is tagged and the page does not permit that capabilities are stored"},
};

static enum capshm_status refuse_by_fault(enum status status, const char *call) {
    const uint64_t address = thread_fault.address;
    refuse_call(faults[status].status, "%s at %#" PRIx64 ": %s", call, address, faults[status].what);
    refusal.address = address;
    snprintf(refusal.rule, sizeof refusal.rule, "%s", faults[status].code);
    return refusal.status;
}

enum capshm_status refuse_by_core(enum status status, const char *call) {
    const int reason = errno;
    if (status >= STATUS_TAG_VIOLATION && status <= STATUS_STORE_TAG_VIOLATION)
        return refuse_by_fault(status, call);
    switch (status) {
    case STATUS_OK:
        return CAPSHM_OK;
    case STATUS_NOT_ATTACHED:
        return refuse_call(CAPSHM_NOT_ATTACHED, "%s: the process is in no machine, or was forked since it attached",
                           call);
    case STATUS_BROKER_GONE:
        return refuse_call(CAPSHM_BROKER_GONE,
                           "%s: the broker has ended in the middle of a revocation: nobody knows which capabilities "
                           "are still good",
                           call);
    case STATUS_HOLDER_STOPPED:
        return refuse_call(CAPSHM_HOLDER_STOPPED,
                           "%s: process %d has kept the tag line at %#" PRIx64 " locked for the whole lock timeout",
                           call, thread_fault.pid, thread_fault.address);
    case STATUS_UNSUPPORTED:
        return refuse_call(CAPSHM_FAILED, "%s: the kernel refuses membarrier or pidfd_open: %s", call,
                           strerror(reason));
    case STATUS_NO_MEMORY:
        return refuse_call(CAPSHM_NO_MEMORY, "%s: no register, slot or memory is left", call);
    default:
        return refuse_call(CAPSHM_INVALID, "%s: a handle of nothing", call);
    }
}

/* The member `name` of a refusal, behind "process ...: call: ". */
static void say_message(struct json from, const char *call) {
    struct json message;
    refuse_call(refusal.status, "%s: ", call);
    const size_t used = strlen(refusal.message);
    if (json_member(from, "message", &message))
        json_text(message, refusal.message + used, sizeof refusal.message - used);
}

enum capshm_status refuse_by_broker(struct json answer, const char *call) {
    struct json found;
    struct json member;
    char type[64] = "";
    if (json_member(answer, "refused", &found)) {
        uint64_t error_number = 0;
        refusal.status = CAPSHM_REFUSED;
        say_message(found, call);
        if (json_member(found, "errno", &member) && json_word(member, &error_number))
            refusal.error_number = (int)error_number;
        if (json_member(found, "rule", &member))
            json_text(member, refusal.rule, sizeof refusal.rule);
        return CAPSHM_REFUSED;
    }
    if (!json_member(answer, "error", &found))
        return CAPSHM_OK;
    if (json_member(found, "type", &member))
        json_text(member, type, sizeof type);
    refusal.status = strcmp(type, "LayoutMismatch") == 0 ? CAPSHM_LAYOUT_MISMATCH
                     : strcmp(type, "NotAttached") == 0  ? CAPSHM_NOT_ATTACHED
                                                         : CAPSHM_FAILED;
    say_message(found, call);
    return refusal.status;
}
