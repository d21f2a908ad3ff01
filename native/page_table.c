/* page_table.c: the arena and its table. */
#include "page_table.h"

#include <errno.h>
#include <sys/mman.h>

struct address_space address_space;

static void *reserve(void *address, size_t size, int protection, int flags) {
    return mmap(address, size, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | flags, -1, 0);
}

enum status page_table_initialize(uint64_t arena_base, uint64_t arena_size) {
    const size_t table_size = (arena_size >> PAGE_SHIFT) * sizeof(uint64_t);
    const size_t regions_size = REGIONS * sizeof(struct region);
    void *const arena = reserve((void *)arena_base, arena_size, PROT_NONE, MAP_FIXED_NOREPLACE);
    if (arena == MAP_FAILED)
        return STATUS_NO_MEMORY;
    void *const entries = reserve(NULL, table_size, PROT_READ | PROT_WRITE, 0);
    void *const regions = entries == MAP_FAILED ? MAP_FAILED : reserve(NULL, regions_size, PROT_READ | PROT_WRITE, 0);
    if (arena != (void *)arena_base || regions == MAP_FAILED) {
        const int reason = arena != (void *)arena_base ? EEXIST : errno; /* kernels before 4.17 take it for a hint */
        munmap(arena, arena_size);
        if (entries != MAP_FAILED)
            munmap(entries, table_size);
        errno = reason;
        return STATUS_NO_MEMORY;
    }
    /* A core file must not hold 64 GiB of nothing; failing costs only disk. */
    madvise(arena, arena_size, MADV_DONTDUMP);
    address_space = (struct address_space){
        .entries = entries,
        .entries_origin = (uint64_t)entries - (arena_base >> PAGE_SHIFT) * sizeof(uint64_t),
        .regions = regions,
        .arena_base = arena_base,
        .arena_size = arena_size,
    };
    return STATUS_OK;
}

struct region *page_table_add_region(const struct region_place *place) {
    struct region *free_region = NULL;
    bool is_locking = place->is_locking;
    for (uint32_t number = 0; number < REGIONS; number++) {
        struct region *const other = &address_space.regions[number];
        if (other->object == place->object)
            is_locking = atomic_load_explicit(&other->is_locking, memory_order_relaxed);
        if (other->object == 0 && free_region == NULL)
            free_region = other;
        if (other->base == 0)
            break;
    }
    if (free_region == NULL)
        return NULL;
    const uint64_t first = place->base >> LINE_DATA_SHIFT;
    *free_region = (struct region){
        .lines_origin = place->lines - first * sizeof(struct tag_line),
        .twins_origin = place->twins - place->base,
        .clear_origin = place->clear - first * sizeof(uint64_t),
        .target_origin = ((uint64_t)place->object << 40) + place->first_line + 1 - first,
        .is_locking = is_locking,
        .is_lines_writable = place->is_lines_writable,
        .is_private = place->is_private,
        .has_lines = place->lines != 0,
        .object = place->object,
        .base = place->base,
        .length = place->length,
    };
    return free_region;
}

void page_table_map(struct region *region, uint64_t address, uint64_t length, uint32_t permissions) {
    const uint64_t entry = (uint64_t)region | PAGE_MAPPED | permissions;
    for (uint64_t page = address; page < address + length; page += PAGE_BYTES)
        atomic_store_explicit(page_table_entry_of(page), entry, memory_order_relaxed);
}

static bool has_page(const struct region *region) {
    for (uint64_t page = region->base; page < region->base + region->length; page += PAGE_BYTES) {
        if (page_table_region(page_table_look_up(page)) == region)
            return true;
    }
    return false;
}

void page_table_unmap(uint64_t address, uint64_t length) {
    for (uint64_t page = address; page < address + length; page += PAGE_BYTES) {
        _Atomic uint64_t *const entry = page_table_entry_of(page);
        struct region *const region = page_table_region(atomic_load_explicit(entry, memory_order_relaxed));
        atomic_store_explicit(entry, 0, memory_order_relaxed);
        const bool is_last_of_run =
            page + PAGE_BYTES >= address + length || page_table_region(page_table_look_up(page + PAGE_BYTES)) != region;
        if (is_last_of_run && region != NULL && !has_page(region))
            region->object = 0;
    }
}
