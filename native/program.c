/* program.c: the fault handler behind program.h. */
#define _GNU_SOURCE /* REG_RIP */
#include "program.h"

#include <setjmp.h>
#include <signal.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

_Thread_local struct program_fault program_fault;
bool (*program_write_fault)(uint64_t address);

static struct sigaction previous_segv;
static struct sigaction previous_bus;

#ifdef PROGRAM_X86_64

struct fixup {
    int32_t instruction;
    int32_t target;
};

/* The linker puts these around the section, whose name is a C identifier for that very reason. */
extern const struct fixup __start_capshm_fixups[] __attribute__((visibility("hidden")));
extern const struct fixup __stop_capshm_fixups[] __attribute__((visibility("hidden")));

static bool resume_at_fixup(ucontext_t *context) {
    greg_t *const instruction_pointer = &context->uc_mcontext.gregs[REG_RIP];
    for (const struct fixup *fixup = __start_capshm_fixups; fixup < __stop_capshm_fixups; fixup++) {
        if ((greg_t)&fixup->instruction + fixup->instruction == *instruction_pointer) {
            *instruction_pointer = (greg_t)&fixup->target + fixup->target;
            return true;
        }
    }
    return false;
}

bool program_copy(void *to, const void *from, size_t length) {
    __asm__ goto volatile("1: rep movsb\n" PROGRAM_FIXUP("1b", "%l[faulted]")
                          : "+D"(to), "+S"(from), "+c"(length)
                          :
                          : "memory"
                          : faulted);
    return true;
faulted:
    return false;
}

#else

static _Thread_local sigjmp_buf recovery;
static _Thread_local volatile sig_atomic_t is_armed;

static bool resume_at_fixup(ucontext_t *context) {
    (void)context;
    if (!is_armed)
        return false;
    is_armed = 0;
    siglongjmp(recovery, 1); /* the handler runs with SA_NODEFER, so no signal mask needs to be restored */
}

/* The stores and loads below are atomic word by word, so that two processes (and ThreadSanitizer) agree on what a race
 * is: none here. Acquire and release stand in for the order that x86-64 gives to plain accesses (sideband.h names the
 * partners). */

bool program_load(const struct granule *from, struct granule *to) {
    if (sigsetjmp(recovery, 0) != 0)
        return false;
    is_armed = 1;
    to->address = __atomic_load_n(&from->address, __ATOMIC_ACQUIRE);
    to->metadata = __atomic_load_n(&from->metadata, __ATOMIC_ACQUIRE);
    is_armed = 0;
    return true;
}

bool program_store(struct granule *to, const struct granule *from) {
    if (sigsetjmp(recovery, 0) != 0)
        return false;
    is_armed = 1;
    __atomic_store_n(&to->address, from->address, __ATOMIC_RELEASE);
    __atomic_store_n(&to->metadata, from->metadata, __ATOMIC_RELEASE);
    is_armed = 0;
    return true;
}

bool program_load_origin(const uint32_t *from, uint32_t *to) {
    if (sigsetjmp(recovery, 0) != 0)
        return false;
    is_armed = 1;
    *to = __atomic_load_n(from, __ATOMIC_ACQUIRE);
    is_armed = 0;
    return true;
}

bool program_store_origin(uint32_t *to, uint32_t from) {
    if (sigsetjmp(recovery, 0) != 0)
        return false;
    is_armed = 1;
    __atomic_store_n(to, from, __ATOMIC_RELEASE);
    is_armed = 0;
    return true;
}

bool program_copy(void *to, const void *from, size_t length) {
    if (sigsetjmp(recovery, 0) != 0)
        return false;
    is_armed = 1;
    for (size_t i = 0; i < length; i++) {
        const uint8_t byte = __atomic_load_n((const uint8_t *)from + i, __ATOMIC_RELAXED);
        __atomic_store_n((uint8_t *)to + i, byte, __ATOMIC_RELAXED);
    }
    is_armed = 0;
    return true;
}

#endif

/* Not ours: whoever handled this signal before handles it now, with the same arguments. */
static void pass_on(int signal_number, siginfo_t *info, void *context) {
    const struct sigaction *const previous = signal_number == SIGBUS ? &previous_bus : &previous_segv;
    if (previous->sa_flags & SA_SIGINFO) {
        previous->sa_sigaction(signal_number, info, context);
    } else if (previous->sa_handler == SIG_IGN && info->si_code <= 0) {
        return; /* somebody sent it, and nobody wants it */
    } else if (previous->sa_handler == SIG_DFL || previous->sa_handler == SIG_IGN) {
        /* A fault that is ignored would come again for ever; the kernel ends such a process, and so do we. The signal
         * is sent once more because one that came from kill(2) would not come again by itself. */
        struct sigaction fatal = {.sa_handler = SIG_DFL};
        sigemptyset(&fatal.sa_mask);
        sigaction(signal_number, &fatal, NULL);
        syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), signal_number);
    } else {
        previous->sa_handler(signal_number);
    }
}

static void handle_fault(int signal_number, siginfo_t *info, void *context) {
    program_fault = (struct program_fault){
        .is_bus_error = signal_number == SIGBUS,
        .is_mapping_gone = signal_number == SIGSEGV && info->si_code == SEGV_MAPERR,
    };
    /* A signal that somebody sent (si_code <= 0) is not a fault of the instruction that it happened to interrupt. */
    if (info->si_code > 0 && resume_at_fixup(context))
        return;
    if (signal_number == SIGSEGV && info->si_code == SEGV_ACCERR && program_write_fault != NULL &&
        program_write_fault((uint64_t)info->si_addr))
        return;
    pass_on(signal_number, info, context);
}

bool program_install_handler(void) {
    static bool is_installed;
    if (is_installed)
        return true;
    struct sigaction action = {.sa_sigaction = handle_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
    sigemptyset(&action.sa_mask);
    if (sigaction(SIGSEGV, &action, &previous_segv) != 0 || sigaction(SIGBUS, &action, &previous_bus) != 0)
        return false;
    is_installed = true;
    return true;
}
