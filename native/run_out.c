/* run_out.c: SEIZE, CONT, INTERRUPT, DETACH; the reasons are in run_out.h. */
#define _GNU_SOURCE /* __WALL */
#include "run_out.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/types.h>
#include <sys/wait.h>

#include "clock.h"
#include "task.h"

#ifndef PTRACE_EVENT_STOP
#define PTRACE_EVENT_STOP 128
#endif

/* What the kernel takes for a set of signals: bit n - 1 is signal n. */
#define BIT(number) (UINT64_C(1) << ((number) - 1))

/* Of single steps, some microseconds each: what a store or a load has is a hundredth of them. */
enum { MOST_STEPS = 1 << 14 };
static const uint64_t ALL_BUT_FAULTS =
    ~(BIT(SIGSEGV) | BIT(SIGBUS) | BIT(SIGFPE) | BIT(SIGILL) | BIT(SIGTRAP) | BIT(SIGKILL) | BIT(SIGSTOP));

void run_out_permit(int32_t keeper) {
    prctl(PR_SET_PTRACER, (unsigned long)keeper); /* EINVAL without Yama: nobody asks for it */
}

static bool is_inside(const struct gate_slot *slot) {
    return atomic_load_explicit(&slot->in_operation, memory_order_acquire) != GATE_OUTSIDE;
}

/* Goes on from a halt of which the status tells: with the signal that the thread was about to take, if that is it. Fails
 * for one that was killed meanwhile, of which the next wait tells. */
static void go_on(enum __ptrace_request how, pid_t thread, int status) {
    const bool is_own = status >> 16 == PTRACE_EVENT_STOP || WSTOPSIG(status) == SIGTRAP;
    ptrace(how, thread, NULL, (void *)(is_own ? 0 : (long)WSTOPSIG(status)));
}

/* Waits for the thread's next halt. False: it has died, and its own parent can reap it. */
static bool wait_for(pid_t thread, int *status) {
    pid_t found;
    do
        found = waitpid(thread, status, __WALL);
    while (found < 0 && errno == EINTR);
    return found == thread && WIFSTOPPED(*status);
}

/* Waits until a thread that has been interrupted halts for that. False: it has died. */
static bool wait_until_interrupted(pid_t thread, int *status) {
    while (wait_for(thread, status)) {
        if (*status >> 16 == PTRACE_EVENT_STOP)
            return true;
        go_on(PTRACE_CONT, thread, *status);
    }
    return false;
}

/* Has the halted thread do its operation's instructions, not one more, and no more than so many. False: it has died. */
static bool step_out(const struct gate_slot *slot, pid_t thread, int *status, uint64_t deadline) {
    for (uint32_t steps = 0; steps < MOST_STEPS && is_inside(slot) && clock_now() < deadline; steps++) {
        go_on(PTRACE_SINGLESTEP, thread, *status);
        if (!wait_for(thread, status))
            return false;
    }
    return true;
}

/* Lets the halted thread run while it is inside, and halts it again. False: it has died. */
static bool run_while_inside(const struct gate_slot *slot, pid_t thread, int *status, uint64_t deadline) {
    go_on(PTRACE_CONT, thread, *status);
    while (is_inside(slot) && clock_now() < deadline) {
        const pid_t found = waitpid(thread, status, __WALL | WNOHANG);
        if (found == 0)
            sched_yield();
        else if (found != thread || !WIFSTOPPED(*status))
            return false;
        else
            go_on(PTRACE_CONT, thread, *status);
    }
    ptrace(PTRACE_INTERRUPT, thread, NULL, NULL);
    return wait_until_interrupted(thread, status);
}

/* Its own mask again; unless the thread has changed it, as who returns from a signal handler does. */
static void restore_signals(pid_t thread, uint64_t blocked) {
    uint64_t present;
    if (ptrace(PTRACE_GETSIGMASK, thread, (void *)sizeof present, &present) == 0 && present == ALL_BUT_FAULTS)
        ptrace(PTRACE_SETSIGMASK, thread, (void *)sizeof blocked, &blocked);
}

/* Lets go of the halted thread, and waits until it is back in the stop of its process, if that still stands. */
static void let_go(pid_t thread, int32_t pid, int status, uint64_t deadline) {
    ptrace(PTRACE_INTERRUPT, thread, NULL, NULL); /* so that it does nothing before it tells whether the stop stands */
    go_on(PTRACE_CONT, thread, status);
    if (!wait_until_interrupted(thread, &status))
        return;
    ptrace(PTRACE_DETACH, thread, NULL, NULL);
    if (WSTOPSIG(status) == SIGTRAP)
        return; /* somebody has continued the process */
    for (char state = task_state(pid, thread); !task_is_stopped(state) && !task_has_ended(state);
         state = task_state(pid, thread)) {
        if (clock_now() >= deadline)
            return;
        sched_yield();
    }
}

bool run_out(const struct gate_slot *slot, int32_t pid, uint64_t deadline) {
    const pid_t thread = atomic_load(&slot->thread);
    uint64_t blocked;
    uint64_t all = ALL_BUT_FAULTS;
    int status;
    if (atomic_load(&slot->in_operation) != GATE_INSIDE || task_state(pid, thread) != 'T' ||
        ptrace(PTRACE_SEIZE, thread, NULL, NULL) != 0)
        return false;
    ptrace(PTRACE_INTERRUPT, thread, NULL, NULL);
    if (!wait_until_interrupted(thread, &status))
        return true;
    if (ptrace(PTRACE_GETSIGMASK, thread, (void *)sizeof blocked, &blocked) == 0 &&
        ptrace(PTRACE_SETSIGMASK, thread, (void *)sizeof all, &all) == 0) {
        if (!step_out(slot, thread, &status, deadline) ||
            (is_inside(slot) && clock_now() < deadline && !run_while_inside(slot, thread, &status, deadline)))
            return true;
        restore_signals(thread, blocked);
    }
    let_go(thread, pid, status, deadline);
    return !is_inside(slot);
}
