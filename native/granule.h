/* granule.h: the unit of tagged memory, and the sideband that goes with it.
 *
 * A granule is 16 naturally aligned bytes, the size of a capability (ISAv9, 128-bit format). Program memory holds
 * nothing but the program's bytes. What hardware would keep in tag memory lies beside it, in the sideband of the
 * object:
 *
 *     tag lines   one struct tag_line for each run of 64 granules (1 KiB of data): 1/64 of the object
 *     twins       one struct granule for each granule: the 16 bytes as they were last stored as a capability.
 *                 Sparse: only pages of twins whose granules once held a capability take memory.
 *     origins     one number for each granule: whose capability it is (revoke.h). Sparse, too.
 *     clear map   one bit for each granule, a 64-bit word for each tag line; written by processes that have data
 *                 permission only, which may neither read nor write tag lines and twins.
 *
 * A granule is tagged if and only if its tag bit is set, its clear bit is not, and its twin equals its data.
 * How these are written and read so that no tag is ever forged or torn is the subject of sideband.h.
 */
#ifndef CAPSHM_GRANULE_H
#define CAPSHM_GRANULE_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

enum {
    GRANULE_SIZE = 16,
    GRANULE_SHIFT = 4,
    LINE_GRANULES = 64,
    LINE_DATA_SHIFT = 10, /* a tag line stands for 1 << 10 bytes of data */
    LINE_DATA_SIZE = 1 << LINE_DATA_SHIFT,
    PAGE_SHIFT = 12,
    PAGE_BYTES = 1 << PAGE_SHIFT,
};

/* The 16 bytes of a capability as they lie in memory: the address in the lower word, the metadata in the upper. */
struct granule {
    uint64_t address;
    uint64_t metadata;
};

/* Where the core passes capabilities on, the number of their origin lies behind the 16 bytes: 0 if they are of this address
 * space (revoke.h). */
struct value {
    struct granule granule;
    uint32_t origin;
};

static inline uint32_t *granule_origin(const struct granule *value) {
    return (uint32_t *)(value + 1);
}

/* tags: bit i is the tag of granule i of the run. Written only by the holder of the line's lock, by a thread that alone
 *       can reach the line, or by a sweep while the world is stopped.
 * lock: version (41 bits) << 23 while free; holder, whole-line flag, granule and version while held (sideband.h). */
struct tag_line {
    _Atomic uint64_t tags;
    _Atomic uint64_t lock;
};

_Static_assert(sizeof(struct granule) == GRANULE_SIZE, "a granule is a capability wide");
_Static_assert(sizeof(struct tag_line) * 64 == LINE_DATA_SIZE, "tag lines cost one 64th of the object");
_Static_assert(LINE_DATA_SIZE == GRANULE_SIZE * LINE_GRANULES, "a line stands for 64 granules");

#endif
