/* native.c: native_store, native_load, native_store_locked and native_store_shared beside their limits, in one program
 * and interleaved.
 *
 * Conditions: one object of 16 KiB, granules in random order (the same order for figure and limit), pages present,
 * tagged values, a checked authority: gate, tag, seal, permissions, bounds, alignment, page permission, tag line, twin,
 * clear map. native_store takes no lock: one thread alone can reach the object; from the first fork on, in
 * native_store_locked and native_store_shared, every store locks its tag line. Limits: native_store and
 * native_store_locked, one lock-prefixed read-modify-write in random order over the tag lines of the same object;
 * native_load, a sequence-lock read of 16 bytes and a tag bit in the same order; native_store_shared, two on whole
 * processors, and as much as such instructions of two processes in memory of their own reach on those that there are.
 * Output: a JSON object a line, key, value, limit, ratio, for each repeat.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "capshm.h"
#include "clock.h"

enum { OBJECT_SIZE = 16 << 10, GRANULES = OBJECT_SIZE / GRANULE_SIZE, OPERATIONS = 1 << 20 };
enum { ROUNDS = 7, SLICE = 1 << 10 };
static const uint64_t ARENA = UINT64_C(0x550000000000);

static struct tag_line *lines;
static struct granule *twins;
static uint32_t *order; /* OPERATIONS granule numbers */

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void *shared_memory(uint64_t address, size_t size) {
    const int file = memfd_create("capshm-bench", MFD_CLOEXEC);
    if (file < 0 || ftruncate(file, (off_t)size) != 0 || capshm_map_memory(&address, size, file, 0, true) != STATUS_OK)
        fail("shared memory");
    close(file);
    return (void *)address;
}

static void set_up(void) {
    if (capshm_attach(ARENA, UINT64_C(1) << 36, -1) != STATUS_OK)
        fail("attach");
    shared_memory(ARENA, OBJECT_SIZE);
    lines = shared_memory(0, OBJECT_SIZE / 64 + OBJECT_SIZE);
    twins = (struct granule *)((char *)lines + OBJECT_SIZE / 64);
    const struct capshm_mapping mapping = {
        .address = ARENA,
        .length = OBJECT_SIZE,
        .lines = (uint64_t)lines,
        .twins = (uint64_t)twins,
        .clear = (uint64_t)shared_memory(0, OBJECT_SIZE / 128),
        .object = capshm_new_object(),
        .permissions = PAGE_READ | PAGE_WRITE | PAGE_LOAD_CAP | PAGE_STORE_CAP,
        .is_lines_writable = true,
        .is_exclusive = true,
    };
    if (capshm_map(&mapping) != STATUS_OK || capshm_make(1, ARENA, METADATA_ROOT, true) != STATUS_OK ||
        capshm_with_bounds(1, OBJECT_SIZE, true, 1) != STATUS_OK || capshm_with_bounds(1, 64, true, 2) != STATUS_OK ||
        capshm_fill(1, 0, GRANULES, 2) != STATUS_OK)
        fail("mapping");
    order = malloc(OPERATIONS * sizeof *order);
    uint64_t state = 1;
    for (uint32_t i = 0; i < OPERATIONS; i++) {
        state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        order[i] = (uint32_t)(state >> 33) % GRANULES;
    }
}

static void report(const char *key, double value, double limit) {
    printf("{\"key\": \"%s\", \"value\": %.3f, \"limit\": %.3f, \"ratio\": %.3f}\n", key, value, limit, value / limit);
}

static double nanoseconds(uint64_t begin) {
    return (double)(clock_now() - begin) / OPERATIONS;
}

static void store(const uint32_t *granules, uint32_t count) {
    for (uint32_t i = 0; i < count; i++) {
        if (capshm_store(1, (uint64_t)granules[i] * GRANULE_SIZE, 2) != STATUS_OK)
            fail("store");
    }
}

static double time_store(void) {
    const uint64_t begin = clock_now();
    store(order, OPERATIONS);
    return nanoseconds(begin);
}

static double time_load(void) {
    const uint64_t begin = clock_now();
    for (uint32_t i = 0; i < OPERATIONS; i++) {
        if (capshm_load(1, (uint64_t)order[i] * GRANULE_SIZE, 3) != STATUS_OK)
            fail("load");
    }
    return nanoseconds(begin);
}

static void change_locked(const uint32_t *granules, uint32_t count) {
    static _Atomic uint64_t words[OBJECT_SIZE / LINE_DATA_SIZE * 2]; /* as large as the tag lines */
    for (uint32_t i = 0; i < count; i++)
        atomic_fetch_or(&words[granules[i] >> 6 << 1], UINT64_C(1) << (granules[i] & 63));
}

static double time_locked_instruction(void) {
    const uint64_t begin = clock_now();
    change_locked(order, OPERATIONS);
    return nanoseconds(begin);
}

static double time_plain_sequence_lock(void) {
    const struct granule *const data = (const struct granule *)ARENA;
    volatile uint64_t sink;
    const uint64_t begin = clock_now();
    for (uint32_t i = 0; i < OPERATIONS; i++) {
        const struct tag_line *const line = &lines[order[i] >> 6];
        uint64_t version;
        uint64_t result;
        do {
            version = atomic_load_explicit(&line->lock, memory_order_acquire);
            const uint64_t tag = atomic_load_explicit(&line->tags, memory_order_acquire) >> (order[i] & 63) & 1;
            const volatile struct granule *const granule = &data[order[i]];
            result = granule->address + granule->metadata + tag;
        } while (atomic_load_explicit(&line->lock, memory_order_acquire) != version);
        sink = result;
    }
    (void)sink;
    return nanoseconds(begin);
}

enum work { WORK_STORE, WORK_LOCKED_INSTRUCTION, WORKS };

/* What the two processes of native_store_shared have in common. While they work nothing in it is written, but for is_over,
 * once. */
struct pair {
    pthread_barrier_t barrier;
    _Atomic int arrived;
    _Atomic bool is_over; /* one is done: what the other does from here on it does alone, and that does not count */
    double rates[2];      /* operations a nanosecond */
    double ratios[WORKS][ROUNDS];
};

/* Works until it has done all, or the other has; at least a slice. Operations a nanosecond. */
static double rate_of(enum work work, _Atomic bool *is_over) {
    uint32_t done = 0;
    const uint64_t begin = clock_now();
    do {
        (work == WORK_STORE ? store : change_locked)(&order[done], SLICE);
        done += SLICE;
    } while (done < OPERATIONS && !atomic_load_explicit(is_over, memory_order_relaxed));
    const uint64_t end = clock_now();
    atomic_store_explicit(is_over, true, memory_order_relaxed);
    return done / (double)(end - begin);
}

/* Sleeps until the other has come, too; *is_over is false then. */
static void meet(struct pair *pair) {
    if (pthread_barrier_wait(&pair->barrier) == PTHREAD_BARRIER_SERIAL_THREAD)
        atomic_store(&pair->is_over, false);
    pthread_barrier_wait(&pair->barrier);
}

/* The ratio of both rates at once to that of the first alone. Called by both; only the first gets it. */
static double ratio_of_round(struct pair *pair, int number, enum work work) {
    meet(pair);
    const double alone = number == 0 ? rate_of(work, &pair->is_over) : 1;
    meet(pair);
    const int begun = atomic_fetch_add(&pair->arrived, 1) / 2;
    while (atomic_load(&pair->arrived) / 2 == begun)
        clock_relax();
    pair->rates[number] = rate_of(work, &pair->is_over);
    meet(pair);
    return (pair->rates[0] + pair->rates[1]) / alone;
}

static void work_in_rounds(struct pair *pair, int number) {
    for (uint32_t i = 0; i < OPERATIONS; i++)
        order[i] = order[i] % (GRANULES / 2) + (uint32_t)number * (GRANULES / 2);
    time_store(); /* so that its pages, and its copies of what the fork shared, are present */
    for (int round = 0; round < ROUNDS; round++) {
        for (enum work work = 0; work < WORKS; work++) {
            const double ratio = ratio_of_round(pair, number, work);
            if (number == 0)
                pair->ratios[work][round] = ratio;
        }
    }
}

static int compare(const void *left, const void *right) {
    const double difference = *(const double *)left - *(const double *)right;
    return (difference > 0) - (difference < 0);
}

static double median(double *numbers) {
    qsort(numbers, ROUNDS, sizeof *numbers, compare);
    return numbers[ROUNDS / 2];
}

/* What two processes that work at once, each on its half of the object, do in the time in which one alone does 1: the
 * medians of the rounds, for stores and for the limit. Both halves' data, twins and tag lines begin at multiples of 128
 * bytes, as processors fetch cache lines in pairs; the clear map is only read. Children do it and not this process, because
 * the gate's slots 2 and 3 lie in different pairs, and 1 and 2 do not. */
static void report_two(void) {
    struct pair *const pair = mmap(NULL, sizeof *pair, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pthread_barrierattr_t shared;
    if (pair == MAP_FAILED || pthread_barrierattr_init(&shared) != 0 ||
        pthread_barrierattr_setpshared(&shared, PTHREAD_PROCESS_SHARED) != 0 ||
        pthread_barrier_init(&pair->barrier, &shared, 2) != 0)
        fail("pair");
    pid_t children[2];
    for (int number = 0; number < 2; number++) {
        capshm_fork_before();
        children[number] = fork();
        if (children[number] == 0) {
            if (capshm_fork_in_child() != STATUS_OK)
                fail("attach child");
            work_in_rounds(pair, number);
            _exit(0);
        }
        capshm_fork_in_parent();
    }
    for (int number = 0; number < 2; number++) {
        int status;
        if (wait(&status) < 0 || status != 0) {
            kill(children[0], SIGKILL); /* it may wait for the other */
            kill(children[1], SIGKILL);
            fail("child");
        }
    }
    report("native_store_shared", median(pair->ratios[WORK_STORE]), median(pair->ratios[WORK_LOCKED_INSTRUCTION]));
    munmap(pair, sizeof *pair);
}

/* As a fork would: from here on every store locks its tag line. */
static void share(void) {
    capshm_fork_before();
    capshm_fork_in_parent();
}

int main(int argument_count, char **arguments) {
    const int repeats = argument_count > 1 ? atoi(arguments[1]) : 7;
    set_up();
    time_store(), time_load(), time_locked_instruction(), time_plain_sequence_lock();
    for (int repeat = 0; repeat < repeats; repeat++) {
        const double stored = time_store();
        const double locked = time_locked_instruction();
        const double load = time_load();
        const double sequence = time_plain_sequence_lock();
        report("native_store", stored, locked);
        report("native_load", load, sequence);
    }
    share();
    time_store();
    for (int repeat = 0; repeat < repeats; repeat++) {
        const double stored = time_store();
        report("native_store_locked", stored, time_locked_instruction());
    }
    for (int repeat = 0; repeat < repeats; repeat++)
        report_two();
    return 0;
}
