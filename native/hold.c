/* hold.c: SEIZE, INTERRUPT, DETACH (hold.h). */
#include "hold.h"

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/ptrace.h>
#include <sys/types.h>

#ifndef PTRACE_EVENT_STOP
#define PTRACE_EVENT_STOP 128
#endif

int hold_thread(int32_t thread) {
    if (ptrace(PTRACE_SEIZE, (pid_t)thread, NULL, NULL) != 0)
        return errno;
    ptrace(PTRACE_INTERRUPT, (pid_t)thread, NULL, NULL); /* fails for one that has died: waitid tells */
    return 0;
}

void hold_end(int32_t thread, int32_t status) {
    const bool is_own = status >> 8 == PTRACE_EVENT_STOP; /* and no signal that it was about to take */
    ptrace(PTRACE_DETACH, (pid_t)thread, NULL, (void *)(is_own ? 0 : (long)(status & 0x7f)));
}
