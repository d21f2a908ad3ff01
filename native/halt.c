/* halt.c: parking by a signal, and SIGSTOP; the reasons are in halt.h. */
#define _GNU_SOURCE /* SI_TKILL */
#include "halt.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "capshm.h"
#include "clock.h"
#include "gate.h"
#include "task.h"

#define HALT_SIGNAL SIGWINCH

enum { SPINS = 200, TURNS_BETWEEN_LOOKS = 64 };

static struct sigaction previous;
static bool is_installed;

/* The thread ------------------------------------------------------------------------------------------------------- */

static void halt_here(int number, siginfo_t *info, void *context) {
    const int error = errno;
    if (info->si_code == SI_TKILL && gate_is_keeper(info->si_pid))
        gate_park_interrupted();
    else if (previous.sa_flags & SA_SIGINFO)
        previous.sa_sigaction(number, info, context);
    else if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN)
        previous.sa_handler(number);
    errno = error;
}

bool halt_take_signals(bool is_wanted) {
    struct sigaction action = {.sa_sigaction = halt_here, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART};
    struct sigaction present;
    if (is_wanted == is_installed)
        return true;
    sigfillset(&action.sa_mask); /* parked is parked: no other handler runs */
    if (sigaction(HALT_SIGNAL, NULL, &present) != 0)
        return false;
    const bool is_ours = (present.sa_flags & SA_SIGINFO) && present.sa_sigaction == halt_here;
    if (is_wanted && !is_ours) {
        previous = present;
        if (sigaction(HALT_SIGNAL, &action, NULL) != 0)
            return false;
    } else if (!is_wanted && is_ours && sigaction(HALT_SIGNAL, &previous, NULL) != 0) {
        return false;
    }
    is_installed = is_wanted;
    return true;
}

enum status capshm_take_halt_signals(bool is_wanted) {
    return halt_take_signals(is_wanted) ? STATUS_OK : STATUS_UNSUPPORTED;
}

/* The keeper ------------------------------------------------------------------------------------------------------- */

/* What ends a wait, beside its deadline. */
typedef bool is_settled(const void *one);

static void wait_until_settled(is_settled *is_known, is_settled *is_found, const void *one, uint64_t deadline) {
    for (uint32_t turn = 0; !is_known(one); turn++) {
        if (turn < SPINS) {
            clock_relax();
            continue;
        }
        if (((turn - SPINS) % TURNS_BETWEEN_LOOKS == 0 && is_found(one)) || clock_now() >= deadline)
            return;
        sched_yield();
    }
}

struct asked {
    struct gate_slot *slot;
    uint64_t signal; /* of the gate */
    int32_t process;
    int32_t thread;
};

static bool has_halted(const void *one) {
    const struct asked *const asked = one;
    return atomic_load_explicit(&asked->slot->halted, memory_order_acquire) == asked->signal;
}

static bool will_not_halt(const void *one) {
    const struct asked *const asked = one;
    return !task_will_take(asked->process, asked->thread, HALT_SIGNAL);
}

/* Whoever may be asked: the slot is a living thread's, or was a dead one's, and is not the keeper's own. */
static bool ask_for(struct gate *gate, uint32_t number, struct asked *asked) {
    struct gate_slot *const slot = &gate->slots[number];
    const uint64_t owner = atomic_load(&slot->owner);
    *asked = (struct asked){slot, atomic_load(&gate->signal), gate_owner_pid(owner), atomic_load(&slot->thread)};
    return owner != 0 && number != thread_member->lock_identity;
}

enum status capshm_halt_by_signal(uint64_t timeout) {
    if (!gate_is_closed_by_this_thread())
        return STATUS_INVALID;
    struct gate *const gate = thread_member->gate;
    const uint64_t deadline = clock_now() + timeout;
    const uint32_t used = atomic_load(&gate->slots_used);
    struct asked asked;
    for (uint32_t number = 1; number < used; number++) {
        if (ask_for(gate, number, &asked))
            syscall(SYS_tgkill, asked.process, asked.thread, HALT_SIGNAL); /* fails for the dead, who take nothing */
    }
    for (uint32_t number = 1; number < used; number++) {
        if (ask_for(gate, number, &asked))
            wait_until_settled(has_halted, will_not_halt, &asked, deadline);
    }
    return STATUS_OK;
}

bool capshm_is_running(int32_t process) {
    const char state = task_state(process, process);
    return !task_is_stopped(state) && !task_has_ended(state);
}

static bool is_not_known(const void *one) {
    (void)one;
    return false;
}

static bool runs_no_more(const void *process) {
    return !capshm_is_running(*(const int32_t *)process);
}

enum status capshm_halt_by_sigstop(uint64_t timeout, const int32_t *pidfds, const int32_t *pids, size_t count) {
    if (!gate_is_closed_by_this_thread())
        return STATUS_INVALID;
    const uint64_t deadline = clock_now() + timeout;
    for (size_t i = 0; i < count; i++)
        syscall(SYS_pidfd_send_signal, pidfds[i], SIGSTOP, NULL, 0); /* fails for the dead, who need no stopping */
    for (size_t i = 0; i < count; i++)
        wait_until_settled(is_not_known, runs_no_more, &pids[i], deadline);
    return STATUS_OK;
}
