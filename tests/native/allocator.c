/* allocator.c: the threads of one process, and children that it forks meanwhile, allocate and free at once.
 *
 * Usage: allocator [TURNS [SEED]]. Every allocation is filled with a word of its owner's, which is looked at again before
 * it is given back, and, while it is in quarantine, once more by whoever runs a pass: memory that two have at once, or
 * that was used again too early, shows. Each mapping lies at a place of its own, so one that is unmapped twice, or never,
 * shows too; unmapping fails now and then. In the end all of it is free. Exits with 1 if it is not so.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sys/wait.h>

#include "harness.h"
#include "slots.h"

enum {
    THREADS = 4,
    HELD = 64,
    SHORT_TURNS = 20000,
    FORK_TURNS = 2000, /* between two forks of a thread */
    LARGEST = 3 << 14, /* a third of the sizes that are beyond chunks */
};
#define ARENA_SIZE (UINT64_C(8) << 30)
#define PLACE_SIZE (UINT64_C(1) << 16)
#define FREED (UINT64_C(1) << 63)

static uint64_t turns;
static _Atomic uint64_t next_place = ARENA;
static _Atomic bool is_mapping[ARENA_SIZE / PLACE_SIZE]; /* a mapping that is one allocation is there */

struct worker {
    struct actor actor;
    pthread_t thread;
    uint32_t number;
    uint32_t registers; /* of HELD, those that hold an allocation are in use */
    bool is_in_use[HELD];
    uint32_t spare;
};

static struct capability_register inspect(uint32_t number) {
    struct capability_register held;
    expect(capshm_inspect(number, &held), "inspect");
    return held;
}

static uint64_t mark_of(const struct worker *me, uint64_t base) {
    return base | me->number;
}

static void write_mark(uint64_t base, uint64_t length, uint64_t mark) {
    *(uint64_t *)base = mark;
    *(uint64_t *)((base + length - 8) & ~UINT64_C(7)) = mark;
}

static bool has_mark(uint64_t base, uint64_t length, uint64_t mark) {
    return *(uint64_t *)base == mark && *(uint64_t *)((base + length - 8) & ~UINT64_C(7)) == mark;
}

static _Atomic bool *place_of(uint64_t address) {
    return &is_mapping[(address - ARENA) / PLACE_SIZE];
}

/* Private memory that nobody had before. */
static void map_fresh(uint64_t size, uint32_t into) {
    uint64_t length;
    expect(capshm_allocator_needed(size, &length), "ask for the memory that is needed");
    const struct capshm_object_mapping mapping = {
        .address = atomic_fetch_add(&next_place, (length + PLACE_SIZE - 1) & ~(PLACE_SIZE - 1)),
        .length = length,
        .data = -1,
        .tags = -1,
        .clear = -1,
        .permissions = page_permissions[FULL] | PAGE_LOAD_CAP,
        .is_kept_at_fork = true,
    };
    expect(capshm_map_object(&mapping), "map");
    *place_of(mapping.address) = size > SLOT_LARGEST_IN_CHUNK;
    expect(capshm_make(into, mapping.address, METADATA_ROOT, true), "make");
    expect(capshm_with_bounds(into, length, true, into), "narrow");
}

/* Until there is none, or as if one could not be unmapped. */
static bool unmap_some(struct worker *me) {
    uint32_t mapping;
    enum status status;
    while ((status = capshm_allocator_begin_unmap(me->spare, &mapping)) == STATUS_OK) {
        const struct capability_register memory = inspect(me->spare);
        const bool is_unmapped = random_below(&me->actor, 4) != 0;
        if (is_unmapped) {
            if (!atomic_exchange(place_of(memory.base), false))
                violated("a mapping was unmapped twice");
            expect(capshm_unmap_range(memory.base, memory.length), "unmap");
        }
        expect(capshm_allocator_end_unmap(mapping, is_unmapped), "end an unmapping");
        if (!is_unmapped)
            return false;
    }
    if (status != STATUS_NOT_ALLOCATED)
        expect(status, "begin an unmapping");
    return true;
}

/* Nobody has written what waits since it was freed; then it is free. */
static void run_pass(struct worker *me) {
    const struct allocator_range *ranges;
    uint64_t count;
    const enum status begun = capshm_allocator_begin_pass(&ranges, &count);
    if (begun == STATUS_PASS_UNDER_WAY || begun == STATUS_NOT_ALLOCATED)
        return;
    expect(begun, "begin a pass");
    for (uint64_t i = 0; i < count; i++) {
        const uint64_t found = *(const uint64_t *)ranges[i].start;
        if ((found & ~UINT64_C(0xf)) != (ranges[i].start | FREED))
            violated("memory in quarantine was used");
    }
    const enum status ended = capshm_allocator_end_pass(random_below(&me->actor, 4) != 0);
    if (ended == STATUS_MEMORY_UNUSED)
        unmap_some(me);
    else
        expect(ended, "end a pass");
}

static void take(struct worker *me, uint32_t i) {
    const uint64_t size = random_below(&me->actor, random_below(&me->actor, 8) == 0 ? LARGEST : 1024);
    const uint32_t into = me->registers + i;
    enum status status;
    while ((status = capshm_allocator_take(size, into)) == STATUS_REVOCATION_DUE)
        run_pass(me);
    if (status == STATUS_MEMORY_NEEDED) {
        map_fresh(size, me->spare);
        status = capshm_allocator_add(me->spare, size, into);
    }
    expect(status, "take");
    const struct capability_register held = inspect(into);
    if (!(held.rights & RIGHT_TAG) || (held.rights & PERMISSION_SW_VMEM) || held.length < size)
        violated("an allocation without its rights");
    write_mark(held.base, held.length, mark_of(me, held.base));
    me->is_in_use[i] = true;
}

static void give_back(struct worker *me, uint32_t i) {
    const uint32_t pointer = me->registers + i;
    const struct capability_register held = inspect(pointer);
    if (!has_mark(held.base, held.length, mark_of(me, held.base)))
        violated("an allocation was written by somebody else");
    *(uint64_t *)held.base = mark_of(me, held.base) | FREED;
    const enum status status = capshm_allocator_give_back(pointer);
    if (status == STATUS_MEMORY_UNUSED)
        unmap_some(me);
    else
        expect(status, "give back");
    me->is_in_use[i] = false;
}

static void work(struct worker *me, uint64_t count) {
    for (uint64_t turn = 0; turn < count; turn++) {
        const uint32_t i = random_below(&me->actor, HELD);
        (me->is_in_use[i] ? give_back : take)(me, i);
    }
}

static void run_in_child(void (*body)(struct worker *), struct worker *me) {
    capshm_fork_before();
    const pid_t pid = fork();
    if (pid == 0) {
        expect(capshm_fork_in_child(), "attach a child");
        body(me);
        _exit(0);
    }
    capshm_fork_in_parent();
    int status;
    if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0)
        violated("a child failed");
}

/* The copy of a heap that others were using is whole. */
static void work_in_child(struct worker *me) {
    work(me, 200);
    run_pass(me);
}

static void begin_pass(struct worker *me) {
    const struct allocator_range *ranges;
    uint64_t count;
    (void)me;
    expect(capshm_allocator_begin_pass(&ranges, &count), "begin a pass");
    if (count != 1)
        violated("a pass over something else");
}

/* What belonged to the parent's pass belongs to the child's next. */
static void fork_in_pass(struct worker *me) {
    take(me, 0);
    give_back(me, 0);
    begin_pass(me);
    run_in_child(begin_pass, me);
    expect(capshm_allocator_end_pass(false), "end a pass");
}

static void *perform(void *argument) {
    struct worker *const me = argument;
    for (uint64_t done = 0; done < turns; done += FORK_TURNS) {
        work(me, turns - done < FORK_TURNS ? turns - done : FORK_TURNS);
        if (me->number == 0)
            run_in_child(work_in_child, me);
    }
    for (uint32_t i = 0; i < HELD; i++) {
        if (me->is_in_use[i])
            give_back(me, i);
    }
    return NULL;
}

/* What `turns` say, with or without quarantine. */
static void run(struct worker *workers, bool is_quarantining) {
    const struct allocator_policy policy = {
        .floor = 1 << 20,
        .numerator = 1,
        .denominator = 4,
        .is_quarantining = is_quarantining,
    };
    struct allocator_counts counts;
    expect(capshm_allocator_set_policy(&policy), "set the policy");
    for (uint32_t i = 0; i < THREADS; i++) {
        if (pthread_create(&workers[i].thread, NULL, perform, &workers[i]) != 0)
            fail("no thread");
    }
    for (uint32_t i = 0; i < THREADS; i++) {
        if (pthread_join(workers[i].thread, NULL) != 0)
            fail("no join");
    }
    do {
        run_pass(&workers[0]);
        expect(capshm_allocator_count(&counts), "count");
    } while (counts.quarantine > 0); /* a quarter of the passes is not completed */
    if (counts.heap != 0 || (is_quarantining && counts.passes == 0))
        violated("something is still allocated, or nothing was ever revoked");
    while (!unmap_some(&workers[0]))
        ;
    for (uint64_t place = 0; place < ARENA_SIZE / PLACE_SIZE; place++) {
        if (is_mapping[place])
            violated("a mapping that nobody uses was never unmapped");
    }
    if (is_quarantining)
        fork_in_pass(&workers[0]);
}

/* Memory that is too short for what was asked, down to none at all, is refused. */
static void add_too_little(struct worker *me) {
    const uint64_t lengths[] = {0, 1, PAGE_BYTES, LARGEST / 2};
    for (uint32_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        map_fresh(SLOT_LARGEST_IN_CHUNK, me->spare);
        expect(capshm_with_bounds(me->spare, lengths[i], false, me->spare), "narrow");
        if (capshm_allocator_add(me->spare, LARGEST, me->registers) != STATUS_INVALID)
            violated("memory that is too short was taken");
    }
}

int main(int argument_count, char **arguments) {
    static struct worker workers[THREADS];
    turns = argument_count > 1 ? strtoull(arguments[1], NULL, 0) : SHORT_TURNS;
    const uint64_t seed = argument_count > 2 ? strtoull(arguments[2], NULL, 0) : clock_now();
    printf("{\"seed\": %llu}\n", (unsigned long long)seed);
    fflush(stdout);
    alarm(4 * PATIENCE); /* the watchdog */
    expect(capshm_attach(ARENA, ARENA_SIZE, -1), "attach");
    for (uint32_t i = 0; i < THREADS; i++) {
        workers[i] = (struct worker){.actor = make_actor(seed, i), .number = i};
        expect(capshm_reserve(HELD, &workers[i].registers), "reserve");
        expect(capshm_reserve(1, &workers[i].spare), "reserve");
    }
    add_too_little(&workers[0]);
    run(workers, false);
    run(workers, true);
    capshm_detach();
    return 0;
}
