/* probe.c: a process in C that does what it is told, a line at a time, for tests/client.
 *
 * Each line is a call and its arguments; each answer is a line, "ok" and what there is to tell, or the status's number
 * with rule, errno and message of the refusal. Handles are numbered in the order in which they are made.
 */
#define _GNU_SOURCE
#include <capshm/client.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { HANDLES = 4096, WORDS = 8, LINE = 8192, BUFFER = 256, THREADS = 4 };

static capshm_capability handles[HANDLES];
static size_t handle_count;
static char *words[WORDS];

static uint64_t number(int place) {
    return words[place] == NULL ? 0 : strtoull(words[place], NULL, 0);
}

/* "-": none; any other than those that were made: a handle of nothing. */
static capshm_capability handle(int place) {
    const capshm_capability nothing = {UINT32_C(1) << 23};
    if (words[place] == NULL || strcmp(words[place], "-") == 0)
        return CAPSHM_NULL;
    return number(place) < handle_count ? handles[number(place)] : nothing;
}

static void tell(enum capshm_status status) {
    const struct capshm_refusal *const refusal = capshm_last_refusal();
    if (status == CAPSHM_OK)
        puts("ok");
    else
        printf("%d|%s|%d|%s\n", (int)status, refusal->rule, refusal->error_number, refusal->message);
}

static void tell_number(enum capshm_status status, uint64_t result) {
    if (status == CAPSHM_OK)
        printf("ok %" PRIu64 "\n", result);
    else
        tell(status);
}

static void tell_made(enum capshm_status status, capshm_capability made) {
    if (status == CAPSHM_OK)
        handles[handle_count++] = made;
    tell_number(status, handle_count - 1);
}

static void describe(void) {
    struct capshm_description found;
    const enum capshm_status status = capshm_capability_describe(handle(1), &found);
    if (status != CAPSHM_OK)
        tell(status);
    else
        printf("ok %d %" PRIu64 " %" PRIu64 " %" PRIu64 " %u %d\n", found.tag, found.address, found.base, found.length,
               found.permissions, found.is_sealed);
}

static void facts(void) {
    struct capshm_facts found;
    const enum capshm_status status = capshm_machine_facts(&found);
    if (status != CAPSHM_OK)
        tell(status);
    else
        printf("ok %" PRIu64 " %s %s\n", found.vmspace, found.policy, found.isa);
}

static void read_bytes(void) {
    char buffer[BUFFER] = "";
    const enum capshm_status status = capshm_capability_read(handle(1), number(2), buffer, number(3) % BUFFER);
    if (status != CAPSHM_OK)
        tell(status);
    else
        printf("ok %s\n", buffer);
}

/* Never out of operations for long, until the tag is gone. */
static void spin(void) {
    struct capshm_description found;
    puts("ok");
    do {
        if (capshm_capability_describe(handle(1), &found) != CAPSHM_OK)
            abort();
    } while (found.tag);
    puts("ok");
}

/* What one thread does as often: memory of its own, with a capability in it. */
static void *work(void *rounds) {
    const int all = CAPSHM_PROT_READ | CAPSHM_PROT_WRITE | CAPSHM_PROT_CAP;
    for (uint64_t round = *(const uint64_t *)rounds; round > 0; round--) {
        capshm_capability memory;
        capshm_capability found;
        struct capshm_description description;
        if (capshm_mmap(CAPSHM_NULL, 1, all, CAPSHM_MAP_ANON | CAPSHM_MAP_PRIVATE, -1, 0, &memory) != CAPSHM_OK ||
            capshm_capability_store(memory, 0, memory) != CAPSHM_OK ||
            capshm_capability_load(memory, 0, &found) != CAPSHM_OK ||
            capshm_capability_describe(found, &description) != CAPSHM_OK || !description.tag ||
            capshm_munmap(memory, 1) != CAPSHM_OK)
            return rounds;
        capshm_capability_release(memory);
        capshm_capability_release(found);
    }
    return NULL;
}

/* Threads that work, while this one forks children, which are told that they are not attached and attach on their own. */
static void work_in_threads(void) {
    pthread_t threads[THREADS];
    uint64_t rounds = number(1);
    unsigned failures = 0;
    for (int i = 0; i < THREADS; i++)
        failures += pthread_create(&threads[i], NULL, work, &rounds) != 0;
    for (int i = 0; i < THREADS; i++) {
        const pid_t child = fork();
        if (child == 0) {
            uint64_t one = 1;
            const bool is_told = work(&one) != NULL && capshm_last_refusal()->status == CAPSHM_NOT_ATTACHED;
            capshm_machine_detach();
            _exit(is_told && capshm_machine_attach(NULL) == CAPSHM_OK && work(&one) == NULL ? EXIT_SUCCESS
                                                                                            : EXIT_FAILURE);
        }
        int status;
        failures += waitpid(child, &status, 0) != child || status != 0;
    }
    for (int i = 0; i < THREADS; i++) {
        void *failed;
        failures += pthread_join(threads[i], &failed) != 0 || failed != NULL;
    }
    printf("ok %u\n", failures);
}

/* The child goes on with the lines that follow; the parent ends with it. */
static void fork_here(void) {
    const pid_t child = fork();
    if (child > 0) {
        int status;
        waitpid(child, &status, 0);
        _exit(WIFEXITED(status) ? WEXITSTATUS(status) : EXIT_FAILURE);
    }
    puts("ok");
}

static void obey(void) {
    const char *const call = words[0];
    capshm_capability made;
    int descriptor = -1;
    if (strcmp(call, "attach") == 0)
        tell(capshm_machine_attach(words[1]));
    else if (strcmp(call, "detach") == 0)
        capshm_machine_detach(), puts("ok");
    else if (strcmp(call, "facts") == 0)
        facts();
    else if (strcmp(call, "fork") == 0)
        fork_here();
    else if (strcmp(call, "shm_open") == 0) {
        const enum capshm_status status = capshm_shm_open(words[1], (int)number(2), 0600, &descriptor);
        tell_number(status, (uint64_t)descriptor);
    } else if (strcmp(call, "shm_unlink") == 0)
        tell(capshm_shm_unlink(words[1]));
    else if (strcmp(call, "mmap") == 0) {
        const enum capshm_status status =
            capshm_mmap(handle(1), number(2), (int)number(3), (int)number(4), atoi(words[5]), 0, &made);
        tell_made(status, made);
    } else if (strcmp(call, "mprotect") == 0)
        tell(capshm_mprotect(handle(1), number(2), (int)number(3)));
    else if (strcmp(call, "munmap") == 0)
        tell(capshm_munmap(handle(1), number(2)));
    else if (strcmp(call, "load") == 0) {
        const enum capshm_status status = capshm_capability_load(handle(1), number(2), &made);
        tell_made(status, made);
    } else if (strcmp(call, "store") == 0)
        tell(capshm_capability_store(handle(1), number(2), handle(3)));
    else if (strcmp(call, "read") == 0)
        read_bytes();
    else if (strcmp(call, "write") == 0)
        tell(capshm_capability_write(handle(1), number(2), words[3], strlen(words[3])));
    else if (strcmp(call, "with_address") == 0) {
        const enum capshm_status status = capshm_capability_with_address(handle(1), number(2), &made);
        tell_made(status, made);
    } else if (strcmp(call, "with_bounds") == 0) {
        const enum capshm_status status = capshm_capability_with_bounds(handle(1), number(2), &made);
        tell_made(status, made);
    } else if (strcmp(call, "with_permissions") == 0) {
        const enum capshm_status status = capshm_capability_with_permissions(handle(1), (uint32_t)number(2), &made);
        tell_made(status, made);
    } else if (strcmp(call, "from_number") == 0) {
        const enum capshm_status status = capshm_capability_from_number(number(1), &made);
        tell_made(status, made);
    } else if (strcmp(call, "describe") == 0)
        describe();
    else if (strcmp(call, "release") == 0)
        capshm_capability_release(handle(1)), puts("ok");
    else if (strcmp(call, "spin") == 0)
        spin();
    else if (strcmp(call, "threads") == 0)
        work_in_threads();
    else if (strcmp(call, "poke") == 0)
        *(volatile char *)number(1) = 1, puts("ok"); /* past the library */
    else
        abort();
}

int main(void) {
    static char line[LINE];
    setvbuf(stdout, NULL, _IOLBF, 0);
    while (fgets(line, sizeof line, stdin) != NULL) {
        char *rest = line;
        memset(words, 0, sizeof words);
        for (int place = 0; place < WORDS && (words[place] = strtok_r(NULL, " \n", &rest)) != NULL;)
            place++;
        obey();
    }
    return EXIT_SUCCESS;
}
