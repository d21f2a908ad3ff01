/* stop.c: how long it takes to stop processes, by each stopper, and by the least that a machine must do for it.
 *
 * Usage: stop [REPEATS [PROCESSES...]]. With REPEATS alone one JSON object a line and repeat for stop_16. With numbers of
 * processes as well: for each of them and each stopper a line with stopper, processes and microseconds.
 *
 * Conditions: 16 processes, busy: each spins for about a microsecond, carries out one operation of the core and one of the
 * limit's, and spins again: operations are about 1 % of its time. A stop is measured in the stopper's native call, until
 * none can touch a capability any more; all go on for a while before the next. The limit is a flag, a membarrier and a look
 * at each process's own flag. Figure and limit take turns; the median of a repeat counts.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "capshm.h"
#include "clock.h"

enum { PROCESSES = 16, MOST = 256, STOPS = 101, PAUSE = 64, STOPPERS = 3, LIMIT = STOPPERS };
static const uint64_t ARENA = UINT64_C(0x550000000000);
static const uint64_t ARENA_SIZE = UINT64_C(1) << 30; /* 1 GiB */
static const uint64_t PATIENCE = UINT64_C(60000000000);
static const uint64_t BETWEEN = 200000; /* ns */
static const char *const names[STOPPERS] = {"gate", "signal", "sigstop"};

/* The limit's own gate, and how the processes begin. */
struct shared {
    _Atomic bool is_kept;
    _Atomic int ready;
    _Alignas(64) _Atomic bool is_stopped;
    struct {
        _Alignas(64) _Atomic bool is_inside;
    } flags[MOST];
};

static struct shared *shared;
static pid_t pids[MOST];
static int pidfds[MOST];

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void spin(uint32_t turns) {
    while (turns-- > 0)
        clock_relax();
}

static void operate_like_the_limit(int number) {
    for (;;) {
        atomic_store_explicit(&shared->flags[number].is_inside, true, memory_order_relaxed);
        atomic_signal_fence(memory_order_seq_cst);
        if (!atomic_load_explicit(&shared->is_stopped, memory_order_acquire))
            break;
        atomic_store_explicit(&shared->flags[number].is_inside, false, memory_order_release);
        while (atomic_load(&shared->is_stopped))
            clock_relax();
    }
    atomic_store_explicit(&shared->flags[number].is_inside, false, memory_order_release);
}

static void work(int number, int gate) {
    uint32_t tag;
    while (!atomic_load(&shared->is_kept))
        clock_relax();
    if (capshm_attach(ARENA, ARENA_SIZE, gate) != STATUS_OK || capshm_take_halt_signals(true) != STATUS_OK ||
        capshm_make(1, ARENA, METADATA_ROOT, true) != STATUS_OK)
        fail("attach");
    atomic_fetch_add(&shared->ready, 1);
    for (;;) {
        if (capshm_tag(1, &tag) != STATUS_OK)
            fail("operation");
        operate_like_the_limit(number);
        spin(PAUSE);
    }
}

static void start(int count) {
    const pid_t parent = getpid();
    const int gate = memfd_create("capshm-gate", MFD_CLOEXEC);
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (gate < 0 || ftruncate(gate, (off_t)capshm_gate_size()) != 0 || shared == MAP_FAILED)
        fail("shared memory");
    for (int i = 0; i < count; i++) {
        pids[i] = fork();
        if (pids[i] < 0)
            fail("fork");
        if (pids[i] == 0) {
            if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || getppid() != parent)
                _exit(1);
            work(i, gate);
        }
        pidfds[i] = (int)syscall(SYS_pidfd_open, pids[i], 0);
    }
    if (capshm_keep_gate(gate) != STATUS_OK)
        fail("gate");
    atomic_store(&shared->is_kept, true);
    while (atomic_load(&shared->ready) < count)
        usleep(1000);
}

static void end(int count) {
    for (int i = 0; i < count; i++) {
        kill(pids[i], SIGKILL);
        waitpid(pids[i], NULL, 0);
    }
}

static uint64_t stop_like_the_limit(int count) {
    const uint64_t begin = clock_now();
    atomic_store(&shared->is_stopped, true);
    capshm_barrier_everywhere();
    for (int i = 0; i < count; i++) {
        while (atomic_load_explicit(&shared->flags[i].is_inside, memory_order_acquire))
            clock_relax();
    }
    const uint64_t time = clock_now() - begin;
    atomic_store(&shared->is_stopped, false);
    return time;
}

static uint64_t stop(int stopper, int count) {
    int32_t straggler;
    size_t stragglers;
    const uint64_t begin = clock_now();
    if (capshm_gate_close(PATIENCE, &straggler, 1, &stragglers) != STATUS_OK)
        fail("close");
    if (stopper == 1)
        capshm_halt_by_signal(PATIENCE);
    else if (stopper == 2)
        capshm_halt_by_sigstop(PATIENCE, pidfds, pids, (size_t)count);
    const uint64_t time = clock_now() - begin;
    for (int i = 0; i < count && stopper == 2; i++)
        kill(pids[i], SIGCONT);
    capshm_gate_open(false);
    return time;
}

static int compare(const void *left, const void *right) {
    const uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
    return (a > b) - (a < b);
}

/* Medians, in microseconds, of what is wanted: a bit for each stopper, and one for the limit. */
static void measure(int count, unsigned wanted, double medians[STOPPERS + 1]) {
    static uint64_t times[STOPPERS + 1][STOPS];
    for (int turn = 0; turn < STOPS; turn++) {
        for (int way = 0; way <= LIMIT; way++) {
            if (!(wanted >> way & 1))
                continue;
            for (const uint64_t begin = clock_now(); clock_now() - begin < BETWEEN;)
                clock_relax();
            times[way][turn] = way == LIMIT ? stop_like_the_limit(count) : stop(way, count);
        }
    }
    for (int way = 0; way <= LIMIT; way++) {
        qsort(times[way], STOPS, sizeof times[way][0], compare);
        medians[way] = (double)times[way][STOPS / 2] / 1000;
    }
}

/* In a process of its own: one process keeps one gate. */
static void measure_apart(int count) {
    double medians[STOPPERS + 1];
    const pid_t child = fork();
    int status;
    if (child == 0) {
        start(count);
        measure(count, (1 << STOPPERS) - 1, medians);
        end(count);
        for (int way = 0; way < STOPPERS; way++)
            printf("{\"stopper\": \"%s\", \"processes\": %d, \"microseconds\": %.3f}\n", names[way], count,
                   medians[way]);
        exit(0);
    }
    if (child < 0 || waitpid(child, &status, 0) != child || status != 0)
        fail("measure");
}

int main(int argument_count, char **arguments) {
    double medians[STOPPERS + 1];
    if (argument_count > 2) {
        for (int i = 2; i < argument_count; i++) {
            const int count = atoi(arguments[i]);
            measure_apart(count < 1 ? 1 : count > MOST ? MOST : count);
        }
        return 0;
    }
    start(PROCESSES);
    for (int repeat = argument_count > 1 ? atoi(arguments[1]) : 1; repeat > 0; repeat--) {
        measure(PROCESSES, 1 << 0 | 1 << LIMIT, medians);
        printf("{\"key\": \"stop_16\", \"value\": %.3f, \"limit\": %.3f, \"ratio\": %.3f}\n", medians[0],
               medians[LIMIT], medians[0] / medians[LIMIT]);
    }
    end(PROCESSES);
    return 0;
}
