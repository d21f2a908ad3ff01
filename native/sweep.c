/* sweep.c: the choice of a sweep kernel, the portable one, and painting. The essay is in sweep.h. */
#include "sweep.h"

#include <assert.h>

#define SWEEP_FUNCTION sweep_portable
#define SWEEP_TARGET
#define SWEEP_DENSE (LINE_GRANULES + 1) /* one by one, an untagged capability costs as much as a tagged one */
#define SCALAR_INLINE static inline __attribute__((always_inline))

/* An empty shadow may have no bits, but the test below reads one whatever the base is. */
static const uint64_t nothing_painted;

struct examiner {
    uint64_t first;
    uint64_t size;
    const uint64_t *bits;
};

SCALAR_INLINE struct examiner examiner_make(const struct shadow *shadow) {
    const uint64_t size = shadow->limit - shadow->first;

    return (struct examiner){.first = shadow->first, .size = size, .bits = size ? shadow->bits : &nothing_painted};
}

SCALAR_INLINE bool has_any_tag(const struct tag_line *lines) {
    uint64_t tags = 0;

    for (unsigned i = 0; i < 8; i++)
        tags |= atomic_load_explicit(&lines[i].tags, memory_order_relaxed);
    return tags != 0;
}

SCALAR_INLINE uint32_t lowest_tag(uint64_t tags) {
    return (uint32_t)__builtin_ctzll(tags | UINT64_C(1) << 63);
}

/* shadow_revokes without a branch: whether a random capability is revoked cannot be predicted. */
SCALAR_INLINE uint64_t examine(struct granule value, const struct examiner *examiner) {
    const uint64_t permissions = value.metadata & REVOCATION_PERMISSIONS_MASK;
    const uint64_t offset = capability_base(value) - examiner->first;
    const uint64_t is_candidate = (offset < examiner->size) & (permissions != 0) & (permissions < REVOCATION_SW_VMEM);
    const uint64_t granule = offset >> GRANULE_SHIFT & -is_candidate;

    return __atomic_load_n(&examiner->bits[granule / 64], __ATOMIC_RELAXED) >> granule % 64 & is_candidate;
}

SCALAR_INLINE uint64_t examine_line(const struct granule *twins, const struct examiner *examiner) {
    uint64_t revoked = 0;

    for (unsigned i = 0; i < LINE_GRANULES; i++)
        revoked |= examine(twins[i], examiner) << i;
    return revoked;
}

SCALAR_INLINE uint64_t examine_queue(const struct granule *twins, const uint32_t *queue, const uint32_t *ahead,
                                     const struct examiner *examiner) {
    uint64_t revoked = 0;

    for (unsigned i = 0; i < LINE_GRANULES; i++) {
        __builtin_prefetch(twins + ahead[i]);
        revoked |= examine(twins[queue[i]], examiner) << i;
    }
    return revoked;
}

#include "sweep_body.h"

bool sweep_kernel_is_available(enum sweep_kernel kernel) {
    switch (kernel) {
    case SWEEP_AUTOMATIC:
    case SWEEP_PORTABLE:
        return true;
#if defined(__x86_64__) && !defined(CAPSHM_PORTABLE)
    case SWEEP_AVX2:
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") &&
               __builtin_cpu_supports("popcnt");
    case SWEEP_AVX512:
        return sweep_kernel_is_available(SWEEP_AVX2) && __builtin_cpu_supports("avx512f");
#endif
    default:
        return false;
    }
}

static sweep_function *sweep_function_for(enum sweep_kernel kernel, const struct shadow *shadow) {
    assert(sweep_kernel_is_available(kernel));
#if defined(__x86_64__) && !defined(CAPSHM_PORTABLE)
    /* The vector kernels number the shadow's 32-bit words in 31 bits. */
    if (shadow->limit - shadow->first > UINT64_C(1) << 40)
        return sweep_portable;
    if (shadow->limit == shadow->first)
        return sweep_portable; /* nothing to look up, only to count */
    if (kernel == SWEEP_AUTOMATIC)
        kernel = sweep_kernel_is_available(SWEEP_AVX512) ? SWEEP_AVX512
                 : sweep_kernel_is_available(SWEEP_AVX2) ? SWEEP_AVX2
                                                         : SWEEP_PORTABLE;
    if (kernel == SWEEP_AVX512)
        return sweep_avx512;
    if (kernel == SWEEP_AVX2)
        return sweep_avx2;
#else
    (void)kernel, (void)shadow;
#endif
    return sweep_portable;
}

/* Counts nothing as found: the pass before has. */
static void sweep_leaving(struct tag_line *lines, const struct granule *twins, size_t line_count,
                          const struct shadow *shadow, struct sweep_counts *counts) {
    for (size_t line = 0; line < line_count; line++) {
        const uint64_t tags = atomic_load_explicit(&lines[line].tags, memory_order_relaxed);
        uint64_t revoked = 0;
        for (uint64_t left = tags; left != 0; left &= left - 1) {
            const unsigned i = (unsigned)__builtin_ctzll(left);
            revoked |= (uint64_t)shadow_takes_along(shadow, twins[line * LINE_GRANULES + i]) << i;
        }
        if (revoked != 0)
            atomic_store_explicit(&lines[line].tags, tags & ~revoked, memory_order_relaxed);
        counts->cleared += (uint64_t)__builtin_popcountll(revoked);
    }
}

void sweep(struct tag_line *lines, const struct granule *twins, size_t line_count, const struct shadow *shadow,
           enum sweep_kernel kernel, struct sweep_counts *counts) {
    const size_t most = (size_t)1 << 26; /* lines whose granules can be numbered in 32 bits */
    sweep_function *function = sweep_function_for(kernel, shadow);

    for (size_t done = 0; done < line_count; done += most) {
        const size_t part = line_count - done < most ? line_count - done : most;
        function(lines + done, twins + done * LINE_GRANULES, part, shadow, counts);
    }
    if (shadow->leaving != shadow->leaving_limit)
        sweep_leaving(lines, twins, line_count, shadow, counts);
}

/* The bits of word `word` that belong to granules [first, first + count). */
static uint64_t range_mask(size_t word, size_t first, size_t count) {
    const size_t start = word == first / 64 ? first % 64 : 0;
    const size_t end = word == (first + count - 1) / 64 ? (first + count - 1) % 64 : 63;

    return ~UINT64_C(0) << start & ~UINT64_C(0) >> (63 - end);
}

size_t shadow_paint(uint64_t *bits, size_t first, size_t count) {
    size_t changed = 0;

    for (size_t word = first / 64; count != 0 && word <= (first + count - 1) / 64; word++) {
        const uint64_t mask = range_mask(word, first, count);
        uint64_t before = __atomic_load_n(&bits[word], __ATOMIC_RELAXED);
        if (mask & ~before)
            before = __atomic_fetch_or(&bits[word], mask, __ATOMIC_RELAXED);
        changed += (size_t)__builtin_popcountll(mask & ~before);
    }
    return changed;
}

size_t shadow_unpaint(uint64_t *bits, size_t first, size_t count) {
    size_t changed = 0;

    for (size_t word = first / 64; count != 0 && word <= (first + count - 1) / 64; word++) {
        const uint64_t mask = range_mask(word, first, count);
        uint64_t before = __atomic_load_n(&bits[word], __ATOMIC_RELAXED);
        if (mask & before)
            before = __atomic_fetch_and(&bits[word], ~mask, __ATOMIC_RELAXED);
        changed += (size_t)__builtin_popcountll(mask & before);
    }
    return changed;
}
