/* step.c: what an armed step point does. */
#include "step.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "capshm.h"

static const char *const step_names[STEP_COUNT] = {
#define STEP_TEXT(name) #name,
    STEP_POINTS(STEP_TEXT)
#undef STEP_TEXT
};

const char *capshm_step_name(uint32_t step) {
    return step < STEP_COUNT ? step_names[step] : NULL;
}

#ifdef CAPSHM_STEP_POINTS

/* step, passages left and action in one word, so that a thread that comes by never sees half of a new arming. */
static _Atomic uint64_t armed;

static uint64_t armed_word(uint32_t step, uint32_t passages, uint32_t action) {
    return (uint64_t)passages << 32 | (uint64_t)step << 8 | action;
}

bool capshm_step_arm(uint32_t step, uint32_t nth, uint32_t action) {
    if (step >= STEP_COUNT || nth == 0 || action > STEP_ACTION_STOP)
        return false;
    atomic_store(&armed, action == STEP_ACTION_NONE ? 0 : armed_word(step, nth, action));
    return true;
}

void step_reached(enum step step) {
    uint64_t word = atomic_load_explicit(&armed, memory_order_relaxed);
    while (word != 0 && (word >> 8 & 0xffffff) == (uint64_t)step) {
        const uint32_t passages = (uint32_t)(word >> 32);
        const uint32_t action = word & 0xff;
        const uint64_t next = passages > 1 ? armed_word(step, passages - 1, action) : 0;
        if (!atomic_compare_exchange_weak(&armed, &word, next))
            continue;
        if (passages > 1)
            return;
        syscall(SYS_kill, getpid(), action == STEP_ACTION_KILL ? SIGKILL : SIGSTOP);
        return;
    }
}

#else

bool capshm_step_arm(uint32_t step, uint32_t nth, uint32_t action) {
    (void)step, (void)nth, (void)action;
    return false; /* this build has no step points */
}

#endif
