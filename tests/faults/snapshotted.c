/* A program whose pointers are known: tests/faults/test_snapshot.py finds all of them.
 *
 * It maps PAGES pages of private memory, and a page of shared memory, each alone between pages without access, so that
 * nothing else joins them; prints where they are; and waits for the end of its input. Then it ends with status 0, if its
 * pages are as they were.
 *
 * Its arguments are pairs of numbers: a pointer at byte FROM of the pages, to byte TO. Before them, "thread": a second
 * thread counts all the while. "abort": it does not wait, and leaves a core if it may.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

enum { PAGE = 4096, PAGES = 64 };

static char *pages;
static volatile uint64_t counted;

static void *count(void *unused) {
    for (;;)
        counted++;
    return unused;
}

static char *map_alone(size_t size, int flags) {
    char *const around = mmap(NULL, size + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return mmap(around + PAGE, size, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
}

int main(int argc, char **argv) {
    setvbuf(stdin, NULL, _IONBF, 0); /* so that nothing is allocated any more when it waits */
    const char *const way = argc % 2 == 0 ? argv[1] : "";
    pages = map_alone((size_t)PAGES * PAGE, MAP_PRIVATE);
    char *const shared = map_alone(PAGE, MAP_SHARED);
    memcpy(shared, &pages, sizeof pages);
    for (int i = 1 + (*way != 0); i < argc; i += 2) {
        char *const to = pages + strtoull(argv[i + 1], NULL, 0);
        memcpy(pages + strtoull(argv[i], NULL, 0), &to, sizeof to);
    }
    if (strcmp(way, "thread") == 0) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, count, NULL) != 0)
            return 2;
        while (counted == 0)
            ;
    }
    printf("%p %p\n", (void *)pages, (void *)shared);
    fflush(stdout);
    if (strcmp(way, "abort") == 0) {
        struct rlimit limit;
        getrlimit(RLIMIT_CORE, &limit);
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_CORE, &limit);
        abort();
    }
    getchar();
    for (int i = 1 + (*way != 0); i < argc; i += 2) {
        char *const to = pages + strtoull(argv[i + 1], NULL, 0);
        if (memcmp(pages + strtoull(argv[i], NULL, 0), &to, sizeof to) != 0)
            return 1;
    }
    return 0;
}
