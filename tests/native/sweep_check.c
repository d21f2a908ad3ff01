/* sweep_check.c: every sweep kernel that this machine can run, against a loop that shares nothing with them.
 *
 * Usage: sweep_check [SEED [TRIALS]]. Prints its seed; exits with 1 and a message at the first difference.
 *
 * Each trial makes an object of random size, tags, capabilities and shadow, and asks for the same tags and counts from
 * each kernel. What a sweep must not do is forbidden by page protection, so that a build without sanitizers finds
 * it as well: twins are read-only, pages of twins without a tag cannot be read, and lines, twins and shadow end at a
 * page that is not there.
 */
#define _GNU_SOURCE
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "sweep.h"

enum { MOST_LINES = 600, MOST_WORDS = 512, PAGE_LINES = PAGE_BYTES / (LINE_GRANULES * GRANULE_SIZE) };

static unsigned long long seed;
static unsigned long trial;
static uint64_t random_state;

static uint64_t random_word(void) { /* splitmix64 */
    uint64_t value = random_state += UINT64_C(0x9e3779b97f4a7c15);

    value = (value ^ value >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    value = (value ^ value >> 27) * UINT64_C(0x94d049bb133111eb);
    return value ^ value >> 31;
}

static uint64_t random_below(uint64_t limit) {
    return limit ? random_word() % limit : 0;
}

static void __attribute__((noreturn, format(printf, 1, 2))) fail(const char *format, ...) {
    va_list arguments;

    fprintf(stderr, "sweep_check: seed %llu, trial %lu: ", seed, trial);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(1);
}

/* Zeroed memory of `size` bytes that ends where the address space has a hole. */
static void *allocate_before_hole(size_t size) {
    const size_t whole = (size + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
    char *memory = mmap(NULL, whole + PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (memory == MAP_FAILED || mprotect(memory + whole, PAGE_BYTES, PROT_NONE) != 0)
        fail("no memory");
    return memory + whole - size;
}

/* The base by the letter of the ISA (ISAv9, getCapBounds): comparisons and a correction, in 128 bits. */
static uint64_t naive_base(uint64_t address, uint64_t metadata) {
    const uint64_t raw = metadata ^ UINT64_C(0x00001ffffc018004);
    unsigned bottom = raw & 0x3fff;
    unsigned exponent = 0;

    if (raw >> 26 & 1) {
        exponent = (unsigned)(raw >> 14 & 7) * 8 + (unsigned)(raw & 7);
        if (exponent > 52)
            exponent = 52;
        bottom -= bottom % 8;
    }
    const unsigned __int128 wide = address;
    const unsigned middle = (unsigned)(wide >> (exponent + 11)) % 8;
    const unsigned edge = (bottom / 2048 + 7) % 8;
    const int bottom_wraps = bottom / 2048 < edge;
    const int address_wraps = middle < edge;
    const unsigned __int128 upper = (wide >> (exponent + 14)) + (unsigned __int128)(bottom_wraps - address_wraps);
    return (uint64_t)((upper << 14 | bottom) << exponent);
}

static bool naive_revokes(const struct shadow *shadow, struct granule value) {
    const uint64_t base = naive_base(value.address, value.metadata);

    if (value.metadata >> 61 & 1) /* SW_VMEM */
        return false;
    if ((value.metadata >> 49 & 0x3f) == 0) /* X, R, W, load-cap, store-cap, store-local */
        return false;
    if (base < shadow->first || base >= shadow->limit)
        return false;
    const uint64_t bit = (base - shadow->first) / 16;
    return shadow->bits[bit / 64] >> bit % 64 & 1;
}

/* A capability that means to have this base; what it does have, naive_base says. (One random word a statement: the
 * order inside an expression is the compiler's, and a seed must give the same everywhere.) */
static struct granule capability_near(uint64_t base) {
    struct granule value;
    uint64_t raw;

    if (random_below(2)) {
        value.address = base + random_below(4096);
        raw = (base & 0x3fff) | random_below(4096) << 14;
    } else {
        const unsigned exponent = (unsigned)random_below(random_below(8) ? 12 : 64);
        const unsigned shift = exponent > 52 ? 52 : exponent;
        value.address = base + (random_below(4096) << shift);
        raw = (base >> shift & 0x3ff8) | (exponent & 7) | ((random_word() & 0xff8) | exponent >> 3) << 14 | 1 << 26;
    }
    raw |= (random_below(4) ? UINT64_C(0x3ffff) : random_below(0x40000)) << 27; /* sealed or not: no difference */
    uint64_t permissions = random_below(3) ? 0x7f : random_word() & 0xfff;
    if (random_below(8) == 0)
        permissions = random_below(2) ? UINT64_C(1) << random_below(12) : random_word() & 0xf81;
    raw |= permissions << 48;
    raw |= (random_below(6) ? random_word() & 0xd : random_word() & 0xf) << 60;
    value.metadata = raw ^ UINT64_C(0x00001ffffc018004);
    return value;
}

static struct granule random_capability(const struct shadow *shadow) {
    const uint64_t size = shadow->limit - shadow->first;
    const uint64_t somewhere = random_word();
    const uint64_t inside = shadow->first + random_below(size);
    const uint64_t edge = random_below(2) ? shadow->first : shadow->limit;

    switch (random_below(16)) {
    case 0: /* malformed, most of them */
        return (struct granule){somewhere, random_word()};
    case 1:
        return (struct granule){inside, random_word()};
    case 2:
        return capability_near(somewhere & ~UINT64_C(15));
    case 3:
        return capability_near(edge + random_below(65) * 16 - 512);
    case 4:
        return (struct granule){0, 0};
    default:
        return capability_near(inside & ~UINT64_C(15));
    }
}

/* `percent` of bits are set, one by one or in runs. */
static void fill_bits(uint64_t *words, size_t count, unsigned percent, size_t run) {
    bool is_set = false;

    for (size_t bit = 0; bit < count; bit++) {
        if (bit % run == 0)
            is_set = random_below(100) < percent;
        uint64_t *word = &words[bit / 64];
        *word = (*word & ~(UINT64_C(1) << bit % 64)) | (uint64_t)is_set << bit % 64;
    }
}

static unsigned random_percent(void) {
    static const unsigned char usual[] = {0, 1, 3, 10, 50, 90, 99, 100};

    return random_below(3) ? usual[random_below(sizeof usual)] : (unsigned)random_below(101);
}

static size_t random_run(size_t most) {
    return random_below(2) ? 1 : 1 + random_below(most);
}

static struct shadow random_shadow(uint64_t *bits) {
    const size_t granules = random_below(8) ? 1 + random_below(MOST_WORDS * 64) : random_below(2);
    const size_t words = (granules + 63) / 64;
    struct shadow shadow = {.bits = granules ? bits + MOST_WORDS - words : NULL};

    switch (random_below(4)) {
    case 0:
        shadow.first = random_below(random_below(2) ? 4096 : 1) * 16;
        break;
    case 1:
        shadow.first = (random_below(2) ? ~UINT64_C(15) : UINT64_C(1) << 63) - granules * 16;
        break;
    default:
        shadow.first = UINT64_C(0x550000000000) + (random_below(UINT64_C(1) << 40) & ~UINT64_C(15));
    }
    if (shadow.first + granules * 16 < shadow.first)
        shadow.first = 0;
    shadow.limit = shadow.first + granules * 16;
    const unsigned percent = random_percent();
    if (granules) /* bits of the last word that stand for nothing are painted at random too */
        fill_bits(bits + MOST_WORDS - words, words * 64, percent, random_run(200));
    return shadow;
}

struct object {
    size_t line_count;
    struct tag_line *lines; /* as the kernels get them */
    struct granule *twins;
    uint64_t before[MOST_LINES];
    uint64_t after[MOST_LINES];
    struct sweep_counts counts; /* expected */
};

static void object_fill(struct object *object, const struct shadow *shadow, size_t run, unsigned percent) {
    object->counts = (struct sweep_counts){.lines = object->line_count};
    fill_bits(object->before, object->line_count * 64, percent, run);
    for (size_t granule = 0; granule < object->line_count * 64; granule++) {
        const uint64_t bit = UINT64_C(1) << granule % 64;
        struct granule *twin = &object->twins[granule];
        if (granule % 64 == 0)
            object->after[granule / 64] = object->before[granule / 64];
        *twin = random_capability(shadow);
        const bool revoked = naive_revokes(shadow, *twin);
        if (shadow_revokes(shadow, *twin) != revoked)
            fail("shadow_revokes(%#llx, %#llx) is not %d", (unsigned long long)twin->address,
                 (unsigned long long)twin->metadata, revoked);
        if (!(object->before[granule / 64] & bit))
            continue;
        object->counts.found++;
        object->counts.cleared += revoked;
        if (revoked)
            object->after[granule / 64] &= ~bit;
    }
}

/* Twins read-only, and not even that where a page has no tag. */
static void object_protect(struct object *object, int has_no_tag) {
    char *page = (char *)((uintptr_t)object->twins & ~(uintptr_t)(PAGE_BYTES - 1));
    char *end = (char *)(object->twins + object->line_count * LINE_GRANULES);

    for (; page < end; page += PAGE_BYTES) {
        const struct granule *from = (const struct granule *)(void *)page;
        const size_t first = from < object->twins ? 0 : (size_t)(from - object->twins) / LINE_GRANULES;
        const size_t limit = (size_t)(from + PAGE_BYTES / GRANULE_SIZE - object->twins) / LINE_GRANULES;
        uint64_t tags = 0;
        for (size_t line = first; line < limit; line++)
            tags |= object->before[line];
        if (mprotect(page, PAGE_BYTES, tags ? PROT_READ : has_no_tag) != 0)
            fail("mprotect");
    }
}

static void object_unprotect(const struct object *object) {
    char *page = (char *)((uintptr_t)object->twins & ~(uintptr_t)(PAGE_BYTES - 1));
    char *end = (char *)(object->twins + object->line_count * LINE_GRANULES);

    if (page < end && mprotect(page, (size_t)(end - page), PROT_READ | PROT_WRITE) != 0)
        fail("mprotect");
}

static const char *const kernel_names[] = {"automatic", "portable", "avx2", "avx512"};

static void check_counts(const char *kernel, const char *what, struct sweep_counts got, struct sweep_counts expected) {
    if (got.lines != expected.lines || got.found != expected.found || got.cleared != expected.cleared)
        fail("%s, %s: lines, found, cleared are %llu, %llu, %llu and should be %llu, %llu, %llu", kernel, what,
             (unsigned long long)got.lines, (unsigned long long)got.found, (unsigned long long)got.cleared,
             (unsigned long long)expected.lines, (unsigned long long)expected.found,
             (unsigned long long)expected.cleared);
}

static void check_kernel(const struct object *object, const struct shadow *shadow, enum sweep_kernel kernel) {
    const char *name = kernel_names[kernel];

    for (size_t i = 0; i < object->line_count; i++) {
        atomic_store(&object->lines[i].tags, object->before[i]);
        atomic_store(&object->lines[i].lock, ~object->before[i] ^ i);
    }
    struct sweep_counts counts = {1000, 2000, 3000}; /* is added to */
    sweep(object->lines, object->twins, object->line_count, shadow, kernel, &counts);
    for (size_t i = 0; i < object->line_count; i++) {
        const uint64_t tags = atomic_load(&object->lines[i].tags);
        if (tags != object->after[i])
            fail("%s: tags of line %zu of %zu are %#llx and should be %#llx", name, i, object->line_count,
                 (unsigned long long)tags, (unsigned long long)object->after[i]);
        if (atomic_load(&object->lines[i].lock) != (~object->before[i] ^ i))
            fail("%s: wrote to the lock of line %zu", name, i);
    }
    struct sweep_counts expected = object->counts;
    counts = (struct sweep_counts){counts.lines - 1000, counts.found - 2000, counts.cleared - 3000};
    check_counts(name, "first pass", counts, expected);
    counts = (struct sweep_counts){0};
    sweep(object->lines, object->twins, object->line_count, shadow, kernel, &counts);
    expected.found -= expected.cleared;
    expected.cleared = 0;
    check_counts(name, "second pass", counts, expected);
}

static void check_kernels(const struct object *object, const struct shadow *shadow) {
    for (enum sweep_kernel kernel = SWEEP_AUTOMATIC; kernel <= SWEEP_AVX512; kernel++)
        if (sweep_kernel_is_available(kernel))
            check_kernel(object, shadow, kernel);
}

static void check_random_object(struct object *object, uint64_t *bits, void *lines_end, void *twins_end) {
    const size_t runs[] = {1, 1, 7, 64, 64 * PAGE_LINES, 64 * 3 * PAGE_LINES};
    const struct shadow shadow = random_shadow(bits);

    object->line_count = random_below(3) ? random_below(MOST_LINES + 1) : random_below(20);
    object->lines = (struct tag_line *)lines_end - object->line_count;
    object->twins = (struct granule *)twins_end - object->line_count * LINE_GRANULES;
    const size_t run = runs[random_below(sizeof runs / sizeof *runs)];
    object_fill(object, &shadow, run, random_percent());
    object_protect(object, random_below(2) ? PROT_NONE : PROT_READ);
    check_kernels(object, &shadow);
    object_unprotect(object);
}

/* Shadows whose word numbers need more than 16, 31 and 32 bits: 64 GiB, 1 TiB exactly, 4 TiB, and almost everything. */
static void check_large_shadows(struct object *object, void *lines_end, void *twins_end) {
    const unsigned sizes[] = {36, 40, 42, 47};

    object->line_count = 50;
    object->lines = (struct tag_line *)lines_end - object->line_count;
    object->twins = (struct granule *)twins_end - object->line_count * LINE_GRANULES;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        const uint64_t size = (UINT64_C(1) << sizes[i]) - (sizes[i] == 47) * 4096;
        const size_t bytes = (size_t)((size / GRANULE_SIZE + 63) / 64 * 8);
        uint64_t *bits = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (bits == MAP_FAILED) {
            printf("skipped: no address space for the shadow of 2^%u bytes\n", sizes[i]);
            continue;
        }
        const struct shadow shadow = {.bits = bits, .first = UINT64_C(1) << 46, .limit = (UINT64_C(1) << 46) + size};
        for (int painted = 0; painted < 2000; painted++) {
            const size_t granule =
                random_below(4) ? random_below(size / GRANULE_SIZE) : size / GRANULE_SIZE - 1 - random_below(64);
            shadow_paint(bits, granule, 1);
            struct granule *twin = &object->twins[painted];
            *twin = capability_near(shadow.first + granule * GRANULE_SIZE);
        }
        object->counts = (struct sweep_counts){.lines = object->line_count};
        for (size_t granule = 0; granule < object->line_count * 64; granule++) {
            if (granule >= 2000)
                object->twins[granule] = random_capability(&shadow);
            const uint64_t revoked = naive_revokes(&shadow, object->twins[granule]);
            if (granule % 64 == 0)
                object->before[granule / 64] = object->after[granule / 64] = i % 2 ? ~UINT64_C(0) : random_word();
            const uint64_t tag = object->before[granule / 64] >> granule % 64 & 1;
            object->counts.found += tag;
            object->counts.cleared += tag & revoked;
            object->after[granule / 64] &= ~(revoked << granule % 64);
        }
        check_kernels(object, &shadow);
        munmap(bits, bytes);
    }
}

static void check_painting(void) {
    enum { WORDS = 5 };
    static uint64_t bits[WORDS + 1];
    unsigned char expected[WORDS * 64];
    const struct shadow shadow = {.bits = bits, .first = 1 << 20, .limit = (1 << 20) + sizeof expected * GRANULE_SIZE};

    const unsigned percent = random_percent();
    fill_bits(bits, sizeof expected, percent, random_run(70));
    for (size_t i = 0; i < sizeof expected; i++)
        expected[i] = bits[i / 64] >> i % 64 & 1;
    for (int step = 0; step < 20; step++) {
        const size_t first = random_below(sizeof expected + 1);
        const size_t count = random_below(sizeof expected - first + 1);
        const bool paint = random_below(2);
        size_t changes = 0;
        for (size_t i = first; i < first + count; i++) {
            changes += expected[i] != paint;
            expected[i] = paint;
        }
        if ((paint ? shadow_paint : shadow_unpaint)(bits, first, count) != changes)
            fail("painting %d from %zu, %zu granules: wrong number of changes", paint, first, count);
        for (size_t i = 0; i < sizeof expected; i++)
            if (shadow_is_painted(&shadow, shadow.first + i * GRANULE_SIZE + random_below(GRANULE_SIZE)) != expected[i])
                fail("painting %d from %zu, %zu granules: granule %zu is wrong", paint, first, count, i);
        if (shadow_is_painted(&shadow, shadow.limit) || shadow_is_painted(&shadow, shadow.first - 1) || bits[WORDS])
            fail("painted outside");
    }
}

/* Two processes paint and unpaint granules of the same words, each its own: a word changed without one atomic operation
 * loses what the other did, and a later count shows it. They go on until they have seen each other move often enough:
 * two processes that take turns on one processor prove nothing. */
static void check_painting_together(void) {
    enum { WORDS = 4, LOOK_EVERY = 16, ENOUGH = 5000, MOST = 3000000 };
    struct meeting {
        uint64_t bits[WORDS];
        _Alignas(64) _Atomic size_t step[2];
        _Atomic bool is_over;
    } *meeting = mmap(NULL, sizeof *meeting, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    if (meeting == MAP_FAILED)
        fail("no memory");
    const pid_t child = fork();
    if (child < 0)
        fail("fork");
    const size_t self = child == 0;
    size_t wrong = 0, moves = 0, last = 0;
    for (size_t step = 1; step < MOST && !atomic_load(&meeting->is_over); step++) {
        const size_t granule = step * 2 % (WORDS * 64) + self;
        wrong += shadow_paint(meeting->bits, granule, 1) != 1;
        wrong += shadow_unpaint(meeting->bits, granule, 1) != 1;
        if (step % LOOK_EVERY != 0)
            continue;
        atomic_store(&meeting->step[self], step);
        const size_t other = atomic_load(&meeting->step[!self]);
        moves += other != last;
        last = other;
        if (moves == ENOUGH)
            atomic_store(&meeting->is_over, true);
    }
    if (child == 0)
        _exit(wrong != 0);
    int status;
    if (waitpid(child, &status, 0) != child || status != 0 || wrong != 0)
        fail("two painters: a granule changed that only one of them touches");
    for (size_t i = 0; i < WORDS; i++)
        if (meeting->bits[i] != 0)
            fail("two painters: word %zu is %#llx and should be 0", i, (unsigned long long)meeting->bits[i]);
    if (!atomic_load(&meeting->is_over))
        printf("skipped: two painters at once, since this machine did not run two processes at once\n");
    munmap(meeting, sizeof *meeting);
}

int main(int argc, char **argv) {
    static struct object object;
    const unsigned long trials = argc > 2 ? strtoul(argv[2], NULL, 0) : 500;
    struct tag_line *lines = allocate_before_hole(MOST_LINES * sizeof *lines);
    struct granule *twins = allocate_before_hole(MOST_LINES * LINE_GRANULES * sizeof *twins);
    uint64_t *bits = allocate_before_hole(MOST_WORDS * sizeof *bits);

    seed = argc > 1 ? strtoull(argv[1], NULL, 0) : (unsigned long long)time(NULL) * 1000003 ^ (unsigned)getpid();
    random_state = seed;
    printf("seed %llu\n", seed);
    for (enum sweep_kernel kernel = SWEEP_PORTABLE; kernel <= SWEEP_AVX512; kernel++)
        if (!sweep_kernel_is_available(kernel))
            printf("skipped: this machine or build lacks the kernel %s\n", kernel_names[kernel]);
    fflush(stdout);

    check_painting_together();
    check_large_shadows(&object, lines + MOST_LINES, twins + MOST_LINES * LINE_GRANULES);
    uint64_t found = 0, cleared = 0;
    for (trial = 1; trial <= trials; trial++) {
        check_painting();
        check_random_object(&object, bits, lines + MOST_LINES, twins + MOST_LINES * LINE_GRANULES);
        found += object.counts.found;
        cleared += object.counts.cleared;
    }
    /* A generator gone wrong would make all of this easy. */
    if (trials >= 100 && (cleared < found / 20 || cleared > found / 2))
        fail("of %llu capabilities %llu revoked: too one-sided to test anything", (unsigned long long)found,
             (unsigned long long)cleared);
    printf("%lu trials, %llu capabilities, %llu revoked\n", trials, (unsigned long long)found,
           (unsigned long long)cleared);
    return 0;
}
