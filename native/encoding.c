/* encoding.c: making bounds. What reads them is inline in encoding.h. */
#include "encoding.h"

/* With an internal exponent, bounds are rounded to units of 2^(exponent + 3) bytes, because the exponent takes three
 * bits of each mantissa. The exponent is the smallest with which the rounded length is below 2^10 units; it is at least
 * 2^9 units then, and decoding relies on that. */
enum {
    UNITS_WIDTH = MANTISSA_WIDTH - EXPONENT_HALF_WIDTH - 1,
    SMALL_LENGTH = 1 << TOP_FIELD_WIDTH, /* below, in bytes: no exponent, always exact */
};

/* field: the 27 bits as they lie in memory. alignment_shift: log2 of what base and top were rounded to, in bytes. */
struct encoded_bounds {
    uint64_t field;
    unsigned alignment_shift;
    bool is_exact;
};

static uint64_t bounds_field_pack(uint64_t bottom, uint64_t top) {
    return (bottom & MANTISSA_MASK) | (top & TOP_FIELD_MASK) << TOP_FIELD_SHIFT;
}

/* How many units of 2^shift bytes the range [base, base + length) touches. */
static uint64_t units_touched(uint64_t base, uint64_t length, unsigned shift) {
    const uint64_t below_unit = (UINT64_C(1) << shift) - 1;

    /* Units and rests apart: base + length may need 65 bits. */
    return (length >> shift) + (((base & below_unit) + (length & below_unit) + below_unit) >> shift);
}

/* The smallest bounds that hold [base, base + length). (ISAv9, setCapBounds) */
static struct encoded_bounds bounds_encode(uint64_t base, uint64_t length) {
    if (length < SMALL_LENGTH)
        return (struct encoded_bounds){
            .field = bounds_field_pack(base, base + length) ^ (METADATA_NULL_MASK & METADATA_BOUNDS_MASK),
            .alignment_shift = 0,
            .is_exact = true,
        };

    unsigned shift = 64 - (unsigned)__builtin_clzll(length) - UNITS_WIDTH; /* ten bits, before rounding */
    shift += units_touched(base, length, shift) >> UNITS_WIDTH != 0;

    const uint64_t bottom = base >> shift;
    const uint64_t top = bottom + units_touched(base, length, shift);
    const uint64_t exponent = shift - EXPONENT_HALF_WIDTH;
    const uint64_t mantissas = bounds_field_pack(bottom << EXPONENT_HALF_WIDTH, top << EXPONENT_HALF_WIDTH);
    const uint64_t halves = bounds_field_pack(exponent & EXPONENT_HALF_MASK, exponent >> EXPONENT_HALF_WIDTH);
    const uint64_t raw = mantissas | halves | UINT64_C(1) << INTERNAL_EXPONENT_SHIFT;

    return (struct encoded_bounds){
        .field = raw ^ (METADATA_NULL_MASK & METADATA_BOUNDS_MASK),
        .alignment_shift = shift,
        .is_exact = ((base | length) & ((UINT64_C(1) << shift) - 1)) == 0,
    };
}

static unsigned __int128 full_top(struct capability_bounds bounds) {
    return (unsigned __int128)bounds.top_carry << 64 | bounds.top;
}

bool capability_set_bounds(struct granule *value, bool *tag, uint64_t length) {
    const struct capability_bounds parent = capability_bounds(*value);
    const unsigned __int128 top = (unsigned __int128)value->address + length;
    const struct encoded_bounds encoded = bounds_encode(value->address, length);

    *tag = *tag && !capability_is_sealed(value->metadata) && parent.base <= value->address && top <= full_top(parent);
    value->metadata = (value->metadata & ~METADATA_BOUNDS_MASK) | encoded.field;
    return encoded.is_exact;
}

void capability_set_address(struct granule *value, bool *tag, uint64_t address) {
    const uint64_t old_base = capability_base(*value);

    value->address = address;
    /* One window places both bounds, and bit 64 of the top follows from the rest: they stay or change together. */
    *tag = *tag && !capability_is_sealed(value->metadata) && capability_base(*value) == old_base;
}

uint64_t capability_representable_mask(uint64_t length) {
    return UINT64_MAX << bounds_encode(0, length).alignment_shift;
}

uint64_t capability_representable_length(uint64_t length) {
    const uint64_t mask = capability_representable_mask(length);

    return (length + ~mask) & mask;
}

void capshm_decode(uint64_t metadata, uint64_t address, struct capshm_decoded *out) {
    const struct granule value = {.address = address, .metadata = metadata};
    const struct capability_bounds bounds = capability_bounds(value);

    *out = (struct capshm_decoded){
        .base = bounds.base,
        .top = bounds.top,
        .top_carry = bounds.top_carry,
        .permissions = capability_permissions(metadata),
        .object_type = capability_object_type(metadata),
        .is_valid = bounds.is_valid,
    };
}

void capshm_set_bounds(uint64_t metadata, uint64_t address, uint32_t tag, uint64_t length, struct capshm_derived *out) {
    struct granule value = {.address = address, .metadata = metadata};
    bool is_tagged = tag != 0;
    const bool is_exact = capability_set_bounds(&value, &is_tagged, length);

    *out = (struct capshm_derived){
        .metadata = value.metadata, .address = value.address, .tag = is_tagged, .is_exact = is_exact};
}

void capshm_set_address(uint64_t metadata, uint64_t address, uint32_t tag, uint64_t new_address,
                        struct capshm_derived *out) {
    struct granule value = {.address = address, .metadata = metadata};
    bool is_tagged = tag != 0;

    capability_set_address(&value, &is_tagged, new_address);
    *out =
        (struct capshm_derived){.metadata = value.metadata, .address = value.address, .tag = is_tagged, .is_exact = 1};
}

uint64_t capshm_representable_length(uint64_t length) {
    return capability_representable_length(length);
}

uint64_t capshm_representable_mask(uint64_t length) {
    return capability_representable_mask(length);
}
