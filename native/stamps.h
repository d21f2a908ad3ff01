/* stamps.h: which parts of each address space were revoked machine-wide, and in which pass last.
 *
 * A process that holds values of others must lose those that their origins have had revoked. It sweeps before its next
 * operation, and if it sleeps that may be after the origin has cleared its paint, and painted other things. So the broker
 * writes down, for every granule of each address space, the number of the last machine-wide pass that has revoked it; who
 * has swept for the passes up to number n looks for stamps beyond n. That is exact, whoever sleeps for how long, and it
 * takes no more memory than what was ever revoked: 4 bytes a granule at worst, where a list of passes would grow with time.
 *
 * The stamps of an address space are a tree. A leaf has a stamp for each of 1024 granules. A branch has two numbers for each
 * of 512 parts: the block below, and a stamp for all of the part. A granule's stamp is the largest on the way down, so
 * that a range of any length takes two paths of blocks, and what lies below the whole of a part is dropped.
 *
 * Blocks lie behind the records, in memory that the broker alone writes and all others read. The tree of a living address
 * space changes only while the machine stands still, and readers look inside their operations. When the address space is
 * gone the broker takes the number from its record first, and then the blocks: whoever was reading them may find anything,
 * sees that the number has changed, and takes nothing from what was read (origin.c). A root of 0 is nobody's block. What
 * is stamped stays so as long as the address space is there.
 */
#ifndef CAPSHM_STAMPS_H
#define CAPSHM_STAMPS_H

#include <stdbool.h>
#include <stdint.h>

#include "granule.h"

enum {
    STAMP_BLOCK = 4096,
    STAMP_BLOCKS = 1 << 22, /* in all: stamps of 64 GiB of which every granule was revoked, and sparse */
    STAMP_LEAF_BITS = 10,   /* of the number of a granule, counted from the arena's beginning */
    STAMP_BRANCH_BITS = 9,
    STAMP_BRANCHES = 4,     /* on the way to a leaf: 2^46 granules; arenas have 2^38 at most */
};

struct stamp_branch {
    _Atomic uint32_t stamp;
    _Atomic uint32_t below; /* 0: nothing */
};

/* Where blocks come from; the broker's. */
struct stamps {
    char *memory;  /* block 0 begins here; the first of them hold the records */
    uint32_t next; /* no block from here on was ever used */
    uint32_t freed; /* given back last; each begins with the number of the one before */
};

/* The last pass that has revoked this granule; 0: none. Acquire: partner in origin.c. */
static inline uint32_t stamp_at(const char *memory, uint32_t root, uint64_t granule) {
    uint32_t block = root;
    uint32_t last = 0;
    for (uint32_t shift = STAMP_LEAF_BITS + (STAMP_BRANCHES - 1) * STAMP_BRANCH_BITS;
         block != 0 && block < STAMP_BLOCKS; shift -= STAMP_BRANCH_BITS) {
        const char *const content = memory + (uint64_t)block * STAMP_BLOCK;
        if (shift < STAMP_LEAF_BITS) {
            const uint64_t number = granule & (((uint64_t)1 << STAMP_LEAF_BITS) - 1);
            const uint32_t stamp =
                atomic_load_explicit((const _Atomic uint32_t *)content + number, memory_order_acquire);
            return stamp > last ? stamp : last;
        }
        const struct stamp_branch *const branch =
            (const struct stamp_branch *)content + (granule >> shift & (((uint64_t)1 << STAMP_BRANCH_BITS) - 1));
        const uint32_t stamp = atomic_load_explicit(&branch->stamp, memory_order_acquire);
        last = stamp > last ? stamp : last;
        block = atomic_load_explicit(&branch->below, memory_order_acquire);
    }
    return last;
}

/* Stamps the granules [first, end) with a number that is larger than all before. False: there is no block left; some of
 * them may have been stamped. */
bool stamps_mark(struct stamps *stamps, uint32_t *root, uint64_t first, uint64_t end, uint32_t number);

/* The same for every granule that is painted among `count` words of a shadow, the first of which stands for the granules
 * from `first` on. */
bool stamps_mark_painted(struct stamps *stamps, uint32_t *root, const uint64_t *words, uint64_t count, uint64_t first,
                         uint32_t number);

/* A copy of a tree: *copy. False: there is no block left, and nothing was taken. */
bool stamps_copy(struct stamps *stamps, uint32_t root, uint32_t *copy);

/* Gives the blocks of a tree back, and makes its root 0. */
void stamps_drop(struct stamps *stamps, uint32_t *root);

#endif
