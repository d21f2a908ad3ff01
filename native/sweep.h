/* sweep.h: finding the capabilities that must go, and taking their tags.
 *
 * Revocation paints the granules of freed memory in a shadow bitmap, stops the world, and then looks at every tagged
 * capability there is: those whose base lies on a painted granule lose their tag. This is the looking, for one object
 * or one private mapping: sweep() for memory, shadow_revokes() for a register or a hoard.
 *
 * What is read: the tag lines, the twins of tagged granules (of lines with many tags, all 64 twins), and the shadow.
 * What is written: tag words, and only where a tag goes. Never touched: the program's data pages. One that is gone,
 * truncated, unreadable or being written by a stranger makes no difference, and no page becomes dirty for the program.
 * That is what twins are for: the twin is the capability as it was last stored. If the data have been overwritten
 * since, unseen by capshm, the granule counts as untagged already, and losing its tag bit changes nothing. The clear
 * map is not consulted, for the same reason. So `found` counts tag bits, some of which may no longer show as a tag to a
 * program. A page of twins without any tag is not read either: most were never written, and reading would allocate
 * them.
 *
 * The world is stopped: nobody is inside an operation, and in a line that a dead holder left locked the tags are true
 * all the same (sideband.h). So no lock is taken and no version moves; tags are read and stored as relaxed atomics, and
 * the gate that stopped the world and opens again orders them with everything before and after. Several sweeps may run
 * at once on different lines.
 *
 * A reservation that leaves quarantine takes all capabilities with it whose base lies there, those with SW_VMEM as well
 * (cheribsd:2.3): a second, plain pass, so that the kernels need not know of it. At most one does so in an epoch.
 *
 * A death in the middle leaves some tags cleared, all of them rightly, and the rest as they were; nothing else was
 * written. The next pass clears the rest. A pass over what was swept already finds nothing to clear.
 *
 * Which kernel runs is chosen when the sweep is called, from what the processor has; all give the same tags and counts.
 * All share one pass (sweep_body.h), which knows two ways: lines with few tags put granule numbers into a queue, whose
 * twins are prefetched well ahead, and lines with many are examined whole. Each line decides, so an object that is
 * dense here and sparse there gets each way where it pays. What decided, in GiB of object a second (64 MiB, 10 % of the
 * shadow painted at random, a 2.4 GHz Zen 3 core with half a MiB of second-level cache that reads 17 GiB/s from DRAM):
 *
 *     share of granules tagged      none    1 %   10 %   50 %   70 %   100 %   10 % by page
 *     AVX2, both ways               4400    150     11    5.8    6.2     6.0             60
 *     AVX2, queue only              4400    160     11    5.5    4.9     4.1             37
 *     AVX2, whole lines only        4400     10      6    6.1    6.1     6.0             62
 *     portable (always queue)       2400     53      7    2.2            1.2             11
 *     plain loop, scalar             770     40      7    2.4            1.2             11
 *     best plain loop of any kind   4400    150     10    4.4            3.8             35
 *
 * The two ways break even at half a line with AVX2. AVX-512 examines twice as many at once, so its line is drawn lower;
 * that kernel's figures are still to be taken. Tried and not kept: gather instructions with AVX2 (a quarter slower than
 * eight loads), testing eight capabilities as soon as they are decoded (15 % slower than decoding 64 and then testing
 * 64, since few look-ups are under way at once); prefetching the shadow or the tag lines, non-temporal prefetch, and
 * other prefetch distances made no difference.
 *
 * There is no coarse map of painted regions. The best it could do, all look-ups answered from the nearest cache, is 1.7
 * times the speed where every granule is tagged; at 10 % and below memory is what counts. Where much is painted it only
 * adds work, and every painter would have to keep it right. Who knows that all paint lies in one range can say so in
 * `first` and `limit`, and gets most of it.
 */
#ifndef CAPSHM_SWEEP_H
#define CAPSHM_SWEEP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "encoding.h"
#include "granule.h"

/* The shadow of the addresses [first, limit): bit i % 64 of bits[i / 64] is granule i, counted from first. Set means
 * painted: capabilities to it are to go. first and limit are multiples of GRANULE_SIZE. The bitmap is whole words; an
 * empty shadow (limit == first) may have none. leaving: the reservation [leaving, leaving_limit) leaves quarantine; none,
 * if the two are equal. */
struct shadow {
    const uint64_t *bits;
    uint64_t first;
    uint64_t limit;
    uint64_t leaving;
    uint64_t leaving_limit;
};

struct sweep_counts {
    uint64_t lines;   /* tag lines visited, empty ones included */
    uint64_t found;   /* tagged granules looked at */
    uint64_t cleared; /* of those, revoked */
};

enum sweep_kernel {
    SWEEP_AUTOMATIC, /* the fastest that is available */
    SWEEP_PORTABLE,  /* C11, everywhere */
    SWEEP_AVX2,
    SWEEP_AVX512,
};

/* The permissions that make a capability one for memory, as bits of the metadata: CheriBSD's memory class
 * (CHERI_PERMS_HWALL_MEMORY), which is execute, load, store, and load, store and store-local of capabilities. */
#define REVOCATION_MEMORY                                                                                              \
    ((uint64_t)(PERMISSION_EXECUTE | PERMISSION_LOAD | PERMISSION_STORE | PERMISSION_LOAD_CAP |                        \
                PERMISSION_STORE_CAP | PERMISSION_STORE_LOCAL)                                                         \
     << HARDWARE_PERMISSIONS_SHIFT)
#define REVOCATION_SW_VMEM                                                                                             \
    ((uint64_t)(PERMISSION_SW_VMEM >> SOFTWARE_PERMISSIONS_FIRST) << SOFTWARE_PERMISSIONS_SHIFT)
#define REVOCATION_PERMISSIONS_MASK (REVOCATION_MEMORY | REVOCATION_SW_VMEM)

_Static_assert(REVOCATION_SW_VMEM > REVOCATION_MEMORY, "kernels compare the masked permissions with SW_VMEM");
_Static_assert((REVOCATION_PERMISSIONS_MASK & METADATA_NULL_MASK) == 0, "permissions are stored as they are");

/* Whether the granule that holds this address is painted. An address outside the shadow is not. */
static inline bool shadow_is_painted(const struct shadow *shadow, uint64_t address) {
    const uint64_t offset = address - shadow->first;

    if (offset >= shadow->limit - shadow->first)
        return false;
    const uint64_t granule = offset >> GRANULE_SHIFT;
    return __atomic_load_n(&shadow->bits[granule / 64], __ATOMIC_RELAXED) >> granule % 64 & 1;
}

/* Whether the base of this capability for memory lies in the reservation that leaves quarantine. */
static inline bool shadow_takes_along(const struct shadow *shadow, struct granule value) {
    return shadow->leaving != shadow->leaving_limit && (value.metadata & REVOCATION_MEMORY) != 0 &&
           capability_base(value) - shadow->leaving < shadow->leaving_limit - shadow->leaving;
}

/* Whether this capability, taken to be tagged, is revoked: it has a memory permission, not SW_VMEM (the allocator's own
 * authority, and what mmap returned, survive), and its base is painted; or its base lies in the reservation that leaves
 * quarantine, and SW_VMEM does not help. Neither its address, nor its top, nor whether it is sealed is looked at.
 * Source: CheriBSD's test with the fine bitmap only. */
static inline bool shadow_revokes(const struct shadow *shadow, struct granule value) {
    const uint64_t permissions = value.metadata & REVOCATION_PERMISSIONS_MASK;

    return (permissions != 0 && permissions < REVOCATION_SW_VMEM &&
            shadow_is_painted(shadow, capability_base(value))) ||
           shadow_takes_along(shadow, value);
}

/* Paints, or cleans, `count` granules of a bitmap from number `first` on, counted as struct shadow counts them. Returns
 * how many changed: less than `count` after painting means that part was painted before, which is how a double free is
 * seen. The range must lie in the bitmap. Several processes may do this at once, on the same words too: every word
 * changes by one atomic operation, and not at all if it has nothing to change. No order with other memory is implied:
 * whoever asks for a revocation after painting asks by a message or through the gate. A death in the middle leaves the
 * range painted up to some word. */
size_t shadow_paint(uint64_t *bits, size_t first, size_t count);
size_t shadow_unpaint(uint64_t *bits, size_t first, size_t count);

/* Whether this build has the kernel and this processor can run it. SWEEP_AUTOMATIC and SWEEP_PORTABLE always are. */
bool sweep_kernel_is_available(enum sweep_kernel kernel);

/* Clears the tag of each tagged granule whose twin `shadow` revokes. twins[64 * i + j] belongs to tag j of lines[i].
 * Adds to `counts`. The world must be stopped; nothing is allocated, nothing can fail, about 6 KiB of stack are used.
 * `kernel` must be available. A shadow of more than 1 TiB is swept by the portable kernel. */
void sweep(struct tag_line *lines, const struct granule *twins, size_t line_count, const struct shadow *shadow,
           enum sweep_kernel kernel, struct sweep_counts *counts);

/* The kernels, called by sweep() only, with at most 2^26 lines: they number granules in 32 bits. */
typedef void sweep_function(struct tag_line *lines, const struct granule *twins, size_t line_count,
                            const struct shadow *shadow, struct sweep_counts *counts);
sweep_function sweep_portable;
#if defined(__x86_64__) && !defined(CAPSHM_PORTABLE)
sweep_function sweep_avx2;
sweep_function sweep_avx512;
#endif

#endif
