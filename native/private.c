/* private.c: the sideband of private memory, and how a page of an object becomes private; the reasons are in private.h. */
#define _GNU_SOURCE /* mremap */
#include "private.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "capshm.h"
#include "checks.h"
#include "origin.h"
#include "process.h"
#include "program.h"
#include "revoke.h"

enum { PAGE_LINES = PAGE_BYTES / LINE_DATA_SIZE, PAGE_GRANULES = PAGE_BYTES / GRANULE_SIZE };

/* A page as it was, each of its lines at one instant. One is enough: whoever takes it keeps the other threads out. It is
 * not on the stack because a fault handler may have little of it. */
static struct snapshot {
    struct granule data[PAGE_GRANULES];
    uint32_t origins[PAGE_GRANULES];
    uint64_t tagged[PAGE_LINES];
} snapshot;

/* Pages and their tags, staged outside the arena. All of them are in a list, so that a name is known to be one. */
struct stage {
    struct stage *next;
    uint64_t length; /* of the data, in bytes */
    uint64_t passes; /* revocation.passes and machine_passes before the first page was taken */
    uint64_t machine_passes;
    uint64_t *tagged;
    uint32_t *origins;
    char *data; /* NULL once it was adopted */
};

static struct stage *stages; /* written with the lock of the process in hand */

static uint64_t header_size(uint64_t length) {
    const uint64_t tags = (length >> LINE_DATA_SHIFT) * sizeof(uint64_t);
    return (sizeof(struct stage) + tags + length / ORIGIN_UNIT + PAGE_BYTES - 1) & ~(uint64_t)(PAGE_BYTES - 1);
}

static void *map_private(size_t size) {
    return mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
}

enum status private_initialize(void) {
    struct region *const region = page_table_private_region();
    if (region->has_lines)
        return STATUS_OK;
    const uint64_t first = region->base >> LINE_DATA_SHIFT;
    const uint64_t count = region->length >> LINE_DATA_SHIFT;
    const uint64_t lines_size = count * sizeof(struct tag_line);
    const uint64_t clear_size = count * sizeof(uint64_t);
    const uint64_t size = lines_size + region->length + clear_size + region->length / ORIGIN_UNIT;
    char *const memory = map_private(size);
    if (memory == MAP_FAILED)
        return STATUS_NO_MEMORY;
    madvise(memory, size, MADV_DONTDUMP); /* failing costs only disk */
    region->lines_origin = (uint64_t)memory - first * sizeof(struct tag_line);
    region->twins_origin = (uint64_t)memory + lines_size - region->base;
    region->clear_origin = (uint64_t)memory + lines_size + region->length - first * sizeof(uint64_t);
    region->origins_origin = (uint64_t)memory + lines_size + region->length + clear_size - region->base / ORIGIN_UNIT;
    region->has_origins = origins.has_foreign;
    region->target_origin = 1 - first;
    region->is_lines_writable = true;
    region->has_clear_map = true;
    region->has_lines = true;
    return STATUS_OK;
}

/* Zeroes memory that is private to the process: whole pages go back to the kernel, the rest is written. */
static void forget_bytes(uint64_t address, uint64_t length) {
    const uint64_t first_page = (address + PAGE_BYTES - 1) & ~(uint64_t)(PAGE_BYTES - 1);
    const uint64_t end = address + length;
    const uint64_t end_page = end & ~(uint64_t)(PAGE_BYTES - 1);
    if (first_page >= end_page) {
        memset((void *)address, 0, length);
        return;
    }
    memset((void *)address, 0, first_page - address);
    memset((void *)end_page, 0, end - end_page);
    if (madvise((void *)first_page, end_page - first_page, MADV_DONTNEED) != 0)
        memset((void *)first_page, 0, end_page - first_page);
}

void private_forget(uint64_t address, uint64_t length) {
    const struct region *const region = page_table_private_region();
    if (!region->has_lines)
        return;
    const uint64_t first = address >> LINE_DATA_SHIFT;
    const uint64_t count = length >> LINE_DATA_SHIFT;
    forget_bytes(region->lines_origin + first * sizeof(struct tag_line), count * sizeof(struct tag_line));
    forget_bytes(region->clear_origin + first * sizeof(uint64_t), count * sizeof(uint64_t));
    forget_bytes(region->twins_origin + address, length);
    if (region->has_origins)
        forget_bytes(region->origins_origin + address / ORIGIN_UNIT, length / ORIGIN_UNIT);
}

/* Inside the gate. *place: the line that was held, or faulted. */
static enum line_result take_snapshot(uint64_t page, struct line_place *place) {
    static struct value values[LINE_GRANULES]; /* not on the stack, either */
    struct region *const region = page_table_region(page_table_look_up(page));
    for (uint32_t line = 0; line < PAGE_LINES; line++) {
        *place = line_place_of(region, page + line * LINE_DATA_SIZE, LINE_GRANULES);
        uint64_t tagged;
        const enum line_result result = line_load(*place, values, sizeof values[0], &tagged);
        if (result != LINE_DONE)
            return result;
        snapshot.tagged[line] = origin_admit(region, values, sizeof values[0], tagged);
        for (uint32_t i = 0; i < LINE_GRANULES; i++) {
            snapshot.data[line * LINE_GRANULES + i] = values[i].granule;
            snapshot.origins[line * LINE_GRANULES + i] = values[i].origin;
        }
    }
    return LINE_DONE;
}

/* The same for a page that may not be read now: it is made readable for an instant. */
static enum line_result take_snapshot_of_any(uint64_t page, struct line_place *place) {
    const uint64_t entry = page_table_look_up(page);
    const int protection = page_protection((uint32_t)entry);
    if (entry & PAGE_READ)
        return take_snapshot(page, place);
    mprotect((void *)page, PAGE_BYTES, protection | PROT_READ);
    const enum line_result result = take_snapshot(page, place);
    mprotect((void *)page, PAGE_BYTES, protection);
    return result;
}

/* Nobody else looks at these lines: the page does not belong to the region yet. */
static void set_tags(const struct region *region, uint64_t page, const struct granule *data, const uint32_t *origins,
                     const uint64_t *tagged) {
    for (uint32_t line = 0; line < PAGE_LINES; line++) {
        const struct line_place place =
            line_place_of((struct region *)region, page + line * LINE_DATA_SIZE, LINE_GRANULES);
        for (uint64_t left = tagged[line]; left != 0; left &= left - 1) {
            const uint32_t i = (uint32_t)__builtin_ctzll(left);
            place.twin[i] = data[line * LINE_GRANULES + i];
            if (line_has_origins(region))
                line_store_origin(region, (uint64_t)&place.data[i], origins[line * LINE_GRANULES + i]);
        }
        /* Untouched lines stay untouched: they cost no memory. */
        if (atomic_load_explicit(place.clear, memory_order_relaxed) != 0)
            atomic_store_explicit(place.clear, 0, memory_order_relaxed);
        if (atomic_load_explicit(&place.line->tags, memory_order_relaxed) != tagged[line])
            atomic_store_explicit(&place.line->tags, tagged[line], memory_order_relaxed);
    }
}

/* The entry of a page that has become private. A region without tag lines cannot say that capabilities may be loaded, so
 * there the right to store them stands for both. */
static uint64_t private_entry(uint64_t entry) {
    uint64_t flags = entry & PAGE_FLAGS & ~(uint64_t)PAGE_COPY;
    if (entry & PAGE_COPY)
        flags |= PAGE_WRITE;
    if ((flags & PAGE_STORE_CAP) && (flags & PAGE_READ))
        flags |= PAGE_LOAD_CAP;
    return (uint64_t)page_table_private_region() | flags;
}

/* Once tags were set there without a store. */
static void mark_dirty(uint64_t page, const uint64_t *tagged) {
    uint64_t tags = 0;
    for (uint32_t line = 0; line < PAGE_LINES; line++)
        tags |= tagged[line];
    if (tags != 0)
        page_table_mark_dirty(page, page_table_look_up(page));
}

/* Inside the gate, the other threads kept out. errno tells why not. */
static bool replace_page(uint64_t page) {
    const uint64_t entry = private_entry(page_table_look_up(page));
    if (private_initialize() != STATUS_OK)
        return false;
    char *const copy = map_private(PAGE_BYTES);
    if (copy == MAP_FAILED)
        return false;
    memcpy(copy, snapshot.data, PAGE_BYTES);
    if ((entry & PAGE_NOT_FOR_CHILDREN && madvise(copy, PAGE_BYTES, MADV_DONTFORK) != 0) ||
        mprotect(copy, PAGE_BYTES, page_protection((uint32_t)entry)) != 0 ||
        mremap(copy, PAGE_BYTES, PAGE_BYTES, MREMAP_MAYMOVE | MREMAP_FIXED, (void *)page) == MAP_FAILED) {
        const int reason = errno;
        munmap(copy, PAGE_BYTES);
        errno = reason;
        return false;
    }
    set_tags(page_table_private_region(), page, snapshot.data, snapshot.origins, snapshot.tagged);
    page_table_set(page, entry);
    mark_dirty(page, snapshot.tagged);
    return true;
}

/* Whether the shadow revokes a value that this page of an object shows as tagged, or might. */
static bool is_page_revoked(struct region *region, uint64_t page, const struct shadow *shadow) {
    for (uint32_t line = 0; line < PAGE_LINES; line++) {
        const struct line_place place = line_place_of(region, page + line * LINE_DATA_SIZE, LINE_GRANULES);
        for (uint64_t left = atomic_load(&place.line->tags); left != 0; left &= left - 1) {
            if (shadow_revokes(shadow, place.twin[__builtin_ctzll(left)]))
                return true;
        }
    }
    return false;
}

static enum line_result copy_revoked_in(struct region *region, const struct shadow *shadow, struct line_place *place,
                                        uint64_t *count) {
    const uint64_t end = region->base + region->length; /* the region may go with its last page */
    for (uint64_t page = region->base; page < end; page += PAGE_BYTES) {
        const uint64_t entry = page_table_look_up(page);
        if (page_table_region(entry) != region || !(entry & PAGE_LOAD_CAP))
            continue;
        ++*count;
        if (!is_page_revoked(region, page, shadow))
            continue;
        const bool is_last = region->page_count == 1;
        const enum line_result result = take_snapshot_of_any(page, place);
        if (result == LINE_HELD)
            return LINE_HELD;
        if (result == LINE_FAULTED)
            continue; /* past the end of its object: there is nothing to be loaded */
        if (!replace_page(page))
            return LINE_FAULTED;
        if (is_last)
            return LINE_DONE;
    }
    return LINE_DONE;
}

enum line_result private_copy_revoked(const struct shadow *shadow, struct line_place *place, uint64_t *count) {
    enum line_result result = LINE_DONE;
    for (uint32_t number = 1; number < address_space.region_count && result == LINE_DONE; number++) {
        struct region *const region = &address_space.regions[number];
        if (region->object != 0 && region->is_copied_on_write && region->has_lines)
            result = copy_revoked_in(region, shadow, place, count);
    }
    return result;
}

enum status enter_alone(void) {
    for (;;) {
        process_quiesce();
        if (gate_try_enter() != NULL)
            return STATUS_OK;
        process_resume(); /* nobody waits for the gate with the lock in hand (process.h) */
        const enum status status = process_clear_way();
        if (status != STATUS_AGAIN)
            return status;
    }
}

void leave_alone(void) {
    gate_leave();
    process_resume();
}

enum status private_copy_page(uint64_t address, uint32_t authority) {
    const uint64_t page = address & ~(uint64_t)(PAGE_BYTES - 1);
    uint64_t waited = 0;
    for (;;) {
        const enum status entered = enter_alone();
        if (entered != STATUS_OK)
            return refuse(entered, authority, address);
        if (!(page_table_look_up(page) & PAGE_COPY)) {
            leave_alone();
            return STATUS_AGAIN;
        }
        struct line_place place;
        const enum line_result result = take_snapshot_of_any(page, &place);
        if (result == LINE_DONE) {
            const bool is_replaced = replace_page(page);
            leave_alone();
            return is_replaced ? STATUS_AGAIN : refuse(STATUS_NO_MEMORY, authority, address);
        }
        process_resume(); /* still inside the gate */
        const enum status status = leave_unfinished(place, result, authority, page, &waited);
        if (status != STATUS_AGAIN)
            return status;
    }
}

enum status leave_refused(enum status status, uint32_t authority) {
    gate_leave();
    return status == STATUS_COPY_FIRST ? private_copy_page(thread_fault.address, authority) : status;
}

static uint64_t holds; /* how often raw writes were held; with the lock of the process in hand */

void private_hold_raw_writes(void) {
    holds++;
}

/* A raw write to a page that is not private yet, or that was held. Another thread may have copied the page since the
 * fault, or ended the hold: then the write is tried again, but not for ever, because somebody may have protected the
 * page past capshm. */
static bool copy_for_raw_write(uint64_t address) {
    static _Thread_local struct {
        uint64_t address;
        uint64_t holds;
    } tried_again;
    uint64_t entry = address_space.entries == NULL ? 0 : page_table_look_up(address);
    if (entry & PAGE_COPY) {
        tried_again.address = 0;
        return private_copy_page(address, 0) == STATUS_AGAIN;
    }
    if (!(entry & PAGE_WRITE))
        return false;
    process_lock(); /* waits for the end of a hold */
    entry = page_table_look_up(address);
    const uint64_t now = holds;
    process_unlock();
    if (!(entry & (PAGE_WRITE | PAGE_COPY)) || (tried_again.address == address && tried_again.holds == now))
        return false;
    tried_again.address = address;
    tried_again.holds = now;
    return true;
}

void private_handle_raw_writes(void) {
    program_write_fault = copy_for_raw_write;
}

enum line_result private_copy_out(uint64_t address, uint64_t length, char *copy, const struct region *region,
                                  struct line_place *place) {
    for (uint64_t offset = 0; offset < length; offset += PAGE_BYTES) {
        const enum line_result result = take_snapshot(address + offset, place);
        if (result == LINE_HELD)
            return LINE_HELD;
        if (result == LINE_FAULTED)
            memset(&snapshot, 0, sizeof snapshot);
        if (!program_copy(copy + offset, snapshot.data, PAGE_BYTES))
            return LINE_FAULTED;
        if (region != NULL)
            set_tags(region, address + offset, snapshot.data, snapshot.origins, snapshot.tagged);
    }
    return LINE_DONE;
}

static enum status stage_page(uint64_t page, struct stage *stage, uint64_t offset) {
    uint64_t waited = 0;
    for (;;) {
        const enum status entered = enter_alone();
        if (entered != STATUS_OK)
            return entered;
        struct line_place place;
        const enum line_result result = take_snapshot_of_any(page, &place);
        if (result == LINE_DONE || result == LINE_FAULTED) { /* past the end of the object: zero, and untagged */
            if (result == LINE_FAULTED)
                memset(&snapshot, 0, sizeof snapshot);
            memcpy(stage->data + offset, snapshot.data, PAGE_BYTES);
            memcpy(stage->tagged + (offset >> LINE_DATA_SHIFT), snapshot.tagged, sizeof snapshot.tagged);
            if (origins.has_foreign) /* else they are all 0 already */
                memcpy(stage->origins + (offset >> GRANULE_SHIFT), snapshot.origins, sizeof snapshot.origins);
            leave_alone();
            return STATUS_OK;
        }
        process_resume();
        const enum status status = leave_unfinished(place, result, 0, page, &waited);
        if (status != STATUS_AGAIN)
            return status;
    }
}

enum status capshm_stage(uint64_t address, uint64_t length, uint64_t *stage) {
    if (!capshm_is_attached())
        return STATUS_NOT_ATTACHED;
    if (!page_table_is_in_arena(address, length))
        return STATUS_INVALID;
    const uint64_t header = header_size(length);
    char *const memory = map_private(header + length);
    if (memory == MAP_FAILED)
        return STATUS_NO_MEMORY;
    struct stage *const made = (struct stage *)memory;
    uint64_t *const tagged = (uint64_t *)(made + 1);
    *made = (struct stage){
        .length = length,
        .passes = revocation.passes,
        .machine_passes = origins.passes,
        .tagged = tagged,
        .origins = (uint32_t *)(tagged + (length >> LINE_DATA_SHIFT)),
        .data = memory + header,
    };
    for (uint64_t offset = 0; offset < length; offset += PAGE_BYTES) {
        const enum status status = stage_page(address + offset, made, offset);
        if (status != STATUS_OK) {
            munmap(memory, header + length);
            return status;
        }
    }
    process_lock();
    made->next = stages;
    stages = made;
    process_unlock();
    *stage = (uint64_t)made;
    return STATUS_OK;
}

/* Where the list names this stage; NULL: nowhere. With the lock in hand. */
static struct stage **find_stage(uint64_t stage) {
    for (struct stage **place = &stages; *place != NULL; place = &(*place)->next) {
        if ((uint64_t)*place == stage)
            return place;
    }
    return NULL;
}

/* With the other threads kept out. */
static enum status adopt(struct stage *staged, uint64_t address, uint32_t permissions) {
    const uint64_t length = staged->length;
    if (!page_table_is_in_arena(address, length) || staged->data == NULL ||
        (permissions & ~(uint32_t)PAGE_PERMISSIONS) != 0)
        return STATUS_INVALID;
    if (private_initialize() != STATUS_OK)
        return STATUS_NO_MEMORY;
    private_forget(address, length);
    for (uint64_t offset = 0; offset < length; offset += PAGE_BYTES)
        set_tags(page_table_private_region(), address + offset, (const struct granule *)(staged->data + offset),
                 staged->origins + (offset >> GRANULE_SHIFT), staged->tagged + (offset >> LINE_DATA_SHIFT));
    if (mprotect(staged->data, length, page_protection(permissions)) != 0 ||
        mremap(staged->data, length, length, MREMAP_MAYMOVE | MREMAP_FIXED, (void *)address) == MAP_FAILED) {
        private_forget(address, length);
        return STATUS_NO_MEMORY;
    }
    page_table_map(page_table_private_region(), address, length, permissions);
    for (uint64_t offset = 0; offset < length; offset += PAGE_BYTES)
        mark_dirty(address + offset, staged->tagged + (offset >> LINE_DATA_SHIFT));
    if (revocation_was_swept_since(staged->passes)) { /* a pass came between this copy and the fork's */
        struct sweep_counts counts = {0};
        const struct line_place first = line_place_of(page_table_private_region(), address, 1);
        sweep(first.line, first.twin, length >> LINE_DATA_SHIFT, &revocation.shadow, SWEEP_AUTOMATIC, &counts);
    }
    if (origins.has_foreign)
        origin_sweep_memory(address, length, staged->machine_passes, &revocation.counts.tags);
    staged->data = NULL;
    return STATUS_OK;
}

enum status capshm_adopt(uint64_t stage, uint64_t address, uint32_t permissions) {
    if (!capshm_is_attached())
        return STATUS_NOT_ATTACHED;
    process_quiesce();
    struct stage **const place = find_stage(stage);
    const enum status status = place == NULL ? STATUS_INVALID : adopt(*place, address, permissions);
    process_resume();
    return status;
}

void capshm_drop_stage(uint64_t stage) {
    process_lock();
    struct stage **const place = find_stage(stage);
    if (place != NULL) {
        struct stage *const dropped = *place;
        *place = dropped->next;
        if (dropped->data != NULL)
            munmap(dropped->data, dropped->length);
        munmap(dropped, header_size(dropped->length));
    }
    process_unlock();
}
