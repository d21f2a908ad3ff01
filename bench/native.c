/* native.c: native_store, native_load and native_store_shared beside their limits, in one program and interleaved.
 *
 * Conditions: one object of 16 KiB, granules in random order (the same order for figure and limit), pages present,
 * tagged values, a checked authority: gate, tag, seal, permissions, bounds, alignment, page permission, tag line, twin,
 * clear map. Limits: native_store, one lock-prefixed read-modify-write in random order over the tag lines of the same
 * object; native_load, a sequence-lock read of 16 bytes and a tag bit in the same order; native_store_shared, two.
 * Output: a JSON object a line, key, value, limit, ratio, for each repeat.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "capshm.h"
#include "clock.h"

enum { OBJECT_SIZE = 16 << 10, GRANULES = OBJECT_SIZE / GRANULE_SIZE, OPERATIONS = 1 << 20 };
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

static double nanoseconds(uint64_t begin) {
    return (double)(clock_now() - begin) / OPERATIONS;
}

static double time_store(void) {
    const uint64_t begin = clock_now();
    for (uint32_t i = 0; i < OPERATIONS; i++) {
        if (capshm_store(1, (uint64_t)order[i] * GRANULE_SIZE, 2) != STATUS_OK)
            fail("store");
    }
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

static double time_locked_instruction(void) {
    static _Atomic uint64_t words[OBJECT_SIZE / LINE_DATA_SIZE * 2]; /* as large as the tag lines */
    const uint64_t begin = clock_now();
    for (uint32_t i = 0; i < OPERATIONS; i++)
        atomic_fetch_or(&words[order[i] >> 6 << 1], UINT64_C(1) << (order[i] & 63));
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

/* Stores by two processes at once, each to its own half of the object, against one process: ratio of their rates. */
static double time_two_stores(double *alone) {
    struct start {
        _Atomic int ready;
        _Atomic int go;
        double nanoseconds[2];
    } *const start = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED)
        fail("mmap");
    for (uint32_t i = 0; i < OPERATIONS; i++)
        order[i] %= GRANULES / 2;
    capshm_fork_before(); /* as before any fork: from here on tag lines are locked */
    capshm_fork_in_parent();
    *alone = time_store();
    pid_t children[2];
    for (int number = 0; number < 2; number++) {
        capshm_fork_before();
        children[number] = fork();
        if (children[number] == 0) {
            if (capshm_fork_in_child() != STATUS_OK)
                fail("attach child");
            for (uint32_t i = 0; number == 1 && i < OPERATIONS; i++)
                order[i] += GRANULES / 2;
            time_store();
            atomic_fetch_add(&start->ready, 1);
            while (!atomic_load(&start->go))
                clock_relax();
            start->nanoseconds[number] = time_store();
            _exit(0);
        }
        capshm_fork_in_parent();
    }
    while (atomic_load(&start->ready) != 2)
        clock_relax();
    atomic_store(&start->go, 1);
    for (int number = 0; number < 2; number++)
        waitpid(children[number], NULL, 0);
    const double ratio = *alone / start->nanoseconds[0] + *alone / start->nanoseconds[1];
    munmap(start, 4096);
    return ratio;
}

static void report(const char *key, double value, double limit) {
    printf("{\"key\": \"%s\", \"value\": %.3f, \"limit\": %.3f, \"ratio\": %.3f}\n", key, value, limit, value / limit);
}

int main(int argument_count, char **arguments) {
    const int repeats = argument_count > 1 ? atoi(arguments[1]) : 7;
    set_up();
    time_store(), time_load(), time_locked_instruction(), time_plain_sequence_lock();
    for (int repeat = 0; repeat < repeats; repeat++) {
        const double store = time_store();
        const double locked = time_locked_instruction();
        const double load = time_load();
        const double sequence = time_plain_sequence_lock();
        report("native_store", store, locked);
        report("native_load", load, sequence);
    }
    for (int repeat = 0; repeat < repeats; repeat++) {
        double alone;
        const double together = time_two_stores(&alone);
        report("native_store_shared", together, 2);
        fprintf(stderr, "locked store alone %.2f ns\n", alone);
    }
    return 0;
}
