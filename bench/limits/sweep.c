/* sweep.c: how fast a sweep can be on this machine, and how fast ours is.
 *
 * Usage: sweep [REPEATS [KERNEL]], 7 and automatic if not given; KERNEL is automatic, portable, avx2 or avx512.
 * Prints one JSON object a line for each key and repeat, value and limit in GiB of object a second.
 *
 * The limit is the fastest of several plain loops over the same memory, each run in each repeat next to ours: whatever
 * this machine likes best that day sets it. All of them load, decode and test every tagged capability and clear the tag
 * of those revoked; they have no more structure than that takes. They share no code with the library but the layout.
 *
 * In a repeat each loop makes at least three passes, and passes for 30 ms, and the best but the first counts. The first
 * pays for what the loop before it left in the caches, which differs by a factor of four where few twins are read; and
 * what disturbs a pass can only slow it.
 *
 * 64 MiB of object, everything touched before; capabilities to random granules of it, half of them with an internal
 * exponent; 10 % of the shadow painted at random; before each pass the tags are set again, so that each clears as many.
 * Clustered: pages have all their granules tagged or none. `sweep_two_cores`: value is two processes that sweep half
 * each, limit is one that sweeps all, at 10 % random.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "sweep.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define KEEP_APART __attribute__((noinline))
#define WITH_AVX2 __attribute__((target("avx2,bmi,bmi2,popcnt")))
#define WITH_AVX512 __attribute__((target("avx512f,avx2,bmi,bmi2,popcnt")))
#define INLINE static inline __attribute__((always_inline))

enum { OBJECT_MIB = 64, LINES = OBJECT_MIB << 10, GRANULES = LINES * LINE_GRANULES, PAGE_LINES = 4, TESTED = 8 };
enum { PASSES = 3, TURNS = 8 };
#define ENOUGH 0.03 /* seconds */

static struct tag_line *lines;
static struct granule *twins;
static uint64_t *bits;
static uint64_t *tags_before; /* set again before each pass */
static const uint64_t start = UINT64_C(0x550000000000);
static const uint64_t size = (uint64_t)GRANULES * GRANULE_SIZE;

static uint64_t random_word(void) {
    static uint64_t state = 88172645463325252;

    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
}

static double now(void) {
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static double least(double left, double right) {
    return left < right ? left : right;
}

INLINE uint64_t tags_of(size_t line) {
    return atomic_load_explicit(&lines[line].tags, memory_order_relaxed);
}

INLINE uint64_t clear(size_t line, uint64_t revoked) {
    if (revoked)
        atomic_store_explicit(&lines[line].tags, tags_of(line) & ~revoked, memory_order_relaxed);
    return (uint64_t)__builtin_popcountll(revoked);
}

/* The plain loops. Each returns how many tags it cleared. */

INLINE uint64_t is_revoked(const struct granule *value) {
    const uint64_t raw = value->metadata ^ UINT64_C(0x00001ffffc018004);
    const uint64_t internal = -(raw >> 26 & 1);
    const uint64_t read = ((raw >> 11 & 0x38) | (raw & 7)) & internal;
    const uint64_t exponent = read > 52 ? 52 : read;
    const uint64_t bottom = raw & 0x3fff & ~(internal & 7);
    const uint64_t window = ((value->address >> exponent) - (bottom & 0x3800) + 0x800) & ~UINT64_C(0x3fff);
    const uint64_t offset = ((window + bottom) << exponent) - start;
    const uint64_t fits = (offset < size) & ((value->metadata & UINT64_C(0x7e) << 48) != 0) & ~(value->metadata >> 61);
    const uint64_t granule = offset / 16 & -(fits & 1);

    return bits[granule / 64] >> granule % 64 & fits & 1;
}

INLINE uint64_t one_by_one(size_t lines_ahead) {
    uint64_t cleared = 0;

    for (size_t line = 0; line < LINES; line++) {
        uint64_t revoked = 0;
        if (lines_ahead && line + lines_ahead < LINES)
            for (uint64_t left = tags_of(line + lines_ahead); left; left &= left - 1)
                __builtin_prefetch(&twins[(line + lines_ahead) * 64 + (size_t)__builtin_ctzll(left)]);
        for (uint64_t left = tags_of(line); left; left &= left - 1) {
            const int i = __builtin_ctzll(left);
            revoked |= is_revoked(&twins[line * 64 + (size_t)i]) << i;
        }
        cleared += clear(line, revoked);
    }
    return cleared;
}

KEEP_APART static uint64_t loop_scalar(void) {
    return one_by_one(0);
}

KEEP_APART static uint64_t loop_scalar_prefetch(void) {
    return one_by_one(16);
}

#if defined(__x86_64__)

/* Four capabilities in two registers, 0 2 and 1 3, all in 64-bit lanes: the granules where their bases lie, in order.
 * Who is not revoked whatever the shadow says gets the granule after the last, which is never painted. */
WITH_AVX2 INLINE __m256i four_granules(__m256i left, __m256i right) {
    const __m256i top_bit = _mm256_set1_epi64x((long long)(UINT64_C(1) << 63)), zero = _mm256_setzero_si256();
    const __m256i address = _mm256_unpacklo_epi64(left, right), metadata = _mm256_unpackhi_epi64(left, right);
    const __m256i raw = _mm256_xor_si256(metadata, _mm256_set1_epi64x(0x00001ffffc018004));
    const __m256i is_internal = _mm256_and_si256(_mm256_srli_epi64(raw, 26), _mm256_set1_epi64x(1));
    const __m256i internal = _mm256_sub_epi64(zero, is_internal);
    const __m256i half = _mm256_and_si256(internal, _mm256_set1_epi64x(7));
    const __m256i upper = _mm256_and_si256(_mm256_srli_epi64(raw, 11), _mm256_slli_epi64(half, 3));
    const __m256i exponent =
        _mm256_min_epu32(_mm256_or_si256(upper, _mm256_and_si256(raw, half)), _mm256_set1_epi64x(52));
    const __m256i bottom = _mm256_andnot_si256(half, _mm256_and_si256(raw, _mm256_set1_epi64x(0x3fff)));
    const __m256i corner = _mm256_and_si256(bottom, _mm256_set1_epi64x(0x3800));
    const __m256i above = _mm256_sub_epi64(_mm256_srlv_epi64(address, exponent), corner);
    const __m256i window =
        _mm256_andnot_si256(_mm256_set1_epi64x(0x3fff), _mm256_add_epi64(above, _mm256_set1_epi64x(0x800)));
    const __m256i base = _mm256_sllv_epi64(_mm256_add_epi64(window, bottom), exponent);
    const __m256i offset = _mm256_sub_epi64(base, _mm256_set1_epi64x((long long)start));
    const __m256i inside = _mm256_cmpgt_epi64(_mm256_set1_epi64x((long long)(size ^ UINT64_C(1) << 63)),
                                              _mm256_xor_si256(offset, top_bit));
    const __m256i permissions = _mm256_and_si256(metadata, _mm256_set1_epi64x(0x207e000000000000));
    const __m256i memory = _mm256_and_si256(_mm256_cmpgt_epi64(permissions, zero),
                                            _mm256_cmpgt_epi64(_mm256_set1_epi64x(0x2000000000000000), permissions));
    return _mm256_blendv_epi8(_mm256_set1_epi64x(GRANULES), _mm256_srli_epi64(offset, 4),
                              _mm256_and_si256(inside, memory));
}

/* Tests 64 capabilities whose granules are known. */
WITH_AVX2 INLINE uint64_t look_up(const uint64_t *granules) {
    uint64_t revoked = 0;

    for (unsigned i = 0; i < 64; i += 4) {
        const uint64_t *from = granules + i;
        const __m256i found = _mm256_setr_epi64x((long long)bits[from[0] / 64], (long long)bits[from[1] / 64],
                                                 (long long)bits[from[2] / 64], (long long)bits[from[3] / 64]);
        const __m256i shift = _mm256_andnot_si256(*(const __m256i *)(const void *)from, _mm256_set1_epi64x(63));
        const __m256i painted = _mm256_sllv_epi64(found, shift);
        revoked |= (uint64_t)_mm256_movemask_pd(_mm256_castsi256_pd(painted)) << i;
    }
    return revoked;
}

/* The next line that has a tag, from `line` on; LINES if none. Eight at a time while there is none. */
WITH_AVX2 INLINE size_t next_line(size_t line) {
    while (line < LINES) {
        if (tags_of(line))
            return line;
        line++;
        while (line % TESTED == 0 && line < LINES) {
            const __m256i *pairs = (const __m256i *)(const void *)&lines[line];
            const __m256i left = _mm256_or_si256(pairs[0], pairs[1]), right = _mm256_or_si256(pairs[2], pairs[3]);
            const __m256i some = _mm256_or_si256(left, right);
            if (!_mm256_testz_si256(some, _mm256_setr_epi64x(-1, 0, -1, 0)))
                break;
            line += TESTED;
        }
    }
    return LINES;
}

WITH_AVX2 INLINE __m256i pair(const struct granule *left, const struct granule *right) {
    return _mm256_inserti128_si256(_mm256_castsi128_si256(*(const __m128i *)(const void *)left),
                                   *(const __m128i *)(const void *)right, 1);
}

/* Whole lines; the tags decide afterwards. First all are decoded, then all tested: testing four as soon as they are
 * decoded is no faster, and slower where the shadow is not in the nearest cache. */
KEEP_APART WITH_AVX2 static uint64_t loop_avx2(void) {
    uint64_t granules[64] __attribute__((aligned(32)));
    uint64_t cleared = 0;

    for (size_t line = next_line(0); line < LINES; line = next_line(line + 1)) {
        const struct granule *from = &twins[line * 64];
        for (unsigned i = 0; i < 64; i += 4)
            _mm256_store_si256((__m256i *)(void *)&granules[i],
                               four_granules(pair(from + i, from + i + 2), pair(from + i + 1, from + i + 3)));
        cleared += clear(line, look_up(granules) & tags_of(line));
    }
    return cleared;
}

/* Tagged granules are listed, then decoded and tested 64 at a time, prefetched 64 ahead. Listing writes two entries and
 * counts those that are there, for fewer mispredicted branches. */
KEEP_APART WITH_AVX2 static uint64_t loop_avx2_listed(void) {
    static uint32_t list[1024];
    uint64_t granules[64] __attribute__((aligned(32)));
    size_t length = 0;
    uint64_t cleared = 0;

    for (size_t line = 0; line < LINES || length; line++) {
        if (line < LINES) {
            uint64_t left = tags_of(line);
            uint32_t *end = list + length;
            length += (unsigned)__builtin_popcountll(left);
            do {
                for (unsigned i = 0; i < 2; i++, left &= left - 1)
                    *end++ = (uint32_t)(line * 64 + _tzcnt_u64(left));
            } while (left);
        }
        if (length < 512 && line < LINES)
            continue;
        size_t i = 0;
        for (; line < LINES ? i + 128 <= length : i < length; i += 64) {
            for (unsigned j = 0; j < 64; j += 4) {
                const uint32_t *from = list + i + j;
                for (unsigned k = 0; k < 4; k++)
                    __builtin_prefetch(&twins[from[64 + k]]);
                _mm256_store_si256(
                    (__m256i *)(void *)&granules[j],
                    four_granules(pair(&twins[from[0]], &twins[from[2]]), pair(&twins[from[1]], &twins[from[3]])));
            }
            uint64_t revoked = look_up(granules);
            if (length - i < 64) /* entries past the end are old ones: valid granules, but not asked for */
                revoked &= (UINT64_C(1) << (length - i)) - 1;
            for (; revoked; revoked &= revoked - 1) {
                const uint32_t granule = list[i + (unsigned)__builtin_ctzll(revoked)];
                cleared += clear(granule / 64, UINT64_C(1) << granule % 64);
            }
        }
        length = length > i ? length - i : 0;
        memmove(list, list + i, length * sizeof *list);
    }
    return cleared;
}

/* Whole lines, eight capabilities in four registers, with gathers. */
KEEP_APART WITH_AVX512 static uint64_t loop_avx512(void) {
    const __m512i low3 = _mm512_set1_epi64(7);
    uint64_t cleared = 0;

    for (size_t line = next_line(0); line < LINES; line = next_line(line + 1)) {
        uint64_t revoked = 0;
        for (unsigned i = 0; i < 64; i += 8) {
            const __m512i left = _mm512_loadu_si512(&twins[line * 64 + i]);
            const __m512i right = _mm512_loadu_si512(&twins[line * 64 + i + 4]);
            const __m512i address =
                _mm512_permutex2var_epi64(left, _mm512_setr_epi64(0, 2, 4, 6, 8, 10, 12, 14), right);
            const __m512i metadata =
                _mm512_permutex2var_epi64(left, _mm512_setr_epi64(1, 3, 5, 7, 9, 11, 13, 15), right);
            const __m512i raw = _mm512_xor_si512(metadata, _mm512_set1_epi64(0x00001ffffc018004));
            const __mmask8 internal = _mm512_test_epi64_mask(raw, _mm512_set1_epi64(1 << 26));
            const __m512i half = _mm512_maskz_mov_epi64(internal, low3);
            const __m512i upper = _mm512_and_si512(_mm512_srli_epi64(raw, 11), _mm512_slli_epi64(half, 3));
            const __m512i exponent =
                _mm512_min_epu64(_mm512_or_si512(upper, _mm512_and_si512(raw, half)), _mm512_set1_epi64(52));
            const __m512i bottom = _mm512_andnot_si512(half, _mm512_and_si512(raw, _mm512_set1_epi64(0x3fff)));
            const __m512i edge =
                _mm512_sub_epi64(_mm512_and_si512(bottom, _mm512_set1_epi64(0x3800)), _mm512_set1_epi64(0x800));
            const __m512i window = _mm512_andnot_si512(_mm512_set1_epi64(0x3fff),
                                                       _mm512_sub_epi64(_mm512_srlv_epi64(address, exponent), edge));
            const __m512i offset = _mm512_sub_epi64(_mm512_sllv_epi64(_mm512_add_epi64(window, bottom), exponent),
                                                    _mm512_set1_epi64((long long)start));
            const __m512i permissions = _mm512_and_si512(metadata, _mm512_set1_epi64(0x207e000000000000));
            const __mmask8 memory = _mm512_mask_cmplt_epu64_mask(_mm512_test_epi64_mask(permissions, permissions),
                                                                 permissions, _mm512_set1_epi64(0x2000000000000000));
            const __mmask8 fits = _mm512_mask_cmplt_epu64_mask(memory, offset, _mm512_set1_epi64((long long)size));
            const __m512i granule = _mm512_srli_epi64(offset, 4);
            const __m512i found =
                _mm512_mask_i64gather_epi64(_mm512_setzero_si512(), fits, _mm512_srli_epi64(granule, 6), bits, 8);
            const __m512i bit = _mm512_srlv_epi64(found, _mm512_and_si512(granule, _mm512_set1_epi64(63)));
            revoked |= (uint64_t)_mm512_test_epi64_mask(bit, _mm512_set1_epi64(1)) << i;
        }
        cleared += clear(line, revoked & tags_of(line));
    }
    return cleared;
}
#endif

static enum sweep_kernel kernel = SWEEP_AUTOMATIC;
static const struct shadow *shadow;

KEEP_APART static uint64_t ours(void) {
    struct sweep_counts counts = {0};

    sweep(lines, twins, LINES, shadow, kernel, &counts);
    return counts.cleared;
}

static const struct {
    const char *name;
    uint64_t (*run)(void);
    enum sweep_kernel needs;
} loops[] = {
    {"ours", ours, SWEEP_AUTOMATIC},
    {"scalar", loop_scalar, SWEEP_AUTOMATIC},
    {"scalar_prefetch", loop_scalar_prefetch, SWEEP_AUTOMATIC},
#if defined(__x86_64__)
    {"avx2", loop_avx2, SWEEP_AVX2},
    {"avx2_listed", loop_avx2_listed, SWEEP_AVX2},
    {"avx512", loop_avx512, SWEEP_AVX512},
#endif
};

static void *map(size_t bytes) { /* like a sideband: a memory file, no huge pages */
    const int file = memfd_create("sweep", MFD_CLOEXEC);
    void *memory = MAP_FAILED;

    if (file >= 0 && ftruncate(file, (off_t)bytes) == 0)
        memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, file, 0);
    if (memory == MAP_FAILED) {
        perror("sweep: mapping memory");
        exit(1);
    }
    close(file);
    return memory;
}

static struct granule random_capability(void) {
    uint64_t base = start + random_word() % GRANULES * GRANULE_SIZE;
    uint64_t length = 16 + random_word() % 4000;
    uint64_t raw = UINT64_C(0x7d) << 48 | UINT64_C(0x3ffff) << 27;

    if (random_word() % 2) {
        raw |= (base & 0x3fff) | ((base + length) & 0xfff) << 14;
    } else {
        const unsigned exponent = random_word() % 8;
        base &= -((UINT64_C(8) << exponent) | 16) & ~UINT64_C(15);
        length = (4096 + (random_word() & 0xff8)) << exponent;
        raw |= (base >> exponent & 0x3ff8) | (exponent & 7) | 1 << 26;
        raw |= ((base + length) >> exponent & 0xff8) << 14 | exponent >> 3 << 14;
    }
    return (struct granule){base + random_word() % length, raw ^ UINT64_C(0x00001ffffc018004)};
}

static void set_tags(int percent, bool is_clustered) {
    for (size_t line = 0; line < LINES; line++) {
        tags_before[line] = 0;
        if (is_clustered && line % PAGE_LINES != 0)
            tags_before[line] = tags_before[line - 1];
        else if (is_clustered)
            tags_before[line] = random_word() % 100 < (unsigned)percent ? ~UINT64_C(0) : 0;
        else
            for (int i = 0; i < 64; i++)
                tags_before[line] |= (uint64_t)(random_word() % 100 < (unsigned)percent) << i;
    }
}

static void restore_tags(void) {
    for (size_t line = 0; line < LINES; line++)
        atomic_store_explicit(&lines[line].tags, tags_before[line], memory_order_relaxed);
}

static void report(const char *key, double value, double limit, const char *loop) {
    printf("{\"key\":\"%s\",\"value\":%.4g,\"limit\":%.4g,\"ratio\":%.4f,\"limit_loop\":\"%s\"}\n", key, value, limit,
           value / limit, loop);
    fflush(stdout);
}

static void measure(const char *key) {
    uint64_t cleared[sizeof loops / sizeof *loops];
    double seconds[sizeof loops / sizeof *loops];
    size_t best = 1;

    for (size_t i = 0; i < sizeof loops / sizeof *loops; i++) {
        if (!sweep_kernel_is_available(loops[i].needs))
            continue;
        const double first = now();
        seconds[i] = 1e9;
        double spent = 0;
        for (int pass = 0; pass < PASSES || spent < ENOUGH; pass++) {
            restore_tags();
            const double begin = now();
            cleared[i] = loops[i].run();
            if (pass)
                seconds[i] = least(seconds[i], now() - begin);
            spent = now() - first;
        }
        if (cleared[i] != cleared[0]) { /* a loop that skips work is no limit, a sweep that does is no sweep */
            fprintf(stderr, "sweep: %s cleared %llu, ours %llu\n", loops[i].name, (unsigned long long)cleared[i],
                    (unsigned long long)cleared[0]);
            exit(1);
        }
        if (i && seconds[i] < seconds[best])
            best = i;
        if (getenv("SWEEP_ALL_LOOPS"))
            fprintf(stderr, "%s %s %.4g\n", key, loops[i].name, OBJECT_MIB / 1024.0 / seconds[i]);
    }
    report(key, OBJECT_MIB / 1024.0 / seconds[0], OBJECT_MIB / 1024.0 / seconds[best], loops[best].name);
}

/* Each of two sets the tags of its half again, waits for the other, and sweeps. Returns when that began. */
static double sweep_half(size_t from, _Atomic int *arrivals, int turn) {
    struct sweep_counts counts = {0};

    for (size_t line = from; line < from + LINES / 2; line++)
        atomic_store_explicit(&lines[line].tags, tags_before[line], memory_order_relaxed);
    atomic_fetch_add(arrivals, 1);
    while (atomic_load(arrivals) < 4 * turn + 2) {
    }
    const double begin = now();
    sweep(lines + from, twins + from * LINE_GRANULES, LINES / 2, shadow, kernel, &counts);
    atomic_fetch_add(arrivals, 1);
    return begin;
}

/* Between turns the other process waits in read(), off the processor. As above, the best of some passes counts. */
static void measure_two_cores(int repeats) {
    _Atomic int *arrivals = map(PAGE_BYTES);
    int wake[2];

    if (pipe(wake) != 0)
        exit(1);
    const pid_t child = fork();
    if (child < 0)
        exit(1);
    if (child == 0) {
        char byte;
        close(wake[1]);
        for (int turn = 0; read(wake[0], &byte, 1) == 1; turn++)
            sweep_half(LINES / 2, arrivals, turn);
        _exit(0);
    }
    close(wake[0]);
    for (int turn = 0; turn < repeats * TURNS;) {
        double alone = 1e9, together = 1e9;
        do {
            restore_tags();
            double begin = now();
            ours();
            alone = least(alone, now() - begin);
            if (write(wake[1], "", 1) != 1)
                exit(1);
            while (atomic_load(arrivals) < 4 * turn + 1) { /* the other is awake and ready */
            }
            begin = sweep_half(0, arrivals, turn);
            while (atomic_load(arrivals) < 4 * turn + 4) {
            }
            together = least(together, now() - begin);
        } while (++turn % TURNS != 0);
        report("sweep_two_cores", OBJECT_MIB / 1024.0 / together, OBJECT_MIB / 1024.0 / alone, "ours, one process");
    }
    close(wake[1]);
    waitpid(child, NULL, 0);
}

int main(int argc, char **argv) {
    static const struct {
        const char *key;
        int percent;
        bool is_clustered;
    } cases[] = {
        {"sweep_0", 0, false},   {"sweep_1", 1, false},     {"sweep_10", 10, false},
        {"sweep_50", 50, false}, {"sweep_100", 100, false}, {"sweep_10_clustered", 10, true},
    };
    static const char *const kernels[] = {"automatic", "portable", "avx2", "avx512"};
    const int repeats = argc > 1 ? atoi(argv[1]) : 7;

    while (argc > 2 && kernel < SWEEP_AVX512 && strcmp(argv[2], kernels[kernel]) != 0)
        kernel++;
    if (repeats < 1 || (argc > 2 && strcmp(argv[2], kernels[kernel]) != 0) || !sweep_kernel_is_available(kernel)) {
        fprintf(stderr, "usage: sweep [REPEATS [KERNEL]]; KERNEL: automatic, portable, avx2, avx512\n");
        return 2;
    }
    lines = map(LINES * sizeof *lines);
    twins = map((GRANULES + 1) * sizeof *twins); /* the end of a list may name the one after the last */
    bits = map(GRANULES / 8 + 8); /* and a word after it that stays 0 */
    tags_before = map(LINES * sizeof *tags_before);
    shadow = &(const struct shadow){.bits = bits, .first = start, .limit = start + size};
    for (size_t granule = 0; granule < GRANULES; granule++) {
        twins[granule] = random_capability();
        if (random_word() % 10 == 0)
            bits[granule / 64] |= UINT64_C(1) << granule % 64;
    }
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        set_tags(cases[i].percent, cases[i].is_clustered);
        for (int repeat = 0; repeat < repeats; repeat++)
            measure(cases[i].key);
    }
    set_tags(10, false);
    measure_two_cores(repeats);
    return 0;
}
