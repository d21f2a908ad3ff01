/* origin.c: both halves of origin.h. */
#include "origin.h"

#include "checks.h"
#include "page_table.h"
#include "register_file.h"
#include "stamps.h"

struct origins origins;

/* The last pass in which the address space of this record has revoked what such a value speaks of; 0: none. */
static uint32_t last_revocation(const struct revocation_record *record, struct granule value) {
    const uint64_t permissions = value.metadata & REVOCATION_PERMISSIONS_MASK;
    const uint64_t offset = capability_base(value) - address_space.arena_base;
    if ((permissions & REVOCATION_MEMORY) == 0 || offset >= address_space.arena_size)
        return 0;
    const char *const memory = (const char *)revocation.records;
    const uint32_t left =
        stamp_at(memory, atomic_load_explicit(&record->left_stamps, memory_order_acquire), offset >> GRANULE_SHIFT);
    if (permissions >= REVOCATION_SW_VMEM)
        return left;
    const uint32_t painted =
        stamp_at(memory, atomic_load_explicit(&record->painted_stamps, memory_order_acquire), offset >> GRANULE_SHIFT);
    return painted > left ? painted : left;
}

/* Whether this value of another address space was revoked after the pass of that number, or its origin is gone. */
static bool is_revoked_since(uint32_t origin, struct granule value, uint64_t passes) {
    const struct revocation_record *const record = &revocation.records[origin % REVOCATION_RECORDS];
    if (atomic_load_explicit(&record->origin, memory_order_acquire) != origin)
        return true;
    const bool is_revoked = last_revocation(record, value) > passes;
    /* Partner: the broker takes the number away before it uses the blocks for something else. */
    return is_revoked || atomic_load_explicit(&record->origin, memory_order_acquire) != origin;
}

/* Before the first value of another address space can be stored: whoever sees its tag sees this (line.h). */
static void note_foreign(void) {
    if (atomic_load_explicit(&origins.has_foreign, memory_order_relaxed))
        return;
    atomic_store_explicit(&origins.has_foreign, true, memory_order_relaxed);
    if (page_table_private_region()->has_lines)
        atomic_store_explicit(&page_table_private_region()->has_origins, true, memory_order_release);
}

uint64_t origin_admit(const struct region *region, const void *values, size_t stride, uint64_t tagged) {
    uint64_t admitted = tagged;
    if (tagged == 0 || !line_has_origins(region))
        return tagged;
    for (uint64_t left = tagged; left != 0; left &= left - 1) {
        const uint32_t i = (uint32_t)__builtin_ctzll(left);
        const struct granule *const value = (const struct granule *)((const char *)values + i * stride);
        if (likely(*granule_origin(value) == 0))
            continue;
        note_foreign();
        if (last_revocation(revocation.record, *value) != 0) {
            admitted &= ~((uint64_t)1 << i);
            atomic_fetch_add_explicit(&origins.refused_loads, 1, memory_order_relaxed);
        }
    }
    return admitted;
}

uint64_t capshm_take_refused_loads(void) {
    return atomic_exchange(&origins.refused_loads, 0);
}

/* The revoked ones among the tagged granules of a line of private memory. */
static uint64_t revoked_in(const struct line_place *place, uint64_t tags, uint64_t passes) {
    uint64_t revoked = 0;
    for (uint64_t left = tags; left != 0; left &= left - 1) {
        const uint32_t i = (uint32_t)__builtin_ctzll(left);
        const uint32_t origin = *line_origin_of(place->region, (uint64_t)&place->data[i]);
        if (origin != 0 && is_revoked_since(origin, place->twin[i], passes))
            revoked |= (uint64_t)1 << i;
    }
    return revoked;
}

static void clear_tags(struct tag_line *line, uint64_t revoked, struct sweep_counts *counts) {
    if (revoked == 0)
        return;
    /* Nobody else writes the line: all are kept out, or the world is stopped. */
    const uint64_t tags = atomic_load_explicit(&line->tags, memory_order_relaxed);
    atomic_store_explicit(&line->tags, tags & ~revoked, memory_order_relaxed);
    counts->cleared += (uint64_t)__builtin_popcountll(revoked);
}

static void sweep_page(struct region *own, uint64_t page, uint64_t passes, struct sweep_counts *counts) {
    for (uint64_t address = page; address < page + PAGE_BYTES; address += LINE_DATA_SIZE) {
        const struct line_place place = line_place_of(own, address, 1);
        const uint64_t tags = atomic_load_explicit(&place.line->tags, memory_order_relaxed);
        clear_tags(place.line, revoked_in(&place, tags, passes), counts);
    }
}

void origin_sweep_memory(uint64_t address, uint64_t length, uint64_t passes, struct sweep_counts *counts) {
    const uint64_t chunk_size = (uint64_t)1 << CHUNK_SHIFT;
    struct region *const own = page_table_private_region();
    for (uint64_t page = address; page < address + length; page += PAGE_BYTES) {
        const uint64_t offset = page - address_space.arena_base;
        if (atomic_load_explicit(&address_space.chunks[offset >> CHUNK_SHIFT], memory_order_relaxed) == 0) {
            page += chunk_size - offset % chunk_size - PAGE_BYTES; /* nothing here was ever tagged */
            continue;
        }
        const uint64_t entry = page_table_look_up_in_arena(page);
        if (page_table_region(entry) == own && (entry & (PAGE_CAPABILITY_DIRTY | PAGE_CAPABILITY_IDLE)))
            sweep_page(own, page, passes, counts);
    }
}

static bool is_register_revoked(const struct capability_register *held) {
    return held->origin != 0 && is_revoked_since(held->origin, held->value, origins.passes);
}

void origin_sweep(struct sweep_counts *counts) {
    register_file_sweep_by(is_register_revoked, counts);
    if (page_table_private_region()->has_lines)
        origin_sweep_memory(address_space.arena_base, address_space.arena_size, origins.passes, counts);
}

/* The broker's half ------------------------------------------------------------------------------------------------ */

/* What is to be done with the values of one origin. */
struct judgement {
    uint32_t origin; /* 0: of no granule yet */
    bool is_gone;
    const struct shadow *shadow; /* NULL: nothing is revoked */
};

static struct judgement judge(uint32_t origin, const struct revocation_record *records,
                              const struct shadow *const *shadows) {
    const uint32_t number = origin % REVOCATION_RECORDS;
    const bool is_gone = atomic_load_explicit(&records[number].origin, memory_order_relaxed) != origin;
    return (struct judgement){origin, is_gone, is_gone ? NULL : shadows[number]};
}

void sweep_by_origin(struct tag_line *lines, const struct granule *twins, const uint32_t *numbers, size_t line_count,
                     const struct revocation_record *records, const struct shadow *const *shadows,
                     struct sweep_counts *counts) {
    struct judgement judgement = {0};
    counts->lines += line_count;
    for (size_t line = 0; line < line_count; line++) {
        const uint64_t tags = atomic_load_explicit(&lines[line].tags, memory_order_relaxed);
        uint64_t revoked = 0;
        for (uint64_t left = tags; left != 0; left &= left - 1) {
            const uint32_t i = (uint32_t)__builtin_ctzll(left);
            const size_t granule = line * LINE_GRANULES + i;
            if (unlikely(numbers[granule] != judgement.origin)) /* neighbours are mostly of one origin */
                judgement = judge(numbers[granule], records, shadows);
            if (judgement.is_gone || (judgement.shadow != NULL && shadow_revokes(judgement.shadow, twins[granule])))
                revoked |= (uint64_t)1 << i;
        }
        counts->found += (uint64_t)__builtin_popcountll(tags);
        clear_tags(&lines[line], revoked, counts);
    }
}
