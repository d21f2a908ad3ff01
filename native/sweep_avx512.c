/* sweep_avx512.c: the sweep kernel for x86-64 with AVX-512F. Sixteen capabilities a step; otherwise as sweep_avx2.c,
 * which explains more. Comparisons give bit masks here, and loads of look-ups take a mask. */
#if defined(__x86_64__) && !defined(CAPSHM_PORTABLE)

#include <immintrin.h>

#include "encoding.h"
#include "sweep.h"

#define SWEEP_FUNCTION sweep_avx512
#define SWEEP_TARGET __attribute__((target("avx512f,avx2,bmi,bmi2,popcnt")))
#define SWEEP_DENSE 24
#define VECTOR_INLINE static inline __attribute__((always_inline)) SWEEP_TARGET

enum { STEP = 16, STEPS = LINE_GRANULES / STEP };

struct examiner {
    __m512i first;
    __m512i size;
    const uint64_t *bits;
};

/* Where in the shadow 64 capabilities are to be looked up: the number of a 32-bit word, the bit in it, and whether at
 * all. The candidates are in the order of the other two, which is not that of the capabilities. */
struct spots {
    _Alignas(64) uint32_t word[LINE_GRANULES];
    _Alignas(64) uint32_t bit[LINE_GRANULES];
    __mmask16 candidates[STEPS];
};

VECTOR_INLINE struct examiner examiner_make(const struct shadow *shadow) {
    return (struct examiner){
        .first = _mm512_set1_epi64((long long)shadow->first),
        .size = _mm512_set1_epi64((long long)(shadow->limit - shadow->first)),
        .bits = shadow->bits,
    };
}

VECTOR_INLINE bool has_any_tag(const struct tag_line *lines) {
    const __m512i left = _mm512_loadu_si512(lines);
    const __m512i right = _mm512_loadu_si512(lines + 4);

    const __mmask8 not_locks = 0x55;

    return _mm512_mask_test_epi64_mask(not_locks, _mm512_or_si512(left, right), _mm512_set1_epi64(-1));
}

VECTOR_INLINE uint32_t lowest_tag(uint64_t tags) {
    return (uint32_t)_tzcnt_u64(tags);
}

#define SHUFFLE(left, right, order)                                                                                    \
    _mm512_castps_si512(_mm512_shuffle_ps(_mm512_castsi512_ps(left), _mm512_castsi512_ps(right), order))
#define LOWER_HALVES(left, right) SHUFFLE(left, right, _MM_SHUFFLE(2, 0, 2, 0))
#define UPPER_HALVES(left, right) SHUFFLE(left, right, _MM_SHUFFLE(3, 1, 3, 1))

/* capability_base for eight. */
VECTOR_INLINE __m512i bases(__m512i address, __m512i exponent, __m512i bottom) {
    const __m512i eighth = _mm512_set1_epi64(1 << (MANTISSA_WIDTH - 3));
    const __m512i unit = _mm512_srlv_epi64(address, exponent);
    const __m512i corner = _mm512_and_si512(bottom, _mm512_set1_epi64(7 << (MANTISSA_WIDTH - 3)));
    const __m512i above_edge = _mm512_add_epi64(_mm512_sub_epi64(unit, corner), eighth);
    const __m512i window = _mm512_and_si512(above_edge, _mm512_set1_epi64(~(long long)MANTISSA_MASK));

    return _mm512_sllv_epi64(_mm512_add_epi64(window, bottom), exponent);
}

/* Decodes sixteen capabilities, quads[i] holding number 4i to 4i + 3. The spots come out transposed, 0 4 8 12, 1 5 9 13
 * and so on; look_up puts that right. */
VECTOR_INLINE void locate(const __m512i quads[4], const struct examiner *examiner, struct spots *spots, unsigned step) {
    const __m512i zero = _mm512_setzero_si512();
    const __m512i address0 = _mm512_unpacklo_epi64(quads[0], quads[1]);
    const __m512i address1 = _mm512_unpacklo_epi64(quads[2], quads[3]);
    const __m512i metadata0 = _mm512_unpackhi_epi64(quads[0], quads[1]);
    const __m512i metadata1 = _mm512_unpackhi_epi64(quads[2], quads[3]);

    const __m512i bounds =
        _mm512_xor_si512(LOWER_HALVES(metadata0, metadata1), _mm512_set1_epi32((int)(uint32_t)METADATA_NULL_MASK));
    const __mmask16 is_internal = _mm512_test_epi32_mask(bounds, _mm512_set1_epi32(1 << INTERNAL_EXPONENT_SHIFT));
    const __m512i half = _mm512_maskz_mov_epi32(is_internal, _mm512_set1_epi32(EXPONENT_HALF_MASK));
    const __m512i upper = _mm512_and_si512(_mm512_srli_epi32(bounds, TOP_FIELD_SHIFT - EXPONENT_HALF_WIDTH),
                                           _mm512_slli_epi32(half, EXPONENT_HALF_WIDTH));
    const __m512i exponent =
        _mm512_min_epu32(_mm512_or_si512(upper, _mm512_and_si512(bounds, half)), _mm512_set1_epi32(EXPONENT_MAXIMUM));
    const __m512i bottom = _mm512_andnot_si512(half, _mm512_and_si512(bounds, _mm512_set1_epi32(MANTISSA_MASK)));

    const __m512i base0 = bases(address0, _mm512_unpacklo_epi32(exponent, zero), _mm512_unpacklo_epi32(bottom, zero));
    const __m512i base1 = bases(address1, _mm512_unpackhi_epi32(exponent, zero), _mm512_unpackhi_epi32(bottom, zero));
    const __m512i offset0 = _mm512_sub_epi64(base0, examiner->first);
    const __m512i offset1 = _mm512_sub_epi64(base1, examiner->first);
    /* As words, not masks, so that they are reordered like everything else. */
    const __m512i ones = _mm512_set1_epi64(-1);
    const __m512i is_covered =
        LOWER_HALVES(_mm512_maskz_mov_epi64(_mm512_cmplt_epu64_mask(offset0, examiner->size), ones),
                     _mm512_maskz_mov_epi64(_mm512_cmplt_epu64_mask(offset1, examiner->size), ones));

    /* SW_VMEM is above all memory permissions: with it, these bits are a number too large; without both, zero. */
    const __m512i permissions = _mm512_and_si512(UPPER_HALVES(metadata0, metadata1),
                                                 _mm512_set1_epi32((int)(REVOCATION_PERMISSIONS_MASK >> 32)));
    const __m512i sw_vmem = _mm512_set1_epi32((int)(REVOCATION_SW_VMEM >> 32));
    const __mmask16 is_memory =
        _mm512_mask_cmplt_epu32_mask(_mm512_test_epi32_mask(permissions, permissions), permissions, sw_vmem);

    const __m512i word =
        LOWER_HALVES(_mm512_srli_epi64(offset0, GRANULE_SHIFT + 5), _mm512_srli_epi64(offset1, GRANULE_SHIFT + 5));
    const __m512i granule = _mm512_srli_epi32(LOWER_HALVES(offset0, offset1), GRANULE_SHIFT);
    _mm512_store_si512(spots->word + step * STEP, word);
    _mm512_store_si512(spots->bit + step * STEP, _mm512_and_si512(granule, _mm512_set1_epi32(31)));
    spots->candidates[step] = _mm512_mask_test_epi32_mask(is_memory, is_covered, is_covered);
}

/* Gathers, masked: who is no candidate reads nothing. They were worth it on the one AVX-512 machine where such a loop,
 * not this kernel, was measured: 17 GiB/s with every granule tagged, against 12 for eight at a time. */
VECTOR_INLINE uint64_t look_up(const struct examiner *examiner, const struct spots *spots, unsigned step) {
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512i zero = _mm512_setzero_si512();
    const __m512i words = _mm512_load_si512(spots->word + step * STEP);
    const __m512i bits = _mm512_load_si512(spots->bit + step * STEP);
    const __m512i found = _mm512_mask_i32gather_epi32(zero, spots->candidates[step], words, examiner->bits, 4);
    const __m512i painted = _mm512_srlv_epi32(found, bits);

    return _mm512_test_epi32_mask(_mm512_permutexvar_epi32(order, painted), _mm512_set1_epi32(1));
}

VECTOR_INLINE uint64_t look_up_all(const struct examiner *examiner, const struct spots *spots) {
    uint64_t revoked = 0;

    for (unsigned step = 0; step < STEPS; step++)
        revoked |= look_up(examiner, spots, step) << step * STEP;
    return revoked;
}

VECTOR_INLINE uint64_t examine_line(const struct granule *twins, const struct examiner *examiner) {
    struct spots spots;

    for (unsigned step = 0; step < STEPS; step++) {
        const struct granule *from = twins + step * STEP;
        const __m512i quads[4] = {_mm512_loadu_si512(from), _mm512_loadu_si512(from + 4), _mm512_loadu_si512(from + 8),
                                  _mm512_loadu_si512(from + 12)};
        locate(quads, examiner, &spots, step);
    }
    return look_up_all(examiner, &spots);
}

VECTOR_INLINE __m512i load_quad(const struct granule *twins, const uint32_t *queue) {
    __m128i one[4];

    for (int i = 0; i < 4; i++)
        one[i] = _mm_loadu_si128((const __m128i *)(const void *)(twins + queue[i]));
    const __m256i left = _mm256_inserti128_si256(_mm256_castsi128_si256(one[0]), one[1], 1);
    const __m256i right = _mm256_inserti128_si256(_mm256_castsi128_si256(one[2]), one[3], 1);
    return _mm512_inserti64x4(_mm512_castsi256_si512(left), right, 1);
}

VECTOR_INLINE uint64_t examine_queue(const struct granule *twins, const uint32_t *queue, const uint32_t *ahead,
                                     const struct examiner *examiner) {
    struct spots spots;

    for (unsigned step = 0; step < STEPS; step++) {
        const uint32_t *from = queue + step * STEP;
        for (unsigned i = 0; i < STEP; i++)
            __builtin_prefetch(twins + ahead[step * STEP + i]);
        const __m512i quads[4] = {load_quad(twins, from), load_quad(twins, from + 4), load_quad(twins, from + 8),
                                  load_quad(twins, from + 12)};
        locate(quads, examiner, &spots, step);
    }
    return look_up_all(examiner, &spots);
}

#include "sweep_body.h"

#else
typedef int sweep_avx512_is_not_compiled;
#endif
