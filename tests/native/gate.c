/* gate.c: nothing moves while the gate is closed.
 *
 * Usage: gate [ROUNDS]. Other processes store as fast as they can; this one closes the gate, looks at the memory twice,
 * a while apart, and opens it again. Exits with 1 if anything changed in between: a thread was inside an operation and
 * was not seen. The window for that is a few nanoseconds wide (a flag in a store buffer), so it takes many rounds.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "capshm.h"
#include "clock.h"

enum { SIZE = 1 << 16, HOT = 8, STORERS = 2, DEFAULT_ROUNDS = 2000, AREA = 1, VALUES = 2 };
static const uint64_t ARENA = UINT64_C(0x550000000000);
static const uint64_t PATIENCE = UINT64_C(60000000000);

static void fail(const char *what) {
    perror(what);
    _exit(2);
}

static uint64_t shared_memory(uint64_t address, size_t size) {
    const int file = memfd_create("capshm-gate", MFD_CLOEXEC);
    if (file < 0 || ftruncate(file, (off_t)size) != 0 || capshm_map_memory(&address, size, file, 0, true) != STATUS_OK)
        fail("shared memory");
    close(file);
    return address;
}

static void set_up(void) {
    if (capshm_attach(ARENA, UINT64_C(1) << 30, -1) != STATUS_OK)
        fail("attach");
    const uint64_t lines = shared_memory(0, SIZE / 64 + SIZE);
    const struct capshm_mapping mapping = {
        .address = shared_memory(ARENA, SIZE),
        .length = SIZE,
        .lines = lines,
        .twins = lines + SIZE / 64,
        .clear = shared_memory(0, SIZE / 128),
        .object = capshm_new_object(),
        .permissions = PAGE_READ | PAGE_WRITE | PAGE_LOAD_CAP | PAGE_STORE_CAP,
        .is_lines_writable = true,
    };
    if (capshm_map(&mapping) != STATUS_OK || capshm_make(AREA, ARENA, METADATA_ROOT, true) != STATUS_OK)
        fail("mapping");
    for (uint32_t i = 0; i < HOT; i++) {
        if (capshm_with_increment(AREA, i * GRANULE_SIZE, VALUES + i) != STATUS_OK)
            fail("value");
    }
}

/* Each storer has a line of its own: what it waits for is the gate alone. */
static void store_for_ever(uint32_t number) {
    for (uint32_t i = 0;; i++) {
        const uint64_t offset = number * LINE_DATA_SIZE + i % HOT * GRANULE_SIZE;
        if (capshm_store(AREA, offset, VALUES + (i / HOT + i) % HOT) != STATUS_OK)
            fail("store");
    }
}

static pid_t start(uint32_t number) {
    const pid_t parent = getpid();
    capshm_fork_before();
    const pid_t child = fork();
    if (child < 0)
        fail("fork");
    if (child == 0) {
        if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || getppid() != parent || capshm_fork_in_child() != STATUS_OK)
            _exit(2);
        store_for_ever(number);
    }
    capshm_fork_in_parent();
    return child;
}

static void spin(uint32_t turns) {
    while (turns-- > 0)
        clock_relax();
}

/* True if the stored bytes stayed as they were while the gate was closed. */
static bool is_still(uint32_t round) {
    struct granule before[STORERS * LINE_GRANULES];
    int32_t straggler;
    size_t stragglers;
    if (capshm_gate_close(PATIENCE, &straggler, 1, &stragglers) != STATUS_OK)
        fail("close");
    memcpy(before, (const void *)ARENA, sizeof before);
    spin(50);
    const bool is_equal = memcmp(before, (const void *)ARENA, sizeof before) == 0;
    capshm_gate_open(false);
    spin(round % 1000); /* the next closing comes at another moment of an operation */
    return is_equal;
}

int main(int argument_count, char **arguments) {
    const int rounds = argument_count > 1 ? atoi(arguments[1]) : DEFAULT_ROUNDS;
    pid_t children[STORERS];
    int round = 0;
    bool is_stopped = true;
    set_up();
    for (uint32_t i = 0; i < STORERS; i++)
        children[i] = start(i);
    for (; round < rounds && is_stopped; round++)
        is_stopped = is_still((uint32_t)round);
    for (uint32_t i = 0; i < STORERS; i++) {
        kill(children[i], SIGKILL);
        waitpid(children[i], NULL, 0);
    }
    printf("{\"rounds\": %d, \"moved\": %d}\n", round, !is_stopped);
    return !is_stopped;
}
