/* sweep_avx2.c: the sweep kernel for x86-64 with AVX2. Eight capabilities a step; see sweep_body.h for the pass. */
#if defined(__x86_64__) && !defined(CAPSHM_PORTABLE)

#include <immintrin.h>

#include "encoding.h"
#include "sweep.h"

#define SWEEP_FUNCTION sweep_avx2
#define SWEEP_TARGET __attribute__((target("avx2,bmi,bmi2,popcnt")))
#define SWEEP_DENSE 32
#define VECTOR_INLINE static inline __attribute__((always_inline)) SWEEP_TARGET

enum { STEP = 8 }; /* capabilities: a register of 32-bit words */

/* first and size have their top bit turned over, which makes AVX2's signed comparison an unsigned one. */
struct examiner {
    __m256i first;
    __m256i size;
    const uint32_t *words;
};

/* Where in the shadow 64 capabilities are to be looked up: the number of a 32-bit word, and the shift that brings the
 * bit to the top. Who is not revoked whatever the shadow says has word 0 and a shift that leaves nothing. */
struct spots {
    _Alignas(32) uint32_t word[LINE_GRANULES];
    _Alignas(32) uint32_t shift[LINE_GRANULES];
};

VECTOR_INLINE struct examiner examiner_make(const struct shadow *shadow) {
    const uint64_t top_bit = UINT64_C(1) << 63;

    return (struct examiner){
        .first = _mm256_set1_epi64x((long long)(shadow->first ^ top_bit)),
        .size = _mm256_set1_epi64x((long long)((shadow->limit - shadow->first) ^ top_bit)),
        .words = (const uint32_t *)(const void *)shadow->bits,
    };
}

VECTOR_INLINE bool has_any_tag(const struct tag_line *lines) {
    const __m256i *pairs = (const __m256i *)(const void *)lines;
    const __m256i tags = _mm256_setr_epi64x(-1, 0, -1, 0); /* not the lock words */
    const __m256i left = _mm256_or_si256(_mm256_loadu_si256(pairs), _mm256_loadu_si256(pairs + 1));
    const __m256i right = _mm256_or_si256(_mm256_loadu_si256(pairs + 2), _mm256_loadu_si256(pairs + 3));

    return !_mm256_testz_si256(_mm256_or_si256(left, right), tags);
}

VECTOR_INLINE uint32_t lowest_tag(uint64_t tags) {
    return (uint32_t)_tzcnt_u64(tags);
}

#define SHUFFLE(left, right, order)                                                                                    \
    _mm256_castps_si256(_mm256_shuffle_ps(_mm256_castsi256_ps(left), _mm256_castsi256_ps(right), order))
#define LOWER_HALVES(left, right) SHUFFLE(left, right, _MM_SHUFFLE(2, 0, 2, 0))
#define UPPER_HALVES(left, right) SHUFFLE(left, right, _MM_SHUFFLE(3, 1, 3, 1))

/* capability_base for four: with bottom and edge as in encoding.h, and since the edge is the bottom less its lower bits
 * less an eighth of the window, unit - ((unit - edge) mod 2^14) + ((bottom - edge) mod 2^14) is
 * ((unit - edge) rounded down to 2^14) + bottom. */
VECTOR_INLINE __m256i bases(__m256i address, __m256i exponent, __m256i bottom) {
    const __m256i eighth = _mm256_set1_epi64x(1 << (MANTISSA_WIDTH - 3));
    const __m256i unit = _mm256_srlv_epi64(address, exponent);
    const __m256i corner = _mm256_and_si256(bottom, _mm256_set1_epi64x(7 << (MANTISSA_WIDTH - 3)));
    const __m256i above_edge = _mm256_add_epi64(_mm256_sub_epi64(unit, corner), eighth);
    const __m256i window = _mm256_and_si256(above_edge, _mm256_set1_epi64x(~(long long)MANTISSA_MASK));

    return _mm256_sllv_epi64(_mm256_add_epi64(window, bottom), exponent);
}

/* Decodes eight capabilities, pairs[i] holding number 2i and 2i + 1. Unpacking works on the two 128-bit halves of a
 * register apart, so the spots come out in the order 0 2 4 6 1 3 5 7; look_up puts that right. Bounds and permissions
 * are in either half of the metadata: as 32-bit words, eight of them fill a register. */
VECTOR_INLINE void locate(const __m256i pairs[4], const struct examiner *examiner, uint32_t *word, uint32_t *shift) {
    const __m256i zero = _mm256_setzero_si256();
    const __m256i address0 = _mm256_unpacklo_epi64(pairs[0], pairs[1]);
    const __m256i address1 = _mm256_unpacklo_epi64(pairs[2], pairs[3]);
    const __m256i metadata0 = _mm256_unpackhi_epi64(pairs[0], pairs[1]);
    const __m256i metadata1 = _mm256_unpackhi_epi64(pairs[2], pairs[3]);

    const __m256i bounds =
        _mm256_xor_si256(LOWER_HALVES(metadata0, metadata1), _mm256_set1_epi32((int)(uint32_t)METADATA_NULL_MASK));
    const __m256i is_internal = _mm256_srai_epi32(_mm256_slli_epi32(bounds, 31 - INTERNAL_EXPONENT_SHIFT), 31);
    const __m256i half = _mm256_and_si256(is_internal, _mm256_set1_epi32(EXPONENT_HALF_MASK));
    const __m256i upper = _mm256_and_si256(_mm256_srli_epi32(bounds, TOP_FIELD_SHIFT - EXPONENT_HALF_WIDTH),
                                           _mm256_slli_epi32(half, EXPONENT_HALF_WIDTH));
    const __m256i exponent =
        _mm256_min_epi32(_mm256_or_si256(upper, _mm256_and_si256(bounds, half)), _mm256_set1_epi32(EXPONENT_MAXIMUM));
    const __m256i bottom = _mm256_andnot_si256(half, _mm256_and_si256(bounds, _mm256_set1_epi32(MANTISSA_MASK)));

    const __m256i base0 = bases(address0, _mm256_unpacklo_epi32(exponent, zero), _mm256_unpacklo_epi32(bottom, zero));
    const __m256i base1 = bases(address1, _mm256_unpackhi_epi32(exponent, zero), _mm256_unpackhi_epi32(bottom, zero));
    const __m256i offset0 = _mm256_sub_epi64(base0, examiner->first);
    const __m256i offset1 = _mm256_sub_epi64(base1, examiner->first);
    const __m256i is_covered =
        LOWER_HALVES(_mm256_cmpgt_epi64(examiner->size, offset0), _mm256_cmpgt_epi64(examiner->size, offset1));

    /* SW_VMEM is above all memory permissions: with it, these bits are a number too large; without both, zero. */
    const __m256i permissions = _mm256_and_si256(UPPER_HALVES(metadata0, metadata1),
                                                 _mm256_set1_epi32((int)(REVOCATION_PERMISSIONS_MASK >> 32)));
    const __m256i sw_vmem = _mm256_set1_epi32((int)(REVOCATION_SW_VMEM >> 32));
    const __m256i is_memory =
        _mm256_and_si256(_mm256_cmpgt_epi32(permissions, zero), _mm256_cmpgt_epi32(sw_vmem, permissions));
    const __m256i is_candidate = _mm256_and_si256(is_covered, is_memory);

    const __m256i words =
        LOWER_HALVES(_mm256_srli_epi64(offset0, GRANULE_SHIFT + 5), _mm256_srli_epi64(offset1, GRANULE_SHIFT + 5));
    const __m256i granules = _mm256_srli_epi32(LOWER_HALVES(offset0, offset1), GRANULE_SHIFT);
    const __m256i shifts = _mm256_andnot_si256(granules, _mm256_set1_epi32(31));
    const __m256i everything = _mm256_cmpeq_epi32(zero, zero);
    _mm256_store_si256((__m256i *)(void *)word, _mm256_and_si256(words, is_candidate));
    _mm256_store_si256((__m256i *)(void *)shift, _mm256_or_si256(shifts, _mm256_xor_si256(is_candidate, everything)));
}

/* Eight plain loads: on the machine measured faster than the gather instruction by a third, and nowhere slowed by
 * microcode that guards gathers. */
VECTOR_INLINE uint64_t look_up(const uint32_t *words, const uint32_t *word, const uint32_t *shift) {
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    __m128i pair[4];

    for (int i = 0; i < 4; i++)
        pair[i] = _mm_insert_epi32(_mm_cvtsi32_si128((int)words[word[2 * i]]), (int)words[word[2 * i + 1]], 1);
    const __m256i found = _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_unpacklo_epi64(pair[0], pair[1])),
                                                  _mm_unpacklo_epi64(pair[2], pair[3]), 1);
    const __m256i painted = _mm256_sllv_epi32(found, _mm256_load_si256((const __m256i *)(const void *)shift));
    const __m256i ordered = _mm256_permutevar8x32_epi32(painted, order);
    return (uint64_t)(unsigned)_mm256_movemask_ps(_mm256_castsi256_ps(ordered));
}

/* All are located before the first is looked up. The shadow of a large heap is not in the nearest cache, and this way
 * the processor has several dozen look-ups under way where step by step it has eight. */
VECTOR_INLINE uint64_t look_up_all(const struct examiner *examiner, const struct spots *spots) {
    uint64_t revoked = 0;

    for (unsigned i = 0; i < LINE_GRANULES; i += STEP)
        revoked |= look_up(examiner->words, spots->word + i, spots->shift + i) << i;
    return revoked;
}

VECTOR_INLINE uint64_t examine_line(const struct granule *twins, const struct examiner *examiner) {
    struct spots spots;

    for (unsigned i = 0; i < LINE_GRANULES; i += STEP) {
        const __m256i *from = (const __m256i *)(const void *)(twins + i);
        const __m256i pairs[4] = {_mm256_loadu_si256(from), _mm256_loadu_si256(from + 1), _mm256_loadu_si256(from + 2),
                                  _mm256_loadu_si256(from + 3)};
        locate(pairs, examiner, spots.word + i, spots.shift + i);
    }
    return look_up_all(examiner, &spots);
}

VECTOR_INLINE __m256i load_pair(const struct granule *twins, const uint32_t *queue) {
    const __m128i left = _mm_loadu_si128((const __m128i *)(const void *)(twins + queue[0]));
    const __m128i right = _mm_loadu_si128((const __m128i *)(const void *)(twins + queue[1]));

    return _mm256_inserti128_si256(_mm256_castsi128_si256(left), right, 1);
}

VECTOR_INLINE uint64_t examine_queue(const struct granule *twins, const uint32_t *queue, const uint32_t *ahead,
                                     const struct examiner *examiner) {
    struct spots spots;

    for (unsigned i = 0; i < LINE_GRANULES; i += STEP) {
        for (unsigned j = 0; j < STEP; j++)
            __builtin_prefetch(twins + ahead[i + j]);
        const __m256i pairs[4] = {load_pair(twins, queue + i), load_pair(twins, queue + i + 2),
                                  load_pair(twins, queue + i + 4), load_pair(twins, queue + i + 6)};
        locate(pairs, examiner, spots.word + i, spots.shift + i);
    }
    return look_up_all(examiner, &spots);
}

#include "sweep_body.h"

#else
typedef int sweep_avx2_is_not_compiled;
#endif
