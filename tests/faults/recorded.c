/* recorded.c: programs with a known history, for test_record.py: `recorded NAME` runs one. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { THREADS = 4, ROUNDS = 5000, MANY = 30000, IN_WINDOW = (256 << 10) / 32 };

extern char **environ;

static void *volatile pointer; /* so that no pair of malloc and free is left out */

static void calls(void) {
    pointer = malloc(10);
    free(NULL);
    pointer = realloc(pointer, 5000);
    (void)!realloc(pointer, SIZE_MAX / 4); /* fails, and changes nothing */
    free(pointer);
    pointer = calloc(3, 7);
    void *const other = realloc(NULL, 33);
    pointer = realloc(pointer, 0); /* frees */
    free(other);
    (void)!calloc(SIZE_MAX, 2); /* fails */
    void *aligned = NULL;
    if (posix_memalign(&aligned, 64, 100) != 0)
        abort();
    free(aligned);
    free(aligned_alloc(32, 64));
    free(memalign(32, 65));
    free(valloc(66));
    free(pvalloc(67));
    free(reallocarray(NULL, 4, 17));
}

static void wait_for(pid_t child) {
    int status;
    if (waitpid(child, &status, 0) != child || status != 0)
        abort();
}

/* A child frees what it has inherited, and both allocate at the same addresses after that. */
static void forks(pid_t (*make)(void)) {
    void *inherited[10];
    for (int i = 0; i < 10; i++)
        inherited[i] = malloc((size_t)(100 + i));
    const pid_t child = make();
    for (int i = 0; i < 5; i++)
        free(inherited[child == 0 ? i : 9 - i]);
    for (int i = 0; i < 3; i++)
        pointer = malloc(child == 0 ? 7 : 8);
    if (child == 0)
        _exit(0);
    wait_for(child);
}

static pid_t raw_clone(void) {
    return (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
}

static void *churn(void *unused) {
    (void)unused;
    for (int i = 0; i < ROUNDS; i++)
        free(realloc(malloc(24), 48));
    return NULL;
}

static void threads(void) {
    pthread_t started[THREADS];
    for (int i = 0; i < THREADS; i++)
        pthread_create(&started[i], NULL, churn, NULL);
    for (int i = 0; i < THREADS; i++)
        pthread_join(started[i], NULL);
}

static void *allocate_for_ever(void *unused) {
    for (uint64_t done = 0;; done++) {
        free(malloc(24));
        if (done % 1000 == 0)
            (void)!write(STDOUT_FILENO, "k", 1);
    }
    return unused;
}

/* Killed in the middle, by nobody's plan. */
static void killed(void) {
    pthread_t thread;
    for (int i = 0; i < THREADS; i++)
        pthread_create(&thread, NULL, allocate_for_ever, NULL);
    pthread_join(thread, NULL);
}

static void spawns(char *self) {
    pointer = malloc(5);
    char *arguments[] = {self, (char *)"calls", NULL};
    pid_t child;
    if (posix_spawn(&child, self, NULL, NULL, arguments, environ) != 0)
        abort();
    wait_for(child);
    free(pointer);
}

/* Allocates until the journal has grown, and has met its cancellation nowhere, for malloc is no place for that. */
static void *grow_cancelled(void *unused) {
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
    pthread_cancel(pthread_self());
    pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, NULL);
    for (int i = 0; i < IN_WINDOW; i++)
        pointer = malloc(1);
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
    return unused;
}

static void cancelled(void) {
    pthread_t thread;
    pthread_create(&thread, NULL, grow_cancelled, NULL);
    void *result = NULL;
    pthread_join(thread, &result);
    for (int i = 0; i < IN_WINDOW; i++) /* with the lock in dead hands this would hang */
        pointer = malloc(2);
    if (result == PTHREAD_CANCELED)
        abort();
}

/* A child that cannot open a file. */
static void no_descriptor(void) {
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = 0;
    setrlimit(RLIMIT_NOFILE, &limit);
    const pid_t child = fork();
    pointer = malloc(5);
    if (child == 0)
        _exit(0);
    wait_for(child);
}

static uint64_t pages(void) {
    unsigned long found = 0;
    FILE *const file = fopen("/proc/self/statm", "r");
    if (file == NULL || fscanf(file, "%lu", &found) != 1)
        abort();
    fclose(file);
    return found;
}

/* What a recorded call maps stays small. */
static void frugal(void) {
    const uint64_t before = pages();
    for (int i = 0; i < MANY; i++)
        free(malloc(24));
    if (pages() - before > MANY / 10)
        abort();
}

/* Becomes `frugal` in a kernel that knows no MADV_WIPEONFORK. */
static void old_kernel(char *self) {
    struct sock_filter rules[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_madvise, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[2])),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, MADV_WIPEONFORK, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EINVAL),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const struct sock_fprog program = {sizeof rules / sizeof rules[0], rules};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0)
        abort();
    execl(self, self, "frugal", (char *)NULL);
    abort();
}

/* Allocates, says that it is there, and waits to be told to end. */
static void waiting(void) {
    pointer = malloc(5);
    (void)!write(STDOUT_FILENO, "k", 1);
    for (;;)
        pause();
}

int main(int count, char **arguments) {
    const char *const name = count > 1 ? arguments[1] : "";
    if (strcmp(name, "calls") == 0) {
        calls();
    } else if (strcmp(name, "fork") == 0) {
        forks(fork);
    } else if (strcmp(name, "clone") == 0) {
        forks(raw_clone);
    } else if (strcmp(name, "threads") == 0) {
        threads();
    } else if (strcmp(name, "killed") == 0) {
        killed();
    } else if (strcmp(name, "suicide") == 0) {
        calls();
        raise(SIGKILL);
    } else if (strcmp(name, "many") == 0) {
        for (int i = 0; i < MANY; i++)
            pointer = malloc(1);
    } else if (strcmp(name, "spawn") == 0) {
        spawns(arguments[0]);
    } else if (strcmp(name, "cancelled") == 0) {
        cancelled();
    } else if (strcmp(name, "no descriptor") == 0) {
        no_descriptor();
    } else if (strcmp(name, "frugal") == 0) {
        frugal();
    } else if (strcmp(name, "old kernel") == 0) {
        old_kernel(arguments[0]);
    } else if (strcmp(name, "waiting") == 0) {
        waiting();
    } else if (strcmp(name, "exec") == 0) {
        pointer = malloc(5);
        execl(arguments[0], arguments[0], "calls", (char *)NULL);
        abort();
    } else {
        return 2;
    }
    return 0;
}
