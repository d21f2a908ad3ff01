/* litmus.c: capabilities in shared memory beside everything that other processes may do to the same granules.
 *
 * Usage: litmus [MODE [LOADS [SEED]]]. Without a mode all of them, with few loads each. Prints a JSON object a line,
 * the seed in it. Exits with 1 if a load saw what no order of the operations explains, or if the control saw nothing.
 *
 *     pair      one process stores, one loads
 *     values    three processes store, two load, one of them through tag lines that it cannot write
 *     raw       ... beside plain 8-byte stores through the data mapping
 *     writes    ... beside bytes written through the core, with and without capability permission, changed and the same
 *     all       ... beside all of these
 *     settled   two operations on one granule at once, and when both are done a look at what is left: LOADS rounds
 *     control   two 8-byte stores and two 8-byte loads with nothing between them: must tear, on a busy machine within
 *               a thousand times LOADS
 *     sweeps    three processes store, and one of them stops all others, revokes one value after the other, and sweeps
 *
 * Nobody begins before all are there: a load of memory that was never written would look like a tear.
 */
#define _GNU_SOURCE
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "harness.h"

enum { MOST_ACTORS = 8, BATCH = 256, SHORT_RUN = 50000 };

enum role { NOBODY, STORER, OVERWRITER, WRITER, SWEEPER, LOADER, CONTROL_STORER, CONTROL_LOADER, FIRST, SECOND };

static const struct mode {
    const char *name;
    bool is_always_tagged;
    enum role roles[MOST_ACTORS];
} modes[] = {
    {"pair", true, {STORER, LOADER}},
    {"values", true, {STORER, STORER, STORER, LOADER, LOADER}},
    {"raw", false, {STORER, STORER, OVERWRITER, LOADER, LOADER}},
    {"writes", false, {STORER, STORER, WRITER, WRITER, LOADER, LOADER}},
    {"all", false, {STORER, STORER, OVERWRITER, WRITER, WRITER, LOADER, LOADER}},
    {"settled", false, {FIRST, SECOND}},
    {"control", true, {CONTROL_STORER, CONTROL_LOADER}},
    {"sweeps", false, {STORER, STORER, SWEEPER, LOADER, LOADER}}, /* the last: what is revoked stays revoked */
};

/* What the processes of a run share. */
static struct run {
    _Atomic uint32_t ready;
    _Atomic uint32_t is_going;
    _Atomic uint32_t is_over;
    _Atomic uint32_t revoked;
    _Atomic uint64_t progress;
    _Alignas(64) _Atomic uint64_t begun; /* rounds of the mode settled */
    _Alignas(64) _Atomic uint64_t done;
    struct counts counts[MOST_ACTORS];
} *run;

static void wait_for_turn(const _Atomic uint64_t *counter, uint64_t value) {
    for (uint32_t turn = 0; atomic_load(counter) != value; turn++) {
        if (turn % 1024 == 1023)
            sched_yield(); /* the other one may wait for this processor */
        else
            clock_relax();
    }
}

/* Control ---------------------------------------------------------------------------------------------------------- */

static void store_without_lock(struct actor *me) {
    const uint32_t granule = random_below(me, HOT);
    const struct granule *const value = &words[random_below(me, STORED_SETS) * HOT + granule];
    __atomic_store_n(&hot_data(granule)->address, value->address, __ATOMIC_RELAXED);
    __atomic_store_n(&hot_data(granule)->metadata, value->metadata, __ATOMIC_RELAXED);
}

static void load_without_lock(struct actor *me) {
    const uint32_t granule = random_below(me, HOT);
    struct granule value;
    value.address = __atomic_load_n(&hot_data(granule)->address, __ATOMIC_RELAXED);
    value.metadata = __atomic_load_n(&hot_data(granule)->metadata, __ATOMIC_RELAXED);
    judge(me, granule, value, true, 0);
}

/* Settled ---------------------------------------------------------------------------------------------------------- */

/* The first stores a capability; the second does this to the same granule at the same time. */
enum contender { STORES, WRITES_DATA, WRITES_FULL, WRITES_READING, WRITES_RAW, LOOKS, CONTENDERS };

static const char *const contender_names[CONTENDERS] = {"store",     "data write", "write", "write with read-only tags",
                                                        "raw store", "load"};

/* What both know of a round, from its number alone. */
struct round {
    enum contender contender;
    uint32_t granule;
    uint32_t value; /* numbers of two values */
    uint32_t other;
    uint8_t byte; /* what a write puts into the address: one, because more are not promised to stay together */
};

static struct round plan(uint64_t seed, uint64_t number) {
    struct actor dice = {.random = seed ^ number * UINT64_C(0xd1342543de82ef95)};
    struct round round = {.contender = random_below(&dice, CONTENDERS), .granule = random_below(&dice, HOT)};
    round.value = random_below(&dice, STORED_SETS) * HOT + round.granule;
    round.other = random_below(&dice, STORED_SETS) * HOT + round.granule;
    round.byte = (uint8_t)random_word(&dice) | 1; /* no value has an odd address */
    return round;
}

static void hesitate(struct actor *me) {
    for (uint32_t turn = random_below(me, 48); turn > 0; turn--)
        __asm__ volatile("" ::: "memory");
}

static void write_raw(const struct round *round) {
    __atomic_store_n((uint8_t *)hot_data(round->granule), round->byte, __ATOMIC_RELAXED);
}

static void contend(struct actor *me, const struct round *round) {
    static const enum authority writers[CONTENDERS] = {
        [WRITES_DATA] = DATA, [WRITES_FULL] = FULL, [WRITES_READING] = READING};
    const uint64_t offset = hot_offset(round->granule);
    if (round->contender == STORES)
        expect(capshm_store(authorities + FULL, offset, values + round->other), "store");
    else if (round->contender == LOOKS)
        expect(capshm_load(authorities + FULL, offset, me->into), "load");
    else if (round->contender == WRITES_RAW)
        write_raw(round);
    else
        expect(capshm_write(authorities + writers[round->contender], offset, &round->byte, 1), "write");
}

/* Both orders, and what each leaves. */
static bool is_explained(const struct round *round, struct granule left, bool tag) {
    const bool is_value = left.address == words[round->value].address && left.metadata == words[round->value].metadata;
    const bool is_other = left.address == words[round->other].address && left.metadata == words[round->other].metadata;
    const bool is_written = left.address == (words[round->value].address & ~(uint64_t)0xff) + round->byte &&
                            left.metadata == words[round->value].metadata;
    switch (round->contender) {
    case STORES:
        return tag && (is_value || is_other);
    case LOOKS:
        return tag && is_value;
    default:
        return tag ? is_value : is_written;
    }
}

static void play_first(struct actor *me, uint64_t seed, uint64_t rounds) {
    for (uint64_t number = 1; number <= rounds; number++) {
        const struct round round = plan(seed, number);
        const uint64_t offset = hot_offset(round.granule);
        if (round.contender == LOOKS) /* at something that is to be scrubbed */
            write_raw(&round);
        atomic_store(&run->begun, number);
        hesitate(me);
        expect(capshm_store(authorities + FULL, offset, values + round.value), "store");
        wait_for_turn(&run->done, number);
        struct capability_register held;
        expect(capshm_load(authorities + FULL, offset, me->into), "load");
        expect(capshm_inspect(me->into, &held), "inspect");
        const bool tag = held.rights & RIGHT_TAG;
        if (!is_explained(&round, held.value, tag)) {
            if (me->counts.lost + me->counts.forged == 0)
                fprintf(stderr, "round %llu, seed %llu: a store beside a %s left a granule that no order explains\n",
                        (unsigned long long)number, (unsigned long long)seed, contender_names[round.contender]);
            me->counts.lost += !tag;
            me->counts.forged += tag;
        }
        me->counts.loads++;
        me->counts.tagged += tag;
        atomic_store_explicit(&run->progress, number, memory_order_relaxed);
    }
}

static void play_second(struct actor *me, uint64_t seed, uint64_t rounds) {
    for (uint64_t number = 1; number <= rounds; number++) {
        const struct round round = plan(seed, number);
        wait_for_turn(&run->begun, number);
        hesitate(me);
        contend(me, &round);
        atomic_store(&run->done, number);
    }
}

/* Processes -------------------------------------------------------------------------------------------------------- */

static bool is_loader(enum role role) {
    return role == LOADER || role == CONTROL_LOADER;
}

static void act(struct actor *me, enum role role, uint32_t number) {
    switch (role) {
    case STORER:
        store_values(me);
        break;
    case OVERWRITER:
        overwrite(me);
        break;
    case WRITER: /* with all permissions, with read-only tag lines, or with data only */
        (random_below(me, 4) == 0 ? write_same : write_bytes)(me, (enum authority)random_below(me, AUTHORITIES));
        break;
    case SWEEPER:
        if (random_below(me, BATCH) == 0)
            sweep_values(me, SWEEP_AUTOMATIC);
        store_values(me);
        break;
    case LOADER:
        load_values(me, number % 2 == 0 ? FULL : READING);
        break;
    case CONTROL_STORER:
        store_without_lock(me);
        break;
    case CONTROL_LOADER:
        load_without_lock(me);
        break;
    default:
        break;
    }
}

static bool is_done(const struct actor *me, enum role role, uint64_t loads) {
    if (role == CONTROL_LOADER && me->counts.torn == 0)
        loads *= 1000;
    return is_loader(role) ? me->counts.loads >= loads : atomic_load_explicit(&run->is_over, memory_order_relaxed) != 0;
}

/* loads: how many this process is to make, if it is one that loads; the others go on until the run is over. */
static void play(const struct mode *mode, uint32_t number, uint64_t loads, uint64_t seed) {
    struct actor me = make_actor(seed, number);
    me.is_always_tagged = mode->is_always_tagged;
    const enum role role = mode->roles[number];
    atomic_fetch_add(&run->ready, 1);
    while (!atomic_load(&run->is_going))
        sched_yield();
    if (role == FIRST)
        play_first(&me, seed, loads);
    else if (role == SECOND)
        play_second(&me, seed, loads);
    while (role != FIRST && role != SECOND && !is_done(&me, role, loads)) {
        const uint64_t before = me.counts.loads;
        for (uint32_t i = 0; i < BATCH; i++)
            act(&me, role, number);
        atomic_fetch_add_explicit(&run->progress, me.counts.loads - before, memory_order_relaxed);
    }
    run->counts[number] = me.counts;
}

struct child {
    pid_t pid;
    int handle;
};

static struct child start(const struct mode *mode, uint32_t number, uint64_t loads, uint64_t seed) {
    capshm_fork_before();
    const pid_t pid = fork();
    if (pid < 0)
        fail("cannot fork");
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        expect(capshm_fork_in_child(), "attach a child");
        play(mode, number, loads, seed);
        _exit(0);
    }
    capshm_fork_in_parent();
    return (struct child){pid, (int)syscall(SYS_pidfd_open, pid, 0)};
}

/* False: it failed, or nobody has made a load for too long; then it is killed. */
static bool finish(struct child child) {
    uint64_t progress = 0;
    uint32_t idle = 0;
    int status;
    struct pollfd ended = {.fd = child.handle, .events = POLLIN};
    while (poll(&ended, 1, 1000) == 0) {
        const uint64_t now = atomic_load(&run->progress);
        idle = now == progress ? idle + 1 : 0;
        progress = now;
        if (idle == PATIENCE) {
            fprintf(stderr, "process %d has not ended, and nothing moves\n", child.pid);
            kill(child.pid, SIGKILL);
        }
    }
    close(child.handle);
    return waitpid(child.pid, &status, 0) == child.pid && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/* True if all went as it must. */
static bool run_mode(const struct mode *mode, uint64_t loads, uint64_t seed) {
    struct child children[MOST_ACTORS];
    uint32_t actors = 0;
    uint32_t loaders = 0;
    bool is_fine = true;
    memset(run, 0, sizeof *run);
    expect(capshm_store_many(authorities + FULL, hot_offset(0), values, HOT), "first store");
    while (actors < MOST_ACTORS && mode->roles[actors] != NOBODY)
        loaders += is_loader(mode->roles[actors++]);
    for (uint32_t i = 0; i < actors; i++)
        children[i] = start(mode, i, loads / (loaders > 0 ? loaders : 1), seed);
    const uint64_t deadline = clock_now() + PATIENCE * UINT64_C(1000000000);
    while (atomic_load(&run->ready) != actors) {
        if (clock_now() > deadline)
            fail("only %u of %u processes have begun", atomic_load(&run->ready), actors); /* the others end with us */
        sched_yield();
    }
    atomic_store(&run->is_going, 1);
    for (uint32_t i = actors; i-- > 0;) { /* loaders come last in the table, and end by themselves */
        if (!is_loader(mode->roles[i]))
            atomic_store(&run->is_over, 1);
        is_fine = finish(children[i]) && is_fine;
    }
    struct counts sum = {0};
    for (uint32_t i = 0; i < actors; i++)
        counts_add(&sum, &run->counts[i]);
    counts_print(mode->name, seed, actors, &sum);
    return is_fine && is_violated(&sum) == (mode->roles[0] == CONTROL_STORER);
}

int main(int argument_count, char **arguments) {
    const char *const name = argument_count > 1 ? arguments[1] : NULL;
    const uint64_t loads = argument_count > 2 ? strtoull(arguments[2], NULL, 0) : SHORT_RUN;
    const uint64_t seed = argument_count > 3 ? strtoull(arguments[3], NULL, 0) : clock_now();
    bool is_known = false;
    bool is_fine = true;
    run = mmap(NULL, sizeof *run, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (run == MAP_FAILED)
        fail("no memory");
    revoked = &run->revoked;
    set_up();
    for (uint32_t i = 0; i < sizeof modes / sizeof *modes; i++) {
        if (name != NULL && strcmp(name, modes[i].name) != 0)
            continue;
        is_known = true;
        is_fine = run_mode(&modes[i], loads, seed) && is_fine;
    }
    if (!is_known)
        fail("there is no mode %s", name);
    return is_fine ? 0 : 1;
}
