/* stamps.c: the broker's half of stamps.h. */
#include "stamps.h"

#include <string.h>

#include "capshm.h"

enum { ROOT_SHIFT = STAMP_LEAF_BITS + (STAMP_BRANCHES - 1) * STAMP_BRANCH_BITS };

static void *content_of(const struct stamps *stamps, uint32_t block) {
    return stamps->memory + (uint64_t)block * STAMP_BLOCK;
}

/* Zeroed; 0: none is left. */
static uint32_t take_block(struct stamps *stamps) {
    uint32_t block = stamps->freed;
    if (block != 0)
        memcpy(&stamps->freed, content_of(stamps, block), sizeof stamps->freed);
    else if (stamps->next < STAMP_BLOCKS)
        block = stamps->next++;
    if (block != 0)
        memset(content_of(stamps, block), 0, STAMP_BLOCK);
    return block;
}

/* shift: of the block, as stamp_at counts; a leaf's is less than STAMP_LEAF_BITS. */
static void drop(struct stamps *stamps, uint32_t block, uint32_t shift) {
    if (block == 0)
        return;
    if (shift >= STAMP_LEAF_BITS) {
        const struct stamp_branch *const branches = content_of(stamps, block);
        for (uint32_t i = 0; i < 1 << STAMP_BRANCH_BITS; i++)
            drop(stamps, branches[i].below, shift - STAMP_BRANCH_BITS);
    }
    memcpy(content_of(stamps, block), &stamps->freed, sizeof stamps->freed);
    stamps->freed = block;
}

static bool mark_leaf(struct stamps *stamps, uint32_t block, uint64_t first, uint64_t end, uint32_t number) {
    _Atomic uint32_t *const leaf = content_of(stamps, block);
    for (uint64_t i = first; i < end; i++)
        atomic_store_explicit(&leaf[i], number, memory_order_relaxed);
    return true;
}

/* first, end: counted from the block's first granule. */
static bool mark(struct stamps *stamps, uint32_t block, uint32_t shift, uint64_t first, uint64_t end, uint32_t number) {
    if (shift < STAMP_LEAF_BITS)
        return mark_leaf(stamps, block, first, end, number);
    struct stamp_branch *const branches = content_of(stamps, block);
    const uint64_t size = (uint64_t)1 << shift;
    for (uint64_t start = first & ~(size - 1); start < end; start += size) {
        struct stamp_branch *const branch = &branches[start >> shift];
        const uint64_t from = first > start ? first - start : 0;
        const uint64_t to = end - start < size ? end - start : size;
        if (from == 0 && to == size) {
            drop(stamps, branch->below, shift - STAMP_BRANCH_BITS);
            branch->below = 0;
            branch->stamp = number;
            continue;
        }
        if (branch->below == 0)
            branch->below = take_block(stamps);
        if (branch->below == 0 || !mark(stamps, branch->below, shift - STAMP_BRANCH_BITS, from, to, number))
            return false;
    }
    return true;
}

uint32_t capshm_stamp_at(const char *memory, uint32_t root, uint64_t granule) {
    return stamp_at(memory, root, granule);
}

bool stamps_mark(struct stamps *stamps, uint32_t *root, uint64_t first, uint64_t end, uint32_t number) {
    if (*root == 0)
        *root = take_block(stamps);
    return *root != 0 && mark(stamps, *root, ROOT_SHIFT, first, end, number);
}

bool stamps_mark_painted(struct stamps *stamps, uint32_t *root, const uint64_t *words, uint64_t count, uint64_t first,
                         uint32_t number) {
    uint64_t begin = 0; /* of a run of painted granules, counted from `first` */
    bool is_inside = false;
    for (uint64_t i = 0; i < count; i++) {
        const uint64_t word = __atomic_load_n(&words[i], __ATOMIC_RELAXED);
        if (word == (is_inside ? UINT64_MAX : 0))
            continue;
        for (uint64_t granule = 64 * i; granule < 64 * (i + 1); granule++) {
            const bool is_painted = word >> granule % 64 & 1;
            if (is_painted == is_inside)
                continue;
            is_inside = is_painted;
            if (is_painted)
                begin = granule;
            else if (!stamps_mark(stamps, root, first + begin, first + granule, number))
                return false;
        }
    }
    return !is_inside || stamps_mark(stamps, root, first + begin, first + 64 * count, number);
}

static uint32_t copy_block(struct stamps *stamps, uint32_t block, uint32_t shift) {
    const uint32_t made = take_block(stamps);
    if (made == 0)
        return 0;
    if (shift < STAMP_LEAF_BITS) {
        memcpy(content_of(stamps, made), content_of(stamps, block), STAMP_BLOCK);
        return made;
    }
    const struct stamp_branch *const from = content_of(stamps, block);
    struct stamp_branch *const to = content_of(stamps, made);
    for (uint32_t i = 0; i < 1 << STAMP_BRANCH_BITS; i++) {
        to[i].stamp = from[i].stamp;
        to[i].below = from[i].below == 0 ? 0 : copy_block(stamps, from[i].below, shift - STAMP_BRANCH_BITS);
        if (from[i].below != 0 && to[i].below == 0) {
            drop(stamps, made, shift);
            return 0;
        }
    }
    return made;
}

bool stamps_copy(struct stamps *stamps, uint32_t root, uint32_t *copy) {
    *copy = root == 0 ? 0 : copy_block(stamps, root, ROOT_SHIFT);
    return root == 0 || *copy != 0;
}

void stamps_drop(struct stamps *stamps, uint32_t *root) {
    drop(stamps, *root, ROOT_SHIFT);
    *root = 0;
}
