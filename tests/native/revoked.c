/* revoked.c: a revocation beside one operation of another process on what it revokes, round after round.
 *
 * Usage: revoked [ROUNDS [FORKS [SEED]]]. FORKS: of so many rounds one is a fork, which costs a thousand times as much.
 * Prints a JSON object, the seed in it. Exits with 1 if an outcome was seen that is forbidden.
 *
 * Before each round value V lies in granule 0, and in a register of the second process; value K, which nobody paints,
 * lies in granule 1 and in another of its registers. Then at once
 *
 *     the first                          the second, one of
 *     paint V                            load     register 2 = granule 0
 *     close the gate, sweep, open it     store    granule 2 = register of V
 *                                        move     register 2 = register of V, derived
 *                                        fork     a child has both
 *
 * When both are done, forbidden are
 *
 *     V with its tag in granule 0 or 2, as either process loads it
 *     V with its tag in any register of the second process, or of its child
 *     K without its tag, anywhere
 */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "harness.h"

enum { LOADS, STORES, MOVES, FORKS, OPERATIONS };
enum { V_PLACE, K_PLACE, COPY_PLACE };
enum { V_HELD, K_HELD, COPY_HELD, LOOKED_AT, HELD };

static const char *const names[OPERATIONS] = {"load", "store", "move", "fork"};

/* What the processes share. The numbers of rounds. */
static struct rounds {
    _Alignas(64) _Atomic uint64_t prepared;
    _Alignas(64) _Atomic uint64_t ready;
    _Alignas(64) _Atomic uint64_t begun;
    _Alignas(64) _Atomic uint64_t revoked;
    _Alignas(64) _Atomic uint64_t done;
    _Atomic uint64_t counts[OPERATIONS];
    _Atomic uint64_t beside; /* operations that were done before the revocation was */
} *rounds;

static void await(const _Atomic uint64_t *counter, uint64_t value) {
    for (uint32_t turn = 0; atomic_load(counter) < value; turn++) {
        if (turn % 256 == 255)
            sched_yield(); /* the other one may wait for this processor */
        else
            clock_relax();
    }
}

/* Where two run at once for nanoseconds, and where one runs only when the other gives up the processor. */
static void hesitate(struct actor *me) {
    if (random_below(me, 2) == 0)
        sched_yield();
    for (uint32_t turn = random_below(me, 2000); turn > 0; turn--)
        __asm__ volatile("" ::: "memory");
}

static bool has_tag(uint32_t held) {
    uint32_t tag;
    expect(capshm_tag(held, &tag), "look");
    return tag;
}

static void check(bool is_explained, const char *operation, const char *what, uint64_t round) {
    if (is_explained)
        return;
    fprintf(stderr, "round %llu, %s: ", (unsigned long long)round, operation);
    violated(what);
}

static void check_memory(struct actor *me, const char *operation, uint64_t round) {
    static const bool is_kept[] = {[V_PLACE] = false, [K_PLACE] = true, [COPY_PLACE] = false};
    for (uint32_t place = V_PLACE; place <= COPY_PLACE; place++) {
        expect(capshm_load(authorities + FULL, hot_offset(place), me->into + LOOKED_AT), "load");
        check(has_tag(me->into + LOOKED_AT) == is_kept[place], operation,
              is_kept[place] ? "K was lost from memory" : "V has its tag in memory", round);
    }
}

static void check_registers(struct actor *me, const char *operation, uint64_t round) {
    check(!has_tag(me->into + V_HELD), operation, "V has its tag in the register that had it", round);
    check(!has_tag(me->into + COPY_HELD), operation, "V has its tag in the register that got it", round);
    check(has_tag(me->into + K_HELD), operation, "K was lost from a register", round);
}

/* What both know of a round from its number. */
static uint32_t operation_of(uint64_t seed, uint64_t round, uint64_t forks) {
    struct actor dice = {.random = seed ^ round * UINT64_C(0xd1342543de82ef95)};
    return random_word(&dice) % forks == 0 ? FORKS : random_below(&dice, FORKS);
}

/* V and K are the same registers each time, made anew: the last round has taken the tag. */
static void prepare(void) {
    for (uint32_t k = V_PLACE; k <= K_PLACE; k++) {
        expect(capshm_with_permissions(authorities + FULL, ~(uint32_t)PERMISSION_SW_VMEM, values + k), "restrict");
        expect(capshm_with_increment(values + k, (k + 1) * VALUE_SIZE, values + k), "move");
        expect(capshm_with_bounds(values + k, VALUE_SIZE, true, values + k), "narrow");
        expect(capshm_store(authorities + FULL, hot_offset(k), values + k), "store");
    }
    const uint64_t nothing[2] = {0};
    expect(capshm_write(authorities + FULL, hot_offset(COPY_PLACE), nothing, sizeof nothing), "write");
}

static void make_pass(struct actor *me) {
    struct sweep_counts counts = {0};
    int32_t straggler;
    size_t stragglers;
    expect(capshm_paint(values + V_PLACE, true), "paint");
    hesitate(me);
    if (capshm_gate_close(PATIENCE * UINT64_C(1000000000), &straggler, 1, &stragglers) != STATUS_OK)
        fail("process %d stays inside an operation", straggler);
    hesitate(me);
    expect(capshm_sweep_memory(ARENA, OBJECT_SIZE, SWEEP_AUTOMATIC, &counts), "sweep memory");
    expect(capshm_sweep_registers(&counts), "sweep registers");
    hesitate(me);
    capshm_gate_open(true);
}

static void play_first(uint64_t seed, uint64_t count, uint64_t forks) {
    struct actor me = make_actor(seed, 0);
    for (uint64_t round = 1; round <= count; round++) {
        prepare();
        atomic_store(&rounds->prepared, round);
        await(&rounds->ready, round);
        atomic_store(&rounds->begun, round);
        hesitate(&me);
        make_pass(&me);
        atomic_store(&rounds->revoked, round);
        await(&rounds->done, round);
        check_memory(&me, names[operation_of(seed, round, forks)], round);
        expect(capshm_paint(values + V_PLACE, false), "clear paint");
    }
}

static pid_t fork_here(void) {
    capshm_fork_before();
    const pid_t pid = fork();
    if (pid < 0)
        fail("cannot fork");
    if (pid > 0) {
        capshm_fork_in_parent();
        return pid;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    expect(capshm_fork_in_child(), "attach a child");
    return 0;
}

static pid_t contend(struct actor *me, uint32_t operation, uint64_t round) {
    pid_t child = -1;
    if (operation == LOADS) {
        expect(capshm_load(authorities + FULL, hot_offset(V_PLACE), me->into + COPY_HELD), "load");
    } else if (operation == STORES) {
        expect(capshm_store(authorities + FULL, hot_offset(COPY_PLACE), me->into + V_HELD), "store");
    } else if (operation == MOVES) {
        expect(capshm_with_increment(me->into + V_HELD, 1, me->into + COPY_HELD), "move");
    } else {
        child = fork_here();
        if (child == 0) {
            await(&rounds->revoked, round);
            check_registers(me, "fork, in the child", round);
            check_memory(me, "fork, in the child", round);
            _exit(0);
        }
    }
    return child;
}

static void play_second(uint64_t seed, uint64_t count, uint64_t forks) {
    struct actor me = make_actor(seed, 1);
    for (uint64_t round = 1; round <= count; round++) {
        const uint32_t operation = operation_of(seed, round, forks);
        await(&rounds->prepared, round);
        expect(capshm_load_many(authorities + FULL, hot_offset(V_PLACE), me.into + V_HELD, 2), "load both");
        expect(capshm_without_tag(me.into + V_HELD, me.into + COPY_HELD), "clear");
        check(has_tag(me.into + V_HELD) && has_tag(me.into + K_HELD), names[operation], "V or K is not there", round);
        atomic_store(&rounds->ready, round);
        await(&rounds->begun, round);
        hesitate(&me);
        const pid_t child = contend(&me, operation, round);
        atomic_fetch_add(&rounds->beside, atomic_load(&rounds->revoked) < round);
        await(&rounds->revoked, round);
        check_registers(&me, names[operation], round);
        int status = 0;
        if (child > 0 && (waitpid(child, &status, 0) != child || status != 0))
            violated("the child has seen it");
        atomic_fetch_add(&rounds->counts[operation], 1);
        atomic_store(&rounds->done, round);
    }
}

int main(int argument_count, char **arguments) {
    const uint64_t count = argument_count > 1 ? strtoull(arguments[1], NULL, 0) : 2000;
    const uint64_t forks = argument_count > 2 ? strtoull(arguments[2], NULL, 0) : 50;
    const uint64_t seed = argument_count > 3 ? strtoull(arguments[3], NULL, 0) : clock_now();
    if (forks == 0)
        fail("of no rounds none is a fork");
    rounds = mmap(NULL, sizeof *rounds, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (rounds == MAP_FAILED)
        fail("no memory");
    set_up();
    const pid_t second = fork_here();
    if (second == 0) {
        play_second(seed, count, forks);
        _exit(0);
    }
    const pid_t first = fork_here();
    if (first == 0) {
        play_first(seed, count, forks);
        _exit(0);
    }
    int status = 0;
    const pid_t ended = wait(&status); /* one that has found something ends, and the other with us */
    bool is_fine = WIFEXITED(status) && WEXITSTATUS(status) == 0;
    if (is_fine)
        is_fine =
            waitpid(ended == first ? second : first, &status, 0) > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0;
    printf("{\"seed\": %llu, \"rounds\": %llu, \"beside\": %llu", (unsigned long long)seed, (unsigned long long)count,
           (unsigned long long)atomic_load(&rounds->beside));
    for (uint32_t i = 0; i < OPERATIONS; i++)
        printf(", \"%s\": %llu", names[i], (unsigned long long)atomic_load(&rounds->counts[i]));
    printf("}\n");
    return is_fine ? 0 : 1;
}
