/* interpose.c: stands before the C library's allocator in a program that runs with LD_PRELOAD, and writes down what is
 * asked of it. The work itself is done by whoever comes next: the C library, or an allocator that the program links. */
#define _GNU_SOURCE /* RTLD_NEXT */
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdalign.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "recorder.h"

#define EXPORT __attribute__((visibility("default")))

static struct {
    void *(*malloc)(size_t);
    void *(*calloc)(size_t, size_t);
    void *(*realloc)(void *, size_t);
    void (*free)(void *);
    int (*posix_memalign)(void **, size_t, size_t);
    void *(*aligned_alloc)(size_t, size_t);
    void *(*memalign)(size_t, size_t);
    void *(*valloc)(size_t);
    void *(*pvalloc)(size_t);
    pid_t (*wait)(int *);
    pid_t (*waitpid)(pid_t, int *, int);
    pid_t (*wait3)(int *, int, struct rusage *);
    pid_t (*wait4)(pid_t, int *, int, struct rusage *);
    int (*waitid)(idtype_t, id_t, siginfo_t *, int);
} next;

/* dlsym itself may allocate: it gets memory from here, zero and never given back. */
static struct {
    alignas(max_align_t) char memory[16 << 10];
    size_t used;
} bootstrap;

static void *bootstrap_take(size_t size) {
    const size_t unit = alignof(max_align_t);
    if (size > sizeof bootstrap.memory - bootstrap.used - unit)
        return NULL;
    void *const taken = &bootstrap.memory[bootstrap.used];
    bootstrap.used += (size + unit - 1) / unit * unit;
    return taken;
}

static bool is_bootstrap(const void *memory) {
    return (const char *)memory >= bootstrap.memory &&
           (const char *)memory < bootstrap.memory + sizeof bootstrap.memory;
}

/* POSIX lets dlsym's answer be a function; C has no cast for it. */
static void find(void *function, const char *name) {
    void *const found = dlsym(RTLD_NEXT, name);
    memcpy(function, &found, sizeof found);
}

/* Whether the functions behind this library are known. False: this is a call that dlsym makes to find them. */
static bool is_ready(void) {
    static bool is_finding, is_found; /* a program's first allocation comes before its first thread */
    if (is_found)
        return true;
    if (is_finding)
        return false;
    is_finding = true;
    find(&next.malloc, "malloc");
    find(&next.calloc, "calloc");
    find(&next.realloc, "realloc");
    find(&next.free, "free");
    find(&next.posix_memalign, "posix_memalign");
    find(&next.aligned_alloc, "aligned_alloc");
    find(&next.memalign, "memalign");
    find(&next.valloc, "valloc");
    find(&next.pvalloc, "pvalloc");
    find(&next.wait, "wait");
    find(&next.waitpid, "waitpid");
    find(&next.wait3, "wait3");
    find(&next.wait4, "wait4");
    find(&next.waitid, "waitid");
    is_found = true;
    return true;
}

__attribute__((constructor)) static void start(void) {
    is_ready();
    recorder_begin();
    /* A child that allocates nothing is seen too. */
    pthread_atfork(NULL, NULL, recorder_begin);
}

static void *note(void *memory, size_t size) {
    if (memory != NULL)
        recorder_append(JOURNAL_ALLOCATED, (uint64_t)memory, size);
    return memory;
}

EXPORT void *malloc(size_t size) {
    return is_ready() ? note(next.malloc(size), size) : bootstrap_take(size);
}

EXPORT void *calloc(size_t count, size_t size) {
    if (is_ready())
        return note(next.calloc(count, size), count * size); /* what does not overflow, or NULL */
    return bootstrap_take(count * size);
}

EXPORT void free(void *memory) {
    if (memory == NULL || is_bootstrap(memory) || !is_ready())
        return;
    recorder_append(JOURNAL_FREED, (uint64_t)memory, 0);
    next.free(memory);
}

EXPORT void *realloc(void *memory, size_t size) {
    if (memory == NULL)
        return malloc(size);
    if (is_bootstrap(memory)) {
        const size_t rest = (size_t)(bootstrap.memory + sizeof bootstrap.memory - (char *)memory);
        void *const moved = malloc(size);
        return moved == NULL ? NULL : memcpy(moved, memory, size < rest ? size : rest);
    }
    if (!is_ready())
        return NULL;
    recorder_append(JOURNAL_MOVING, (uint64_t)memory, size);
    void *const moved = next.realloc(memory, size);
    recorder_append(JOURNAL_MOVED, (uint64_t)moved, size);
    return moved;
}

EXPORT int posix_memalign(void **memory, size_t alignment, size_t size) {
    if (!is_ready())
        return ENOMEM;
    const int error = next.posix_memalign(memory, alignment, size);
    if (error == 0)
        note(*memory, size);
    return error;
}

EXPORT void *aligned_alloc(size_t alignment, size_t size) {
    return is_ready() ? note(next.aligned_alloc(alignment, size), size) : NULL;
}

EXPORT void *memalign(size_t alignment, size_t size) {
    return is_ready() ? note(next.memalign(alignment, size), size) : NULL;
}

EXPORT void *valloc(size_t size) {
    return is_ready() ? note(next.valloc(size), size) : NULL;
}

EXPORT void *pvalloc(size_t size) {
    return is_ready() ? note(next.pvalloc(size), size) : NULL;
}

/* Waits: a replay lets parents wait for their children where they did. */

/* status: filled in if there is a child. */
static pid_t note_end(pid_t child, const int *status) {
    if (child > 0 && (WIFEXITED(*status) || WIFSIGNALED(*status)))
        recorder_append(JOURNAL_WAITED, (uint64_t)child, 0);
    return child;
}

EXPORT pid_t wait(int *status) {
    int own;
    int *const told = status != NULL ? status : &own;
    is_ready();
    const pid_t child = next.wait(told);
    return note_end(child, told);
}

EXPORT pid_t waitpid(pid_t which, int *status, int options) {
    int own;
    int *const told = status != NULL ? status : &own;
    is_ready();
    const pid_t child = next.waitpid(which, told, options);
    return note_end(child, told);
}

EXPORT pid_t wait3(int *status, int options, struct rusage *usage) {
    int own;
    int *const told = status != NULL ? status : &own;
    is_ready();
    const pid_t child = next.wait3(told, options, usage);
    return note_end(child, told);
}

EXPORT pid_t wait4(pid_t which, int *status, int options, struct rusage *usage) {
    int own;
    int *const told = status != NULL ? status : &own;
    is_ready();
    const pid_t child = next.wait4(which, told, options, usage);
    return note_end(child, told);
}

EXPORT int waitid(idtype_t kind, id_t which, siginfo_t *info, int options) {
    siginfo_t own = {0};
    siginfo_t *const told = info != NULL ? info : &own;
    is_ready();
    const int result = next.waitid(kind, which, told, options);
    if (result != 0 || told->si_pid == 0 || (options & WNOWAIT))
        return result;
    if (told->si_code == CLD_EXITED || told->si_code == CLD_KILLED || told->si_code == CLD_DUMPED)
        recorder_append(JOURNAL_WAITED, (uint64_t)told->si_pid, 0);
    return result;
}
