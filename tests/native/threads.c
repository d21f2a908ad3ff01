/* threads.c: everything that the threads of one process can do to the same granules at once.
 *
 * Usage: threads [TURNS [SEED]]. Prints one JSON object, the seed in it; exits with 1 if a load saw what no order of
 * the operations explains. Made for ThreadSanitizer over the portable core: each pair of operations that the core lets
 * two threads do at once is done at once here, and all that they share is atomic or handed over.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sys/wait.h>

#include "harness.h"

enum { SHORT_RUN = 500, OWN_BASE = 1 << 24 };

static _Atomic uint32_t revoked_values;
static uint64_t turns;
static pthread_barrier_t beginning;
static _Atomic uint32_t unfinished; /* parts that have not done their turns */

static void store(struct actor *me) {
    store_values(me);
}

static void load(struct actor *me) {
    load_values(me, (enum authority)random_below(me, DATA));
}

static void write_somehow(struct actor *me) {
    (random_below(me, 4) == 0 ? write_same : write_bytes)(me, (enum authority)random_below(me, AUTHORITIES));
}

/* The same value in a run of granules. */
static void fill(struct actor *me) {
    const uint32_t first = random_below(me, HOT);
    const uint32_t value = values + random_below(me, STORED_SETS * HOT);
    expect(capshm_fill(authorities + FULL, hot_offset(first), random_run(me, first), value), "fill");
}

/* Granules, or bytes, from anywhere in the row to anywhere else, overlapping or not. */
static void copy(struct actor *me) {
    const uint32_t length = 1 + random_below(me, LARGEST_WRITE);
    const uint32_t unit = random_below(me, 4) == 0 ? 1 : GRANULE_SIZE;
    const uint32_t from = random_below(me, HOT * GRANULE_SIZE - length) / unit * unit;
    const uint32_t to = random_below(me, HOT * GRANULE_SIZE - length) / unit * unit;
    expect(capshm_with_increment(authorities + FULL, hot_offset(0) + from, me->into), "derive");
    expect(capshm_with_increment(authorities + FULL, hot_offset(0) + to, me->into + 1), "derive");
    expect(capshm_copy(me->into, me->into + 1, length), "copy");
}

static void close_and_sweep(struct actor *me) {
    sweep_values(me, SWEEP_PORTABLE);
    load(me);
}

/* An object comes, is used, and goes. */
static void map_and_unmap(struct actor *me) {
    const int file = memory_file(4 * PAGE_BYTES); /* data; tag lines; twins; clear map */
    const uint64_t sideband = map_file(0, 4 * PAGE_BYTES, file, true);
    const struct capshm_mapping mapping = {
        .address = map_file(ARENA + OWN_BASE, PAGE_BYTES, file, true),
        .length = PAGE_BYTES,
        .lines = sideband + PAGE_BYTES,
        .twins = sideband + 2 * PAGE_BYTES,
        .clear = sideband + 3 * PAGE_BYTES,
        .object = capshm_new_object(),
        .permissions = page_permissions[FULL],
        .is_lines_writable = true,
    };
    struct capability_register held;
    expect(capshm_map(&mapping), "map");
    expect(capshm_make(me->into, mapping.address, METADATA_ROOT, true), "make");
    expect(capshm_store(me->into, 0, me->into), "store");
    expect(capshm_load(me->into, 0, me->into + 1), "load");
    expect(capshm_inspect(me->into + 1, &held), "inspect");
    if (!(held.rights & RIGHT_TAG))
        violated("the only capability of a new object has lost its tag");
    expect(capshm_unmap(mapping.address, PAGE_BYTES), "unmap");
    expect(capshm_unmap_memory(mapping.address, PAGE_BYTES), "unmap memory");
    expect(capshm_unmap_memory(sideband, 4 * PAGE_BYTES), "unmap memory");
    close(file);
}

/* Uses that object whether it is there or not. */
static void trespass(struct actor *me) {
    expect(capshm_make(me->into, ARENA + OWN_BASE, METADATA_ROOT, true), "make");
    const enum status status = capshm_load(me->into, 0, me->into + 1);
    if (status != STATUS_PAGE_NOT_MAPPED)
        expect(status, "load from an object that comes and goes");
}

struct visitor {
    uint64_t seed;
    uint32_t authority;
    pthread_t thread;
};

static void *visit(void *argument) {
    const struct visitor *const visitor = argument;
    struct actor me = make_actor(visitor->seed, 0);
    expect(capshm_store(visitor->authority, hot_offset(random_below(&me, HOT)), values), "store through a loaded one");
    me.do_values_move = true;
    store(&me);
    load(&me);
    expect(capshm_release(me.into, HOT), "release");
    return (void *)(uintptr_t)is_violated(&me.counts);
}

/* Two threads come and go, who have been given the same capability, fresh from memory. */
static void receive_visitors(struct actor *me) {
    struct visitor visitors[2];
    expect(capshm_load(authorities + FULL, 0, me->into), "load an authority");
    for (uint32_t i = 0; i < 2; i++) {
        visitors[i] = (struct visitor){.seed = random_word(me), .authority = me->into};
        if (pthread_create(&visitors[i].thread, NULL, visit, &visitors[i]) != 0)
            fail("no thread");
    }
    for (uint32_t i = 0; i < 2; i++) {
        void *has_seen_violation;
        if (pthread_join(visitors[i].thread, &has_seen_violation) != 0 || has_seen_violation != NULL)
            violated("a visitor saw what no order explains");
    }
}

/* A process comes and goes. */
static void fork_child(struct actor *me) {
    capshm_fork_before();
    const pid_t pid = fork();
    if (pid == 0) {
        expect(capshm_fork_in_child(), "attach a child");
        store(me);
        load(me);
        _exit(is_violated(&me->counts));
    }
    capshm_fork_in_parent();
    int status;
    if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0)
        violated("a child failed");
}

static struct part {
    void (*act)(struct actor *);
    uint64_t divisor; /* what costs much more than a load is done less often */
    pthread_t thread;
    struct actor actor;
} parts[] = {
    {.act = store},
    {.act = store},
    {.act = load},
    {.act = load},
    {.act = overwrite},
    {.act = write_somehow},
    {.act = fill},
    {.act = copy},
    {.act = close_and_sweep, .divisor = 8},
    {.act = map_and_unmap, .divisor = 8},
    {.act = trespass},
    {.act = receive_visitors, .divisor = 16},
    {.act = fork_child, .divisor = 64},
    {.act = fork_child, .divisor = 64},
};

/* Goes on until all others have done their turns, too. */
static void *perform(void *argument) {
    struct part *const part = argument;
    const uint64_t own_turns = turns / (part->divisor > 0 ? part->divisor : 1);
    pthread_barrier_wait(&beginning);
    for (uint64_t turn = 0; atomic_load(&unfinished) > 0; turn++) {
        part->act(&part->actor);
        if (turn == own_turns)
            atomic_fetch_sub(&unfinished, 1);
    }
    return NULL;
}

int main(int argument_count, char **arguments) {
    enum { PARTS = sizeof parts / sizeof *parts };
    turns = argument_count > 1 ? strtoull(arguments[1], NULL, 0) : SHORT_RUN;
    const uint64_t seed = argument_count > 2 ? strtoull(arguments[2], NULL, 0) : clock_now();
    struct counts sum = {0};
    alarm(4 * PATIENCE); /* the watchdog: every wait of a thread here is for another thread */
    revoked = &revoked_values;
    set_up();
    expect(capshm_store(authorities + FULL, 0, authorities + FULL), "store an authority");
    for (uint32_t i = 0; i < PARTS; i++) {
        parts[i].actor = make_actor(seed, i);
        parts[i].actor.do_values_move = true;
    }
    if (pthread_barrier_init(&beginning, NULL, PARTS) != 0)
        fail("no barrier");
    atomic_store(&unfinished, PARTS);
    for (uint32_t i = 0; i < PARTS; i++) {
        if (pthread_create(&parts[i].thread, NULL, perform, &parts[i]) != 0)
            fail("no thread");
    }
    for (uint32_t i = 0; i < PARTS; i++) {
        if (pthread_join(parts[i].thread, NULL) != 0)
            fail("no join");
        counts_add(&sum, &parts[i].actor.counts);
    }
    counts_print("threads", seed, PARTS, &sum);
    return is_violated(&sum);
}
