/* mapping.c: carries out what was decided about mappings: memory, sideband and page table change together.
 *
 * Whoever decides (the broker, on its model) has checked everything, so what can still fail here is the kernel's memory.
 * The sideband is mapped first, where the kernel likes; then, while the other threads of the process are kept out, the
 * data takes its place in the arena and the page table follows. Until the data is mapped nothing has changed; what it
 * replaces is gone in the same instant.
 */
#include <errno.h>
#include <sys/mman.h>

#include "capshm.h"
#include "checks.h"
#include "page_table.h"
#include "private.h"
#include "process.h"

enum { LINES_AREA, TWINS_AREA, ORIGINS_AREA, CLEAR_AREA };

/* Sideband of offset .. offset + length of an object: the file's part that starts at start and has size bytes for each
 * unit of data. The address of the first byte that belongs to offset goes to *address. */
static bool map_sideband(const struct capshm_object_mapping *mapping, int descriptor, uint64_t start, uint64_t size,
                         uint64_t unit, bool is_writable, struct area *area, uint64_t *address) {
    const uint64_t first = start + mapping->offset / unit * size;
    const uint64_t end = start + (mapping->offset + mapping->length) / unit * size;
    const uint64_t first_page = first & ~(uint64_t)(PAGE_BYTES - 1);
    const uint64_t length = (end - first_page + PAGE_BYTES - 1) & ~(uint64_t)(PAGE_BYTES - 1);
    const int protection = is_writable ? PROT_READ | PROT_WRITE : PROT_READ;
    void *const memory = mmap(NULL, length, protection, MAP_SHARED, descriptor, (off_t)first_page);
    if (memory == MAP_FAILED)
        return false;
    madvise(memory, length, MADV_DONTDUMP); /* failing costs only disk */
    *area = (struct area){(uint64_t)memory, length};
    *address = (uint64_t)memory + (first - first_page);
    return true;
}

/* The child of a fork must not even be able to read these. */
static bool keep_from_children(const struct area *area) {
    return area->length == 0 || madvise((void *)area->address, area->length, MADV_DONTFORK) == 0;
}

static bool map_sidebands(const struct capshm_object_mapping *mapping, struct region_place *place) {
    const bool is_writable = mapping->is_tags_writable && mapping->is_shared;
    struct area *const areas = place->areas;
    if (mapping->clear >= 0 && !map_sideband(mapping, mapping->clear, 0, sizeof(uint64_t), LINE_DATA_SIZE,
                                             mapping->is_clear_writable, &areas[CLEAR_AREA], &place->clear))
        return false;
    if (mapping->tags < 0)
        return true;
    return map_sideband(mapping, mapping->tags, 0, sizeof(struct tag_line), LINE_DATA_SIZE, is_writable,
                        &areas[LINES_AREA], &place->lines) &&
           map_sideband(mapping, mapping->tags, TWINS_OFFSET, GRANULE_SIZE, GRANULE_SIZE, is_writable,
                        &areas[TWINS_AREA], &place->twins) &&
           (address_space.origin == 0 || map_sideband(mapping, mapping->tags, ORIGINS_OFFSET, 1, ORIGIN_UNIT,
                                                      is_writable, &areas[ORIGINS_AREA], &place->origins)) &&
           (!place->is_lost_at_fork ||
            (keep_from_children(&areas[LINES_AREA]) && keep_from_children(&areas[TWINS_AREA]) &&
             keep_from_children(&areas[ORIGINS_AREA])));
}

static void unmap_sidebands(const struct region_place *place) {
    for (uint32_t number = 0; number < REGION_AREAS; number++) {
        if (place->areas[number].length != 0)
            munmap((void *)place->areas[number].address, place->areas[number].length);
    }
}

/* The permissions of an entry for a page that belongs to this region. What its tag lines cannot serve is left out, but for
 * the right to store capabilities where the page is copied first: it then has tag lines of its own. */
static uint32_t first_permissions(const struct region *region, uint32_t permissions) {
    if (!region->has_lines)
        permissions &= ~(uint32_t)PAGE_LOAD_CAP;
    if (region->is_copied_on_write)
        return permissions & PAGE_WRITE ? (permissions & ~(uint32_t)PAGE_WRITE) | PAGE_COPY : permissions;
    return region->is_lines_writable ? permissions : permissions & ~(uint32_t)PAGE_STORE_CAP;
}

/* Whether any of these pages is private memory: no others have anything in the sideband of private memory. */
static bool has_private_pages(uint64_t address, uint64_t length) {
    for (uint64_t page = address; page < address + length; page += PAGE_BYTES) {
        if (page_table_region(page_table_look_up(page)) == page_table_private_region())
            return true;
    }
    return false;
}

/* With the other threads kept out. */
static enum status map_data(const struct capshm_object_mapping *mapping, struct region *region) {
    const bool is_anonymous = mapping->data < 0;
    const uint32_t permissions = first_permissions(region, mapping->permissions);
    const int flags = MAP_FIXED | MAP_NORESERVE | (is_anonymous ? MAP_PRIVATE | MAP_ANONYMOUS : 0) |
                      (!is_anonymous ? (mapping->is_shared ? MAP_SHARED : MAP_PRIVATE) : 0);
    if (mmap((void *)mapping->address, mapping->length, page_protection(permissions), flags, mapping->data,
             is_anonymous ? 0 : (off_t)mapping->offset) == MAP_FAILED)
        return STATUS_NO_MEMORY;
    if (has_private_pages(mapping->address, mapping->length))
        private_forget(mapping->address, mapping->length);
    page_table_map(region, mapping->address, mapping->length, permissions);
    return STATUS_OK;
}

static enum status map_private_memory(const struct capshm_object_mapping *mapping) {
    enum status status = private_initialize();
    if (status == STATUS_OK)
        status = map_data(mapping, page_table_private_region());
    return status;
}

static enum status map_object(const struct capshm_object_mapping *mapping, const struct region_place *place) {
    struct region *const region = page_table_add_region(place);
    if (region == NULL) {
        errno = ENOMEM;
        return STATUS_NO_MEMORY;
    }
    const enum status status = map_data(mapping, region);
    if (status != STATUS_OK)
        page_table_drop_region(region);
    return status;
}

static bool is_valid(const struct capshm_object_mapping *mapping) {
    return page_table_is_in_arena(mapping->address, mapping->length) && mapping->offset % PAGE_BYTES == 0 &&
           mapping->offset <= OBJECT_SIZE_MAX && mapping->length <= OBJECT_SIZE_MAX - mapping->offset &&
           (mapping->permissions & ~(uint32_t)PAGE_PERMISSIONS) == 0 &&
           (mapping->data < 0 || (mapping->object != 0 && mapping->object < GATE_OBJECTS));
}

/* But for the sidebands. */
static struct region_place place_of(const struct capshm_object_mapping *mapping) {
    return (struct region_place){
        .base = mapping->address,
        .length = mapping->length,
        .first_line = mapping->offset >> LINE_DATA_SHIFT,
        .object = mapping->object,
        .is_lines_writable = mapping->tags >= 0 && mapping->is_tags_writable && mapping->is_shared,
        .is_locking = true, /* any other process may map it at any time */
        .is_copied_on_write = !mapping->is_shared,
        .is_lost_at_fork = !mapping->is_kept_at_fork && mapping->is_shared,
    };
}

enum status capshm_map_object(const struct capshm_object_mapping *mapping) {
    if (!capshm_is_attached())
        return STATUS_NOT_ATTACHED;
    if (!is_valid(mapping))
        return STATUS_INVALID;
    struct region_place place = place_of(mapping);
    if (mapping->data >= 0 && !map_sidebands(mapping, &place)) {
        const int reason = errno;
        unmap_sidebands(&place);
        errno = reason;
        return STATUS_NO_MEMORY;
    }
    process_quiesce();
    const enum status status = mapping->data < 0 ? map_private_memory(mapping) : map_object(mapping, &place);
    process_resume();
    if (status != STATUS_OK && mapping->data >= 0) {
        const int reason = errno;
        unmap_sidebands(&place);
        errno = reason;
    }
    return status;
}

/* What the entry of a page asks the kernel for; while its memory is copied: the page may be read, and not written. */
static int protection_of(uint64_t page, bool is_being_copied) {
    const int protection = page_protection((uint32_t)page_table_look_up(page));
    return is_being_copied ? (protection | PROT_READ) & ~PROT_WRITE : protection;
}

/* By the longest runs that have the kernel asked for the same. */
static bool protect_pages(uint64_t address, uint64_t length, bool are_being_copied) {
    for (uint64_t first = address, end = address + length; first < end;) {
        const int protection = protection_of(first, are_being_copied);
        uint64_t page = first + PAGE_BYTES;
        while (page < end && protection_of(page, are_being_copied) == protection)
            page += PAGE_BYTES;
        if (mprotect((void *)first, page - first, protection) != 0)
            return false;
        first = page;
    }
    return true;
}

enum status capshm_protect(uint64_t address, uint64_t length, uint32_t permissions) {
    if (!capshm_is_attached())
        return STATUS_NOT_ATTACHED;
    if (!page_table_is_in_arena(address, length) || (permissions & ~(uint32_t)PAGE_PERMISSIONS) != 0)
        return STATUS_INVALID;
    process_quiesce();
    for (uint64_t page = address; page < address + length; page += PAGE_BYTES) {
        const uint64_t entry = page_table_look_up(page);
        const struct region *const region = page_table_region(entry);
        const uint64_t kept = entry & ~(uint64_t)(PAGE_PERMISSIONS | PAGE_COPY);
        if (entry & PAGE_MAPPED)
            page_table_set(page, kept | first_permissions(region, permissions));
    }
    const bool is_done = protect_pages(address, length, false);
    process_resume();
    return is_done ? STATUS_OK : STATUS_NO_MEMORY;
}

/* Where a range that moves is written: the memory of its new object, outside the arena. */
struct destination {
    char *data;
    struct region_place place; /* its sidebands, for the addresses of the range */
};

static bool map_destination(const struct capshm_object_mapping *mapping, int data, int tags,
                            struct destination *destination) {
    struct capshm_object_mapping writable = *mapping;
    writable.tags = tags;
    writable.is_tags_writable = true;
    *destination = (struct destination){.data = MAP_FAILED, .place = place_of(&writable)};
    if (!map_sidebands(&writable, &destination->place))
        return false;
    destination->data = mmap(NULL, mapping->length, PROT_READ | PROT_WRITE, MAP_SHARED, data, (off_t)mapping->offset);
    return destination->data != MAP_FAILED;
}

static void unmap_destination(const struct capshm_object_mapping *mapping, const struct destination *destination) {
    if (destination->data != MAP_FAILED)
        munmap(destination->data, mapping->length);
    unmap_sidebands(&destination->place);
}

/* Whether all of these pages are this process's own, or become so when they are written. */
static bool has_only_own_pages(uint64_t address, uint64_t length) {
    for (uint64_t page = address; page < address + length; page += PAGE_BYTES) {
        const struct region *const region = page_table_region(page_table_look_up(page));
        if (region == NULL || (region != page_table_private_region() && !region->is_copied_on_write))
            return false;
    }
    return true;
}

/* Alone, and nobody writes past the library. LINE_FAULTED: no memory for the copy. */
static enum line_result copy_out(const struct capshm_object_mapping *mapping, const struct destination *destination,
                                 struct line_place *held) {
    struct region *region = NULL;
    if (mapping->tags >= 0) {
        region = page_table_add_region(&destination->place);
        if (region == NULL)
            return LINE_FAULTED;
    }
    const enum line_result result =
        private_copy_out(mapping->address, mapping->length, destination->data, region, held);
    if (region != NULL)
        page_table_drop_region(region);
    return result;
}

/* STATUS_AGAIN: somebody in another process had a line in hand. */
static enum status try_to_move(const struct capshm_object_mapping *mapping, const struct region_place *place,
                               const struct destination *destination, uint64_t *waited) {
    enum status status = enter_alone();
    if (status != STATUS_OK)
        return status;
    if (!has_only_own_pages(mapping->address, mapping->length)) {
        leave_alone();
        return STATUS_INVALID;
    }
    private_hold_raw_writes();
    struct line_place held;
    enum line_result result = LINE_DONE;
    status = protect_pages(mapping->address, mapping->length, true) ? STATUS_OK : STATUS_NO_MEMORY;
    if (status == STATUS_OK)
        result = copy_out(mapping, destination, &held);
    if (result == LINE_FAULTED) {
        errno = ENOMEM;
        status = STATUS_NO_MEMORY;
    } else if (result == LINE_DONE && status == STATUS_OK) {
        status = map_object(mapping, place);
        if (status == STATUS_OK) {
            leave_alone();
            return STATUS_OK;
        }
    }
    const int reason = errno;
    protect_pages(mapping->address, mapping->length, false);
    errno = reason;
    if (result != LINE_HELD) {
        leave_alone();
        return status;
    }
    process_resume(); /* still inside the gate */
    return leave_unfinished(held, result, 0, (uint64_t)held.data, waited);
}

enum status capshm_move_into_object(const struct capshm_object_mapping *mapping, int data, int tags) {
    if (!capshm_is_attached())
        return STATUS_NOT_ATTACHED;
    if (!is_valid(mapping) || mapping->data < 0 || !mapping->is_shared || (mapping->tags >= 0) != (tags >= 0) ||
        (tags >= 0 && mapping->clear < 0))
        return STATUS_INVALID;
    struct region_place place = place_of(mapping);
    struct destination destination = {.data = MAP_FAILED};
    enum status status = STATUS_NO_MEMORY;
    if (map_sidebands(mapping, &place) && map_destination(mapping, data, tags, &destination)) {
        uint64_t waited = 0;
        do
            status = try_to_move(mapping, &place, &destination, &waited);
        while (status == STATUS_AGAIN);
    }
    const int reason = errno;
    unmap_destination(mapping, &destination);
    if (status != STATUS_OK)
        unmap_sidebands(&place);
    errno = reason;
    return status;
}

enum status capshm_unmap_range(uint64_t address, uint64_t length) {
    if (!capshm_is_attached())
        return STATUS_NOT_ATTACHED;
    if (!page_table_is_in_arena(address, length))
        return STATUS_INVALID;
    process_quiesce();
    const enum status status = capshm_unmap_memory(address, length);
    if (status == STATUS_OK) {
        const bool is_private = has_private_pages(address, length);
        page_table_unmap(address, length);
        if (is_private)
            private_forget(address, length);
    }
    process_resume();
    return status;
}

enum status capshm_set_inherit(uint64_t address, uint64_t length, bool is_inherited) {
    if (!capshm_is_attached())
        return STATUS_NOT_ATTACHED;
    if (!page_table_is_in_arena(address, length))
        return STATUS_INVALID;
    process_quiesce();
    const bool is_done = madvise((void *)address, length, is_inherited ? MADV_DOFORK : MADV_DONTFORK) == 0;
    if (!is_done && errno == EAGAIN)
        errno = ENOMEM; /* madvise's name for too many areas */
    for (uint64_t page = address; is_done && page < address + length; page += PAGE_BYTES) {
        const uint64_t kept = page_table_look_up(page) & ~(uint64_t)PAGE_NOT_FOR_CHILDREN;
        if (kept & PAGE_MAPPED)
            page_table_set(page, kept | (is_inherited ? 0 : PAGE_NOT_FOR_CHILDREN));
    }
    process_resume();
    return is_done ? STATUS_OK : STATUS_NO_MEMORY;
}

static void lose_tags(struct region *region) {
    region->has_lines = false;
    region->is_lines_writable = false;
    region->areas[LINES_AREA].length = 0;
    region->areas[TWINS_AREA].length = 0;
    region->areas[ORIGINS_AREA].length = 0;
    for (uint64_t page = region->base; page < region->base + region->length; page += PAGE_BYTES) {
        const uint64_t entry = page_table_look_up(page);
        if (page_table_region(entry) == region)
            page_table_set(page, entry & ~(uint64_t)(PAGE_LOAD_CAP | PAGE_STORE_CAP));
    }
}

void mapping_lose_tags_at_fork(void) {
    for (uint32_t number = 1; number < address_space.region_count; number++) {
        struct region *const region = &address_space.regions[number];
        /* The kernel did not copy them; something else may lie there. */
        if (region->object != 0 && region->is_lost_at_fork && region->has_lines)
            lose_tags(region);
    }
}

enum status capshm_lose_tags(uint64_t address, uint64_t length) {
    if (!capshm_is_attached())
        return STATUS_NOT_ATTACHED;
    if (!page_table_is_in_arena(address, length))
        return STATUS_INVALID;
    process_quiesce();
    for (uint64_t page = address; page < address + length; page += PAGE_BYTES) {
        struct region *const region = page_table_region(page_table_look_up(page));
        if (region == NULL || region == page_table_private_region() || !region->has_lines)
            continue;
        munmap((void *)region->areas[LINES_AREA].address, region->areas[LINES_AREA].length);
        munmap((void *)region->areas[TWINS_AREA].address, region->areas[TWINS_AREA].length);
        if (region->areas[ORIGINS_AREA].length != 0)
            munmap((void *)region->areas[ORIGINS_AREA].address, region->areas[ORIGINS_AREA].length);
        lose_tags(region);
    }
    process_resume();
    return STATUS_OK;
}
