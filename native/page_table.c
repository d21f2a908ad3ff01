/* page_table.c: the arena and its table. */
#include "page_table.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

struct address_space address_space;

static void *reserve(void *address, size_t size, int protection, int flags) {
    return mmap(address, size, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | flags, -1, 0);
}

enum status page_table_initialize(uint64_t arena_base, uint64_t arena_size) {
    const size_t table_size = (arena_size >> PAGE_SHIFT) * sizeof(uint64_t);
    const size_t regions_size = REGIONS * sizeof(struct region);
    const size_t chunks_size = (arena_size >> CHUNK_SHIFT) + 1;
    void *const arena = reserve((void *)arena_base, arena_size, PROT_NONE, MAP_FIXED_NOREPLACE);
    if (arena == MAP_FAILED)
        return STATUS_NO_MEMORY;
    void *const entries = reserve(NULL, table_size, PROT_READ | PROT_WRITE, 0);
    void *const regions = entries == MAP_FAILED ? MAP_FAILED : reserve(NULL, regions_size, PROT_READ | PROT_WRITE, 0);
    void *const chunks = regions == MAP_FAILED ? MAP_FAILED : reserve(NULL, chunks_size, PROT_READ | PROT_WRITE, 0);
    if (arena != (void *)arena_base || chunks == MAP_FAILED) {
        const int reason = arena != (void *)arena_base ? EEXIST : errno; /* kernels before 4.17 take it for a hint */
        munmap(arena, arena_size);
        if (entries != MAP_FAILED)
            munmap(entries, table_size);
        if (regions != MAP_FAILED)
            munmap(regions, regions_size);
        if (chunks != MAP_FAILED)
            munmap(chunks, chunks_size);
        errno = reason;
        return STATUS_NO_MEMORY;
    }
    /* A core file must not hold 64 GiB of nothing; failing costs only disk. */
    madvise(arena, arena_size, MADV_DONTDUMP);
    address_space = (struct address_space){
        .entries = entries,
        .entries_origin = (uint64_t)entries - (arena_base >> PAGE_SHIFT) * sizeof(uint64_t),
        .regions = regions,
        .chunks = chunks,
        .region_count = 1, /* that of private memory */
        .arena_base = arena_base,
        .arena_size = arena_size,
    };
    *page_table_private_region() =
        (struct region){.is_private = true, .base = arena_base, .length = arena_size, .target_origin = 1};
    return STATUS_OK;
}

int page_protection(uint32_t permissions) {
    return (permissions & PAGE_READ ? PROT_READ : 0) | (permissions & PAGE_WRITE ? PROT_WRITE : 0) |
           (permissions & PAGE_EXECUTE ? PROT_EXEC : 0);
}

struct region *page_table_find_object(uint32_t object) {
    for (uint32_t number = 1; number < address_space.region_count; number++) {
        if (address_space.regions[number].object == object)
            return &address_space.regions[number];
    }
    return NULL;
}

/* The one that became free last, or the next that was never used. */
static struct region *take_free_region(void) {
    struct region *const freed = address_space.free_region;
    if (freed != NULL) {
        address_space.free_region = freed->next_free;
        return freed;
    }
    return address_space.region_count == REGIONS ? NULL : &address_space.regions[address_space.region_count++];
}

struct region *page_table_add_region(const struct region_place *place) {
    struct region *const region = take_free_region();
    if (region == NULL)
        return NULL;
    const uint64_t first = place->base >> LINE_DATA_SHIFT;
    *region = (struct region){
        .lines_origin = place->lines - first * sizeof(struct tag_line),
        .twins_origin = place->twins - place->base,
        .clear_origin = place->clear - first * sizeof(uint64_t),
        .origins_origin = place->origins - place->base / ORIGIN_UNIT,
        .has_origins = place->origins != 0,
        .own_origin = place->origins != 0 ? address_space.origin : 0,
        .target_origin = ((uint64_t)place->object << 40) + place->first_line + 1 - first,
        .is_locking = place->is_locking,
        .is_lines_writable = place->is_lines_writable,
        .is_private = place->is_private,
        .has_lines = place->lines != 0,
        .has_clear_map = place->clear != 0,
        .is_copied_on_write = place->is_copied_on_write,
        .is_lost_at_fork = place->is_lost_at_fork,
        .object = place->object,
        .base = place->base,
        .length = place->length,
    };
    memcpy(region->areas, place->areas, sizeof region->areas);
    return region;
}

void page_table_set_origin(uint32_t origin) {
    address_space.origin = origin;
    for (uint32_t number = 1; number < address_space.region_count; number++) {
        if (address_space.regions[number].own_origin != 0)
            address_space.regions[number].own_origin = origin;
    }
}

void page_table_drop_region(struct region *region) {
    *region = (struct region){.next_free = address_space.free_region};
    address_space.free_region = region;
}

static void free_region(struct region *region) {
    for (uint32_t number = 0; number < REGION_AREAS; number++) {
        if (region->areas[number].length != 0)
            munmap((void *)region->areas[number].address, region->areas[number].length);
    }
    page_table_drop_region(region);
}

void page_table_set(uint64_t page, uint64_t entry) {
    _Atomic uint64_t *const place = page_table_entry_of(page);
    struct region *const old = page_table_region(atomic_load_explicit(place, memory_order_relaxed));
    struct region *const new = page_table_region(entry);
    atomic_store_explicit(place, entry, memory_order_relaxed);
    if (new == old)
        return;
    if (new != NULL)
        new->page_count++;
    if (old != NULL && --old->page_count == 0 && old != page_table_private_region())
        free_region(old);
}

void page_table_map(struct region *region, uint64_t address, uint64_t length, uint32_t permissions) {
    const uint64_t entry = (uint64_t)region | PAGE_MAPPED | permissions;
    for (uint64_t page = address; page < address + length; page += PAGE_BYTES)
        page_table_set(page, entry);
}

void page_table_unmap(uint64_t address, uint64_t length) {
    for (uint64_t page = address; page < address + length; page += PAGE_BYTES)
        page_table_set(page, 0);
}

void page_table_reset(void) {
    for (uint32_t number = 1; number < address_space.region_count; number++) {
        if (address_space.regions[number].object != 0)
            free_region(&address_space.regions[number]);
    }
    page_table_private_region()->page_count = 0;
    mmap((void *)address_space.arena_base, address_space.arena_size, PROT_NONE,
         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    madvise(address_space.entries, (address_space.arena_size >> PAGE_SHIFT) * sizeof(uint64_t), MADV_DONTNEED);
    madvise((void *)address_space.chunks, (address_space.arena_size >> CHUNK_SHIFT) + 1, MADV_DONTNEED);
}
