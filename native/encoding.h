/* encoding.h: the 128-bit capability format of CHERI-RISC-V (CHERI ISAv9, UCAM-CL-TR-987: CHERI Concentrate).
 *
 * The lower word of a capability is its address. The upper word, the metadata, lies in memory XOR METADATA_NULL_MASK,
 * so that sixteen zero bytes are the null capability. Raw, before that XOR, it holds:
 *
 *     0..13   B, the lower 14 bits of the base's mantissa       45       flag (not interpreted here)
 *     14..25  T, the lower 12 bits of the top's mantissa        46..47   reserved (not interpreted here)
 *     26      internal exponent                                 48..59   hardware permissions
 *     27..44  object type                                       60..63   software permissions
 *
 * With the internal exponent, the lower three bits of T and of B hold the exponent and count as zero in the mantissas.
 * Without it the exponent is 0. Base and top are multiples of 2^exponent bytes.
 *
 * No bit pattern is refused. One that no operation of the ISA makes ("malformed": an exponent above 52, a base above
 * the top) decodes to what the ISA's arithmetic gives, with exponents above 52 taken for 52. Whether a capability may
 * be tagged is decided by how it was made, never by its bits.
 *
 * What a sweep or a memory access asks for is inline and has no branch that depends on data. Everything here is pure:
 * no state, no allocation, safe in a signal handler.
 */
#ifndef CAPSHM_ENCODING_H
#define CAPSHM_ENCODING_H

#include <stdbool.h>
#include <stdint.h>

#include "granule.h"

/* Numbered as software sees them: the bits of the ISA's 64-bit permission operand. Bits 12 to 14 do not exist. */
enum {
    PERMISSION_GLOBAL = 1u << 0,
    PERMISSION_EXECUTE = 1u << 1,
    PERMISSION_LOAD = 1u << 2,
    PERMISSION_STORE = 1u << 3,
    PERMISSION_LOAD_CAP = 1u << 4,
    PERMISSION_STORE_CAP = 1u << 5,
    PERMISSION_STORE_LOCAL = 1u << 6,
    PERMISSION_SEAL = 1u << 7,
    PERMISSION_CINVOKE = 1u << 8,
    PERMISSION_UNSEAL = 1u << 9,
    PERMISSION_SYSTEM_REGISTERS = 1u << 10,
    PERMISSION_SET_CID = 1u << 11,
    PERMISSION_SW0 = 1u << 15,
    PERMISSION_SW1 = 1u << 16,
    PERMISSION_SW2 = 1u << 17,
    PERMISSION_SW3 = 1u << 18,

    PERMISSION_SW_VMEM = PERMISSION_SW1, /* CheriBSD: the holder may change mappings */

    PERMISSIONS_HARDWARE = 0xfffu,
    PERMISSIONS_SOFTWARE = PERMISSION_SW0 | PERMISSION_SW1 | PERMISSION_SW2 | PERMISSION_SW3,
    PERMISSIONS_ALL = PERMISSIONS_HARDWARE | PERMISSIONS_SOFTWARE,
};

enum {
    OBJECT_TYPE_UNSEALED = 0x3ffff,
    OBJECT_TYPE_SENTRY = 0x3fffe,
    OBJECT_TYPE_FIRST_RESERVED = 0x3fffc, /* this one and all above cannot be sealed with */
};

enum {
    MANTISSA_WIDTH = 14,
    MANTISSA_MASK = (1 << MANTISSA_WIDTH) - 1,
    TOP_FIELD_WIDTH = MANTISSA_WIDTH - 2, /* the upper two bits of T follow from B and the length */
    TOP_FIELD_MASK = (1 << TOP_FIELD_WIDTH) - 1,
    TOP_FIELD_SHIFT = MANTISSA_WIDTH,
    INTERNAL_EXPONENT_SHIFT = 26,
    EXPONENT_HALF_WIDTH = 3, /* bits that the internal exponent takes from T, and from B */
    EXPONENT_HALF_MASK = (1 << EXPONENT_HALF_WIDTH) - 1,
    EXPONENT_MAXIMUM = 52,
    OBJECT_TYPE_SHIFT = 27,
    HARDWARE_PERMISSIONS_SHIFT = 48,
    SOFTWARE_PERMISSIONS_SHIFT = 60,
    SOFTWARE_PERMISSIONS_FIRST = 15,
};

#define METADATA_NULL_MASK UINT64_C(0x00001ffffc018004)
#define METADATA_BOUNDS_MASK UINT64_C(0x0000000007ffffff)
#define METADATA_OBJECT_TYPE_MASK ((uint64_t)OBJECT_TYPE_UNSEALED << OBJECT_TYPE_SHIFT)
#define METADATA_PERMISSIONS_MASK UINT64_C(0xffff000000000000)

#define METADATA_NULL UINT64_C(0)
#define METADATA_ROOT METADATA_PERMISSIONS_MASK /* null is unsealed and spans the address space */

_Static_assert(METADATA_NULL_MASK == (METADATA_OBJECT_TYPE_MASK | UINT64_C(1) << INTERNAL_EXPONENT_SHIFT |
                                      (EXPONENT_MAXIMUM >> EXPONENT_HALF_WIDTH) << TOP_FIELD_SHIFT |
                                      (EXPONENT_MAXIMUM & EXPONENT_HALF_MASK)),
               "null is unsealed and has the largest exponent");
_Static_assert((METADATA_NULL_MASK & METADATA_PERMISSIONS_MASK) == 0, "permissions are stored as they are");
_Static_assert(PERMISSION_SW0 == 1 << SOFTWARE_PERMISSIONS_FIRST, "software permissions start at SW0");

/* Bounds in bytes, [base, top). top_carry is bit 64 of the top, 0 or 1: the top of the address space is 2^64.
 * is_valid is always 1 in this format; formats whose bounds may be undecodable (Morello) report that here. */
struct capability_bounds {
    uint64_t base;
    uint64_t top;
    uint32_t top_carry;
    uint32_t is_valid;
};

/* The bounds field unpacked: 14-bit mantissas, exponent 0 to 52. */
struct bounds_field {
    uint64_t bottom;
    uint64_t top;
    uint64_t exponent;
};

static inline struct bounds_field bounds_field_unpack(uint64_t metadata) {
    const uint64_t raw = metadata ^ METADATA_NULL_MASK;
    const uint64_t is_internal = raw >> INTERNAL_EXPONENT_SHIFT & 1;
    const uint64_t exponent_half = EXPONENT_HALF_MASK & -is_internal;
    uint64_t bottom = raw & MANTISSA_MASK;
    uint64_t top = raw >> TOP_FIELD_SHIFT & TOP_FIELD_MASK;
    uint64_t exponent = (top & exponent_half) << EXPONENT_HALF_WIDTH | (bottom & exponent_half);

    exponent = exponent > EXPONENT_MAXIMUM ? EXPONENT_MAXIMUM : exponent;
    bottom &= ~exponent_half;
    top &= ~exponent_half;
    /* Bit 12 of the length is set with an internal exponent, which is chosen so, and clear without. */
    const uint64_t length_carry = top < (bottom & TOP_FIELD_MASK);
    const uint64_t top_upper = (bottom >> TOP_FIELD_WIDTH) + is_internal + length_carry;

    return (struct bounds_field){
        .bottom = bottom,
        .top = top | (top_upper << TOP_FIELD_WIDTH & MANTISSA_MASK),
        .exponent = exponent,
    };
}

/* Bounds are found relative to the representable window: 2^14 units of 2^exponent bytes, the address among them. The
 * number of its first unit is, modulo 2^14, this edge: the base's mantissa rounded down to an eighth of the window,
 * less an eighth. The ISA compares the upper bits of address, base and top with the edge and corrects each by -1, 0 or
 * 1; whoever counts from the edge instead of from 0 has nothing to correct. */
static inline uint64_t window_edge(uint64_t bottom) {
    const uint64_t eighth = UINT64_C(1) << (MANTISSA_WIDTH - 3);
    return (bottom & ~(eighth - 1)) - eighth;
}

/* The number of the window's first unit, less the edge: a multiple of 2^14. */
static inline uint64_t window_number(struct bounds_field field, uint64_t address) {
    return ((address >> field.exponent) - window_edge(field.bottom)) & ~(uint64_t)MANTISSA_MASK;
}

/* The lowest address of the capability, in bytes, whatever its tag and seal. Made for sweeps: every step is one that
 * vector units have for 64-bit words. */
static inline uint64_t capability_base(struct granule value) {
    const struct bounds_field field = bounds_field_unpack(value.metadata);

    /* The base lies one to two eighths above the edge, so its mantissa never wraps. */
    return (window_number(field, value.address) + field.bottom) << field.exponent;
}

/* Base and top of the capability, whatever its tag and seal (ISAv9, getCapBounds). */
static inline struct capability_bounds capability_bounds(struct granule value) {
    const struct bounds_field field = bounds_field_unpack(value.metadata);
    const uint64_t edge = window_edge(field.bottom);
    const uint64_t base = capability_base(value);
    const uint64_t top_above_edge = (field.top - edge) & MANTISSA_MASK;
    const uint64_t top = (window_number(field, value.address) + edge + top_above_edge) << field.exponent;
    /* Bit 64 of the top. From exponent 51 on it is a bit of the mantissa, bit 64 - exponent. Below, a window is no
     * larger than the address space, and the ISA's correction comes to this: the top has passed 2^64 if it is in the
     * lower half of the address space and the base in the upper. */
    const uint64_t carry_by_mantissa = field.top >> (-field.exponent & 63) & 1;
    const uint64_t carry_by_halves = (base & ~top) >> 63;
    const uint64_t is_mantissa = -(uint64_t)(field.exponent >= EXPONENT_MAXIMUM - 1);

    return (struct capability_bounds){
        .base = base,
        .top = top,
        .top_carry = (uint32_t)((carry_by_mantissa & is_mantissa) | (carry_by_halves & ~is_mantissa)),
        .is_valid = 1,
    };
}

/* The permissions as an or of PERMISSION_*. */
static inline uint32_t capability_permissions(uint64_t metadata) {
    return (uint32_t)(metadata >> HARDWARE_PERMISSIONS_SHIFT & PERMISSIONS_HARDWARE) |
           (uint32_t)(metadata >> SOFTWARE_PERMISSIONS_SHIFT) << SOFTWARE_PERMISSIONS_FIRST;
}

/* The object type, 18 bits: OBJECT_TYPE_UNSEALED, OBJECT_TYPE_SENTRY, or what the capability is sealed with. */
static inline uint32_t capability_object_type(uint64_t metadata) {
    return (uint32_t)((metadata ^ METADATA_NULL_MASK) >> OBJECT_TYPE_SHIFT) & OBJECT_TYPE_UNSEALED;
}

static inline bool capability_is_sealed(uint64_t metadata) {
    return capability_object_type(metadata) != OBJECT_TYPE_UNSEALED;
}

/* The metadata with exactly these permissions; bits outside PERMISSIONS_ALL are ignored. Keeping rights from growing is
 * the caller's business: intersect first. */
static inline uint64_t capability_with_permissions(uint64_t metadata, uint32_t permissions) {
    const uint64_t hardware = permissions & PERMISSIONS_HARDWARE;
    const uint64_t software = (permissions & PERMISSIONS_SOFTWARE) >> SOFTWARE_PERMISSIONS_FIRST;

    return (metadata & ~METADATA_PERMISSIONS_MASK) | hardware << HARDWARE_PERMISSIONS_SHIFT |
           software << SOFTWARE_PERMISSIONS_SHIFT;
}

/* The metadata with this object type; bits above its 18 are ignored. Who may seal is the caller's business. */
static inline uint64_t capability_with_object_type(uint64_t metadata, uint32_t object_type) {
    const uint64_t field = ((uint64_t)object_type << OBJECT_TYPE_SHIFT) ^ METADATA_NULL_MASK;

    return (metadata & ~METADATA_OBJECT_TYPE_MASK) | (field & METADATA_OBJECT_TYPE_MASK);
}

/* Narrows *value to [address, address + length), rounded outwards to the next bounds that the format can express
 * (ISAv9, CSetBounds; length in bytes, any value). The address stays. The tag is cleared when the requested range is
 * not inside the old bounds, and when *value is sealed; it is never set.
 * Returns whether the new bounds are the requested ones (CSetBoundsExact clears the tag when they are not). */
bool capability_set_bounds(struct granule *value, bool *tag, uint64_t length);

/* Moves *value to another address (ISAv9, CSetAddr). The metadata stays, and the tag is cleared when it now decodes to
 * other bounds (the exact check, not the fast one of CIncOffset), and when *value is sealed; it is never set. */
void capability_set_address(struct granule *value, bool *tag, uint64_t address);

/* The mask that aligns a base such that bounds of capability_representable_length(length) bytes are exact (ISAv9,
 * CRAM). */
uint64_t capability_representable_mask(uint64_t length);

/* The length rounded up to one that is exact at an aligned base (ISAv9, CRRL). In bytes modulo 2^64, as in the ISA's
 * register: the largest lengths give 0. */
uint64_t capability_representable_length(uint64_t length);

/* The same for the bindings: words in, one struct out. Declared to cffi in encoding.cdef. */
struct capshm_decoded {
    uint64_t base;
    uint64_t top; /* lower 64 bits; bit 64 is top_carry */
    uint32_t top_carry;
    uint32_t permissions;
    uint32_t object_type;
    uint32_t is_valid;
};

struct capshm_derived {
    uint64_t metadata;
    uint64_t address;
    uint32_t tag;
    uint32_t is_exact; /* of capshm_set_bounds; 1 otherwise */
};

void capshm_decode(uint64_t metadata, uint64_t address, struct capshm_decoded *out);
void capshm_set_bounds(uint64_t metadata, uint64_t address, uint32_t tag, uint64_t length, struct capshm_derived *out);
void capshm_set_address(uint64_t metadata, uint64_t address, uint32_t tag, uint64_t new_address,
                        struct capshm_derived *out);
uint64_t capshm_representable_length(uint64_t length);
uint64_t capshm_representable_mask(uint64_t length);

#endif
