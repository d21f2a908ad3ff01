/* requests.c: signals, threads and the descriptor of a request. */
#define _GNU_SOURCE /* SIGTRAP, syscall */
#include "requests.h"

#include "capshm.h"

#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#if __has_include(<sys/single_threaded.h>)
#include <sys/single_threaded.h>
#else
static const char __libc_single_threaded = 0; /* not known: /proc is asked */
#endif

enum { LINKS_OF_ONE_THREAD = 3 }; /* of /proc/self/task, a directory */
enum { FIRST_OF_LIBRARY = 32, LAST_OF_LIBRARY = 33 };

/* The kernel's own form of a set: bit n - 1 is signal n. */
static uint64_t bit_of(int signal) {
    return UINT64_C(1) << (signal - 1);
}

static uint64_t change_mask(int how, uint64_t signals) {
    uint64_t before = 0;
    syscall(SYS_rt_sigprocmask, how, &signals, &before, sizeof signals); /* cannot fail with these arguments */
    return before;
}

bool capshm_has_other_threads(void) {
    if (__libc_single_threaded)
        return false; /* surely so; the opposite may only have been so once */
    struct stat status;
    return stat("/proc/self/task", &status) != 0 || status.st_nlink > LINKS_OF_ONE_THREAD;
}

uint64_t capshm_blocked_signals(void) {
    return change_mask(SIG_BLOCK, 0);
}

void capshm_block_signals(void) {
    const uint64_t excepted = bit_of(SIGSEGV) | bit_of(SIGBUS) | bit_of(SIGFPE) | bit_of(SIGILL) | bit_of(SIGTRAP) |
                              bit_of(FIRST_OF_LIBRARY) | bit_of(LAST_OF_LIBRARY);
    change_mask(SIG_BLOCK, ~excepted);
}

void capshm_restore_signals(uint64_t blocked) {
    change_mask(SIG_SETMASK, blocked);
}

/* Written by the one thread that forks, which keeps the others out. */
static bool is_blocked_for_fork;
static uint64_t blocked_before_fork;

void capshm_fork_block_signals(void) {
    if (!is_blocked_for_fork) /* else a handler forks before a fork is quite over */
        blocked_before_fork = capshm_blocked_signals();
    is_blocked_for_fork = true;
    capshm_block_signals();
}

void capshm_fork_restore_signals(void) {
    if (!is_blocked_for_fork || capshm_fork_depth() > 0)
        return;
    is_blocked_for_fork = false;
    capshm_restore_signals(blocked_before_fork);
}

bool capshm_is_descriptor_of(int descriptor, uint64_t inode) {
    struct stat status;
    return fstat(descriptor, &status) == 0 && status.st_ino == inode;
}
