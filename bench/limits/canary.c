/* canary.c: where this machine's processors are just now: a spinning round trip between two processes.
 *
 * Usage: canary [REPEATS]. Prints a JSON object a line: key, and value, the median round trip in microseconds.
 *
 * Virtual cores move between a near placement (0.15) and a far one (0.4) within seconds, and all that crosses cores
 * follows. Two processes pass a number back and forth in one cache line, which is theirs alone. The median of short
 * batches: those in which one of the two was off its processor last a time slice and say nothing about the distance.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

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
    static double microseconds[BATCHES];

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

int main(int argument_count, char **arguments) {
    const int repeats = argument_count > 1 ? atoi(arguments[1]) : 7;
    cpu_set_t allowed;

    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0 || CPU_COUNT(&allowed) < 2) {
        fprintf(stderr, "canary: two processes cannot spin on one processor\n");
        return 1;
    }
    struct ball *const ball = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    const pid_t parent = getpid();
    const pid_t child = ball == MAP_FAILED ? -1 : fork();
    if (child < 0) {
        perror("canary");
        return 1;
    }
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* nobody else would end it */
        if (getppid() != parent)
            return 1;
        for (uint64_t turn = 1;; turn += 2) {
            wait_for(ball, turn);
            atomic_store_explicit(&ball->turn, turn + 1, memory_order_release);
        }
    }
    uint64_t turn = 0;
    round_trip(ball, &turn); /* until the two are on processors of their own */
    for (int repeat = 0; repeat < repeats; repeat++)
        printf("{\"key\": \"canary\", \"value\": %.3f}\n", round_trip(ball, &turn));
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    return 0;
}
