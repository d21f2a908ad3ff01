/* task.h: what /proc says of a thread: all that one process can learn of another's that does not tell it.
 *
 * Async-signal-safe: a thread that a signal has parked asks whether the broker still lives (halt.h). So paths and numbers
 * are written and read by hand. What is asked may have changed by the time that the answer is here.
 */
#ifndef CAPSHM_TASK_H
#define CAPSHM_TASK_H

#include <stdbool.h>
#include <stdint.h>

/* When the process started, in clock ticks since boot; 0 if there is none, or it cannot be told. */
uint64_t task_start_time(int32_t process);

/* The letter of the thread's state, 'T' and 't' being stopped; 0 if there is none, or it cannot be told. */
char task_state(int32_t process, int32_t thread);

static inline bool task_is_stopped(char state) {
    return state == 'T' || state == 't';
}

static inline bool task_has_ended(char state) {
    return state == 0 || state == 'Z' || state == 'X';
}

/* Whether a signal that was sent to this very thread still waits to be taken, and will be when the thread runs: it is not
 * blocked, and the thread neither stopped nor dead. */
bool task_will_take(int32_t process, int32_t thread, int signal_number);

#endif
