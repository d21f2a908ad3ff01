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

static const uint64_t SPIN = 200000; /* ns in which most are halted; then the processor goes to those that are not */

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

static void pause_since(uint64_t begin) {
    if (clock_now() - begin < SPIN)
        clock_relax();
    else
        sched_yield();
}

struct asked {
    struct gate_slot *slot;
    uint64_t signal; /* of the gate */
    int32_t process;
    int32_t thread;
};

static bool has_halted(const struct asked *asked) {
    return atomic_load_explicit(&asked->slot->halted, memory_order_acquire) == asked->signal;
}

/* Looking into /proc costs as much as some hundred looks at the slot. */
static bool will_not_halt(const struct asked *asked, uint32_t turn) {
    enum { BETWEEN = 256 };
    return turn % BETWEEN == BETWEEN - 1 && !task_will_take(asked->process, asked->thread, HALT_SIGNAL);
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
    const uint64_t begin = clock_now();
    const uint32_t used = atomic_load(&gate->slots_used);
    struct asked asked;
    for (uint32_t number = 1; number < used; number++) {
        if (ask_for(gate, number, &asked))
            syscall(SYS_tgkill, asked.process, asked.thread, HALT_SIGNAL); /* fails for the dead, who take nothing */
    }
    for (uint32_t number = 1; number < used; number++) {
        const bool is_asked = ask_for(gate, number, &asked);
        for (uint32_t turn = 0; is_asked && !has_halted(&asked) && !will_not_halt(&asked, turn); turn++) {
            if (clock_now() - begin >= timeout)
                break;
            pause_since(begin);
        }
    }
    return STATUS_OK;
}

bool capshm_is_running(int32_t process) {
    const char state = task_state(process, process);
    return !task_is_stopped(state) && !task_has_ended(state);
}

enum status capshm_halt_by_sigstop(uint64_t timeout, const int32_t *pidfds, const int32_t *pids, size_t count) {
    if (!gate_is_closed_by_this_thread())
        return STATUS_INVALID;
    const uint64_t begin = clock_now();
    for (size_t i = 0; i < count; i++)
        syscall(SYS_pidfd_send_signal, pidfds[i], SIGSTOP, NULL, 0); /* fails for the dead, who need no stopping */
    for (size_t i = 0; i < count; i++) {
        while (capshm_is_running(pids[i]) && clock_now() - begin < timeout)
            pause_since(begin);
    }
    return STATUS_OK;
}
