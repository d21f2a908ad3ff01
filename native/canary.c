/* canary.c: where this machine's processors are just now: a spinning round trip between two processes.
 *
 * Virtual cores move between a near placement (0.15 us) and a far one (0.4 us) within seconds, and all that crosses cores
 * follows. Two processes pass a number back and forth in one cache line, which is theirs alone. The median of short
 * batches: those in which one of the two was off its processor last a time slice and say nothing about the distance.
 */
#define _GNU_SOURCE /* CPU_COUNT */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "capshm.h"
#include "clock.h"

enum { BATCHES = 501, ROUND_TRIPS = 100 };

struct ball {
    _Alignas(64) _Atomic uint64_t turn; /* even: the parent's; odd: the child's */
};

static int compare(const void *left, const void *right) {
    const double difference = *(const double *)left - *(const double *)right;
    return (difference > 0) - (difference < 0);
}

static void wait_for(struct ball *ball, uint64_t turn) {
    while (atomic_load_explicit(&ball->turn, memory_order_acquire) != turn)
        clock_relax();
}

static double round_trip(struct ball *ball, uint64_t *turn) {
    double microseconds[BATCHES];

    for (int batch = 0; batch < BATCHES; batch++) {
        const uint64_t begin = clock_now();
        for (int i = 0; i < ROUND_TRIPS; i++) {
            atomic_store_explicit(&ball->turn, *turn + 1, memory_order_release);
            wait_for(ball, *turn += 2);
        }
        microseconds[batch] = (double)(clock_now() - begin) / ROUND_TRIPS / 1000;
    }
    qsort(microseconds, BATCHES, sizeof *microseconds, compare);
    return microseconds[BATCHES / 2];
}

static _Noreturn void answer(struct ball *ball, pid_t parent) {
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* nobody else would end it */
    if (getppid() != parent)
        _exit(1);
    for (uint64_t turn = 1;; turn += 2) {
        wait_for(ball, turn);
        atomic_store_explicit(&ball->turn, turn + 1, memory_order_release);
    }
}

double capshm_canary(void) {
    cpu_set_t allowed;

    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0)
        return -1;
    if (CPU_COUNT(&allowed) < 2) {
        errno = ENODEV;
        return -1;
    }
    struct ball *const ball = mmap(NULL, sizeof *ball, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (ball == MAP_FAILED)
        return -1;
    const pid_t parent = getpid();
    const pid_t child = fork();
    if (child == 0)
        answer(ball, parent);
    double microseconds = -1;
    if (child > 0) {
        uint64_t turn = 0;
        round_trip(ball, &turn); /* until the two are on processors of their own */
        microseconds = round_trip(ball, &turn);
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
    }
    munmap(ball, sizeof *ball);
    return microseconds;
}
