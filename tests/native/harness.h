/* harness.h: what litmus.c and threads.c share: one object, values that describe themselves, and those who use them.
 *
 * Everybody works on the same eight granules in a row, four at the end of one tag line and four at the beginning of the
 * next: the same granule, neighbours in a line, and another line are all met at random, and runs cross the border.
 *
 * Value k is a capability for the 64 bytes at the object's begin + 64 * k, so the address decides the metadata, and a
 * mixture of two values is no value. It belongs to granule k % 8. Three quarters of the values are stored as
 * capabilities; the rest are forgeries, written by raw stores only, and may never be seen with a tag.
 */
#ifndef CAPSHM_TESTS_HARNESS_H
#define CAPSHM_TESTS_HARNESS_H

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "capshm.h"
#include "clock.h"

#define ARENA UINT64_C(0x550000000000)

enum {
    OBJECT_SIZE = 1 << 16,
    HOT = 8,
    FIRST_HOT = LINE_GRANULES - HOT / 2,
    VALUES = 256,
    VALUE_SIZE = 64,
    SETS = VALUES / HOT, /* set s holds one value for each granule */
    STORED_SETS = SETS * 3 / 4,
    LARGEST_WRITE = 40,
    PATIENCE = 120, /* seconds until something that must happen has not happened */
    MOST_REVOKED = STORED_SETS * HOT / 2, /* the other half of the values lives for ever */
};

/* The same object, mapped with all permissions; with tag lines that can only be read; and without capabilities. */
enum authority { FULL, READING, DATA, AUTHORITIES };

static const uint32_t page_permissions[AUTHORITIES] = {
    [FULL] = PAGE_READ | PAGE_WRITE | PAGE_LOAD_CAP | PAGE_STORE_CAP,
    [READING] = PAGE_READ | PAGE_WRITE | PAGE_LOAD_CAP,
    [DATA] = PAGE_READ | PAGE_WRITE,
};

static uint32_t authorities; /* the first register of AUTHORITIES */
static uint32_t values;      /* the first register of VALUES */
static struct granule words[VALUES];

/* How many values have been revoked. They go in order, the first value first. */
static _Atomic uint32_t *revoked;

struct counts {
    uint64_t loads;
    uint64_t tagged;
    uint64_t torn;   /* no value, where only values are written, or with a tag */
    uint64_t forged; /* a value with a tag that was never stored there as a capability, or was revoked */
    uint64_t lost;   /* no tag, where only tagged values are written */
    uint64_t sweeps;
    uint64_t swept; /* tags that sweeps took from memory and registers */
};

/* One thread's means. */
struct actor {
    uint64_t random;
    uint32_t into; /* the first of HOT registers of its own */
    bool is_always_tagged;
    bool do_values_move; /* to other granules than their own */
    struct counts counts;
};

static inline void __attribute__((noreturn, format(printf, 1, 2))) fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "process %d: ", getpid());
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    _exit(2); /* not 1, which says that something was found */
}

/* What no order of the operations explains. */
static inline void __attribute__((noreturn)) violated(const char *what) {
    fprintf(stderr, "process %d: %s\n", getpid(), what);
    _exit(1);
}

static inline void expect(enum status status, const char *what) {
    if (status != STATUS_OK)
        fail("%s: status %d, address %#llx, process %d", what, status, (unsigned long long)capshm_fault()->address,
             capshm_fault()->pid);
}

static inline uint64_t random_word(struct actor *me) { /* splitmix64 */
    uint64_t value = me->random += UINT64_C(0x9e3779b97f4a7c15);
    value = (value ^ value >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    value = (value ^ value >> 27) * UINT64_C(0x94d049bb133111eb);
    return value ^ value >> 31;
}

static inline uint32_t random_below(struct actor *me, uint32_t limit) {
    return (uint32_t)(random_word(me) >> 32) % limit;
}

/* Set-up ----------------------------------------------------------------------------------------------------------- */

static inline uint64_t map_file(uint64_t address, uint64_t size, int file, bool is_writable) {
    expect(capshm_map_memory(&address, size, file, 0, is_writable), "map memory");
    return address;
}

static inline int memory_file(uint64_t size) {
    const int file = memfd_create("capshm-harness", MFD_CLOEXEC);
    if (file < 0 || ftruncate(file, (off_t)size) != 0)
        fail("no memory file");
    return file;
}

/* Maps the object three times, makes the values, and stores one into each granule. */
static inline void set_up(void) {
    expect(capshm_attach(ARENA, UINT64_C(1) << 30, -1), "attach");
    capshm_set_lock_timeout(UINT64_C(120) * 1000000000); /* a busy machine may leave a holder waiting for long */
    expect(capshm_reserve(AUTHORITIES, &authorities), "reserve");
    expect(capshm_reserve(VALUES, &values), "reserve");
    const int data = memory_file(OBJECT_SIZE);
    const int tags = memory_file(PAGE_BYTES + OBJECT_SIZE);
    const int clear = memory_file(PAGE_BYTES);
    const uint32_t object = capshm_new_object();
    for (uint32_t number = 0; number < AUTHORITIES; number++) {
        const uint64_t lines = number == DATA ? 0 : map_file(0, PAGE_BYTES + OBJECT_SIZE, tags, number == FULL);
        const struct capshm_mapping mapping = {
            .address = map_file(ARENA + number * 2 * OBJECT_SIZE, OBJECT_SIZE, data, true),
            .length = OBJECT_SIZE,
            .lines = lines,
            .twins = lines + OBJECT_SIZE / 64,
            .clear = map_file(0, PAGE_BYTES, clear, true),
            .object = object,
            .permissions = page_permissions[number],
            .is_lines_writable = number == FULL,
            .is_exclusive = true,
        };
        expect(capshm_map(&mapping), "map");
        expect(capshm_make(authorities + number, mapping.address, METADATA_ROOT, true), "make");
        expect(capshm_with_bounds(authorities + number, OBJECT_SIZE, true, authorities + number), "narrow");
    }
    for (uint32_t k = 0; k < VALUES; k++) {
        struct capability_register held;
        expect(capshm_with_permissions(authorities + FULL, ~(uint32_t)PERMISSION_SW_VMEM, values + k), "restrict");
        expect(capshm_with_increment(values + k, k * VALUE_SIZE, values + k), "move");
        expect(capshm_with_bounds(values + k, VALUE_SIZE, true, values + k), "narrow");
        expect(capshm_inspect(values + k, &held), "inspect");
        words[k] = held.value;
        for (uint32_t other = 0; other < k; other++) {
            if (words[other].metadata == words[k].metadata)
                fail("values %u and %u have the same metadata", other, k);
        }
    }
    expect(capshm_store_many(authorities + FULL, FIRST_HOT * GRANULE_SIZE, values, HOT), "first store");
}

static inline struct actor make_actor(uint64_t seed, uint32_t number) {
    struct actor actor = {.random = seed ^ (uint64_t)(number + 1) << 48};
    expect(capshm_reserve(HOT, &actor.into), "reserve");
    return actor;
}

/* What actors do --------------------------------------------------------------------------------------------------- */

static inline uint64_t hot_offset(uint32_t granule) {
    return (uint64_t)(FIRST_HOT + granule) * GRANULE_SIZE;
}

/* Where a stranger sees the granule. */
static inline struct granule *hot_data(uint32_t granule) {
    return (struct granule *)(ARENA + hot_offset(granule));
}

/* The register of the value of a set that belongs to a granule. */
static inline uint32_t value_for(uint32_t set, uint32_t granule) {
    return values + set * HOT + granule;
}

/* One granule most of the time, else a run of them. */
static inline uint32_t random_run(struct actor *me, uint32_t first) {
    return random_below(me, 4) == 0 ? 1 + random_below(me, HOT - first) : 1;
}

static inline void store_values(struct actor *me) {
    const uint32_t first = random_below(me, HOT);
    const uint32_t count = random_run(me, first);
    /* Often what goes next, so that sweeps find it. */
    const uint32_t next = atomic_load_explicit(revoked, memory_order_relaxed) / HOT;
    const uint32_t value = value_for(random_below(me, 2) == 0 ? next : random_below(me, STORED_SETS), first);
    if (count == 1)
        expect(capshm_store(authorities + FULL, hot_offset(first), value), "store");
    else
        expect(capshm_store_many(authorities + FULL, hot_offset(first), value, count), "store many");
}

/* Half a granule past the core: a pattern, or half of any value, forgeries included. */
static inline void overwrite(struct actor *me) {
    struct granule *const granule = hot_data(random_below(me, HOT));
    const struct granule *const value = &words[random_below(me, VALUES)];
    const bool is_pattern = random_below(me, 2) == 0;
    if (random_below(me, 2) == 0)
        __atomic_store_n(&granule->address, is_pattern ? random_word(me) : value->address, __ATOMIC_RELAXED);
    else
        __atomic_store_n(&granule->metadata, is_pattern ? random_word(me) : value->metadata, __ATOMIC_RELAXED);
}

/* Any bytes, at any alignment, through the core. */
static inline void write_bytes(struct actor *me, enum authority authority) {
    char bytes[LARGEST_WRITE];
    const uint32_t length = 1 + random_below(me, LARGEST_WRITE);
    const uint32_t offset = random_below(me, HOT * GRANULE_SIZE - length);
    for (uint32_t i = 0; i < length; i++)
        bytes[i] = (char)random_word(me);
    expect(capshm_write(authorities + authority, hot_offset(0) + offset, bytes, length), "write");
}

/* The bytes that are there, once more. */
static inline void write_same(struct actor *me, enum authority authority) {
    struct granule same;
    const uint64_t offset = hot_offset(random_below(me, HOT));
    expect(capshm_read(authorities + authority, offset, &same, sizeof same), "read");
    expect(capshm_write(authorities + authority, offset, &same, sizeof same), "write the same");
}

/* Which value these words are; VALUES if none. */
static inline uint32_t recognize(struct granule value) {
    const uint64_t distance = value.address - ARENA;
    const uint64_t k = distance / VALUE_SIZE;
    return distance % VALUE_SIZE == 0 && k < VALUES && words[k].metadata == value.metadata ? (uint32_t)k : VALUES;
}

/* revoked_before: how many values had been revoked when the load began. */
static inline void judge(struct actor *me, uint32_t granule, struct granule value, bool tag, uint32_t revoked_before) {
    const uint32_t k = recognize(value);
    const bool is_stored = k < STORED_SETS * HOT && (me->do_values_move || k % HOT == granule);
    me->counts.loads++;
    me->counts.tagged += tag;
    me->counts.torn += k == VALUES && (tag || me->is_always_tagged);
    me->counts.forged += tag && k < VALUES && (!is_stored || k < revoked_before);
    me->counts.lost += !tag && me->is_always_tagged;
}

static inline void load_values(struct actor *me, enum authority authority) {
    const uint32_t first = random_below(me, HOT);
    const uint32_t count = random_run(me, first);
    const uint32_t revoked_before = atomic_load(revoked);
    if (count == 1)
        expect(capshm_load(authorities + authority, hot_offset(first), me->into), "load");
    else
        expect(capshm_load_many(authorities + authority, hot_offset(first), me->into, count), "load many");
    for (uint32_t i = 0; i < count; i++) {
        struct capability_register held;
        expect(capshm_inspect(me->into + i, &held), "inspect");
        judge(me, first + i, held.value, held.rights & RIGHT_TAG, revoked_before);
    }
}

/* Revokes one value more, as long as there are any to revoke; a second pass must find what the first left, and nothing
 * to clear. */
static inline void sweep_values(struct actor *me, enum sweep_kernel kernel) {
    const uint32_t next = atomic_load(revoked);
    struct sweep_counts memory[2] = {0};
    struct sweep_counts registers[2] = {0};
    int32_t straggler;
    size_t stragglers;
    if (next < MOST_REVOKED)
        expect(capshm_paint(values + next, true), "paint");
    if (capshm_gate_close(PATIENCE * UINT64_C(1000000000), &straggler, 1, &stragglers) != STATUS_OK)
        fail("process %d stays inside an operation", straggler);
    for (uint32_t pass = 0; pass < 2; pass++) {
        expect(capshm_sweep_memory(ARENA, OBJECT_SIZE, kernel, &memory[pass]), "sweep memory");
        expect(capshm_sweep_registers(&registers[pass]), "sweep registers");
    }
    capshm_gate_open(true);
    if (memory[1].cleared != 0 || memory[1].found != memory[0].found - memory[0].cleared || registers[1].cleared != 0 ||
        registers[1].found != registers[0].found - registers[0].cleared)
        violated("something painted was left by a sweep");
    if (next < MOST_REVOKED)
        atomic_store(revoked, next + 1);
    me->counts.sweeps++;
    me->counts.swept += memory[0].cleared + registers[0].cleared;
}

static inline void counts_add(struct counts *sum, const struct counts *counts) {
    sum->loads += counts->loads;
    sum->tagged += counts->tagged;
    sum->torn += counts->torn;
    sum->forged += counts->forged;
    sum->lost += counts->lost;
    sum->sweeps += counts->sweeps;
    sum->swept += counts->swept;
}

static inline void counts_print(const char *mode, uint64_t seed, uint32_t actors, const struct counts *counts) {
    printf("{\"mode\": \"%s\", \"seed\": %llu, \"actors\": %u, \"loads\": %llu, \"tagged\": %llu, \"torn\": %llu, "
           "\"forged\": %llu, \"lost\": %llu, \"sweeps\": %llu, \"swept\": %llu}\n",
           mode, (unsigned long long)seed, actors, (unsigned long long)counts->loads,
           (unsigned long long)counts->tagged, (unsigned long long)counts->torn, (unsigned long long)counts->forged,
           (unsigned long long)counts->lost, (unsigned long long)counts->sweeps, (unsigned long long)counts->swept);
    fflush(stdout);
}

static inline bool is_violated(const struct counts *counts) {
    return counts->torn != 0 || counts->forged != 0 || counts->lost != 0;
}

#endif
