/* revoke.c: records, paint, and the sweep of one's own; the reasons are in revoke.h. */
#define _GNU_SOURCE /* SEEK_DATA */
#include "revoke.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "capshm.h"
#include "checks.h"
#include "clock.h"
#include "origin.h"
#include "private.h"
#include "process.h"
#include "stamps.h"

enum { CHUNK_PAGES = 1 << (CHUNK_SHIFT - PAGE_SHIFT), PAGE_LINES = PAGE_BYTES / LINE_DATA_SIZE };

struct revocation revocation;

/* What a fork that is being prepared has for its child. */
static struct child {
    uint32_t record; /* 0: none is being prepared, or not in a machine */
    int shadow;      /* -1: the child begins with a private one, in which nothing is painted */
    int parent_shadow;
} child = {.shadow = -1, .parent_shadow = -1};
static uint64_t passes_of_child;
static uint64_t passes_at_fork;

static size_t shadow_size(void) {
    return address_space.arena_size >> GRANULE_SHIFT >> 3;
}

static void *map_shadow(void *address, int flags, int descriptor) {
    return mmap(address, shadow_size(), PROT_READ | PROT_WRITE, MAP_NORESERVE | flags, descriptor, 0);
}

bool revocation_begin(const struct gate *gate, bool is_shared) {
    void *const bits = map_shadow(NULL, MAP_ANONYMOUS | (is_shared ? MAP_SHARED : MAP_PRIVATE), -1);
    if (bits == MAP_FAILED)
        return false;
    madvise(bits, shadow_size(), MADV_DONTDUMP); /* failing costs only disk */
    revocation = (struct revocation){
        .shadow = {.bits = bits,
                   .first = address_space.arena_base,
                   .limit = address_space.arena_base + address_space.arena_size},
        .bits = bits,
        .epoch = atomic_load(&gate->epoch), /* there is nothing to sweep yet */
    };
    origins = (struct origins){.passes = 0};
    page_table_private_region()->has_origins = false;
    return true;
}

void revocation_end(void) {
    munmap(revocation.bits, shadow_size());
    if (revocation.records != NULL)
        munmap((void *)revocation.records, capshm_records_size());
    page_table_set_origin(0);
    revocation = (struct revocation){.bits = NULL};
}

size_t capshm_records_size(void) {
    return (size_t)STAMP_BLOCKS * STAMP_BLOCK;
}

static const struct revocation_record *records_of_machine(void) {
    return &revocation.records[0];
}

/* With the lock in hand. */
static enum status join_records(int descriptor, uint32_t number) {
    struct stat status;
    if (number == 0 || number >= REVOCATION_RECORDS || fstat(descriptor, &status) != 0 ||
        (uint64_t)status.st_size < capshm_records_size() || revocation.records != NULL)
        return STATUS_INVALID;
    void *const records = mmap(NULL, capshm_records_size(), PROT_READ, MAP_SHARED | MAP_NORESERVE, descriptor, 0);
    if (records == MAP_FAILED)
        return STATUS_NO_MEMORY;
    madvise(records, capshm_records_size(), MADV_DONTDUMP); /* failing costs only disk */
    revocation.records = records;
    revocation.record = &revocation.records[number];
    revocation.passes = atomic_load(&revocation.record->passes);
    origins.passes = atomic_load(&records_of_machine()->passes);
    page_table_set_origin(atomic_load(&revocation.record->origin));
    return STATUS_OK;
}

enum status capshm_join_records(int descriptor, uint32_t number) {
    if (!capshm_is_attached())
        return STATUS_NOT_ATTACHED;
    process_lock();
    const enum status status = join_records(descriptor, number);
    process_unlock();
    return status;
}

/* In the place of the one that there was, in which nothing is painted. Others are kept out. */
static enum status join_shadow(int descriptor) {
    struct stat status;
    if (fstat(descriptor, &status) != 0 || (uint64_t)status.st_size < shadow_size())
        return STATUS_INVALID;
    return map_shadow(revocation.bits, MAP_SHARED | MAP_FIXED, descriptor) == MAP_FAILED ? STATUS_NO_MEMORY : STATUS_OK;
}

enum status capshm_join_shadow(int descriptor) {
    if (!capshm_is_attached())
        return STATUS_NOT_ATTACHED;
    process_quiesce();
    const enum status status = join_shadow(descriptor);
    process_resume();
    return status;
}

void capshm_epochs(uint64_t *enqueue, uint64_t *dequeue) {
    const struct revocation_record *const record = revocation.record;
    *enqueue = record == NULL ? 0 : atomic_load_explicit(&record->enqueue, memory_order_acquire);
    *dequeue = record == NULL ? 0 : atomic_load_explicit(&record->dequeue, memory_order_acquire);
}

/* Paint ------------------------------------------------------------------------------------------------------------ */

/* Inside the gate. Whole granules of the arena. */
static void set_paint(uint64_t address, uint64_t length, bool is_painted) {
    const uint64_t first = (address - revocation.shadow.first) >> GRANULE_SHIFT;
    const uint64_t end = (address - revocation.shadow.first + length + GRANULE_SIZE - 1) >> GRANULE_SHIFT;
    if (is_painted)
        atomic_fetch_add(&revocation.painted, (int64_t)shadow_paint(revocation.bits, first, end - first));
    else
        atomic_fetch_sub(&revocation.painted, (int64_t)shadow_unpaint(revocation.bits, first, end - first));
}

static bool is_in_shadow(uint64_t address, uint64_t length) {
    const uint64_t offset = address - revocation.shadow.first;
    const uint64_t size = revocation.shadow.limit - revocation.shadow.first;
    return offset < size && length <= size - offset;
}

enum status capshm_paint(uint32_t capability, bool is_painted) {
    if (!register_is_valid(capability, 1))
        return STATUS_INVALID;
    const enum status entered = process_enter();
    if (entered != STATUS_OK)
        return refuse(entered, capability, 0);
    const struct capability_register *const held = register_ready(capability);
    const uint64_t base = held->base;
    const uint64_t length = held->length;
    const bool is_inside = (held->rights & RIGHT_LIVE) && is_in_shadow(base, length);
    if (is_inside && length > 0)
        set_paint(base, length, is_painted);
    gate_leave();
    return is_inside ? STATUS_OK : refuse(STATUS_BOUNDS_VIOLATION, capability, base);
}

enum status capshm_paint_ranges(const uint64_t *ranges, size_t count, bool is_painted) {
    const enum status entered = process_enter();
    if (entered != STATUS_OK)
        return refuse(entered, 0, 0);
    enum status status = STATUS_OK;
    for (size_t i = 0; i < count && status == STATUS_OK; i++) {
        if (!is_in_shadow(ranges[2 * i], ranges[2 * i + 1]) || (ranges[2 * i] | ranges[2 * i + 1]) % GRANULE_SIZE)
            status = refuse(STATUS_BOUNDS_VIOLATION, 0, ranges[2 * i]);
    }
    for (size_t i = 0; i < count && status == STATUS_OK; i++) {
        if (ranges[2 * i + 1] > 0)
            set_paint(ranges[2 * i], ranges[2 * i + 1], is_painted);
    }
    gate_leave();
    return status;
}

bool capshm_is_painted(uint64_t address) {
    return capshm_is_attached() && shadow_is_painted(&revocation.shadow, address);
}

/* Sweeping --------------------------------------------------------------------------------------------------------- */

bool revocation_is_due(const struct gate *gate) {
    if (revocation.record != NULL)
        return atomic_load(&revocation.record->passes) != revocation.passes ||
               atomic_load(&records_of_machine()->passes) != origins.passes;
    return atomic_load(&gate->epoch) != revocation.epoch;
}

/* Whether any granule of the page has its tag bit set. */
static bool has_tags(struct region *region, uint64_t page) {
    const struct tag_line *const lines = line_place_of(region, page, 1).line;
    uint64_t tags = 0;
    for (uint32_t line = 0; line < PAGE_LINES; line++)
        tags |= atomic_load_explicit(&lines[line].tags, memory_order_relaxed);
    return tags != 0;
}

/* After a sweep: dirty, and then idle, and then clean, with each pass that has found no tag (cheribsd:2.4). */
static uint64_t aged(uint64_t entry, struct region *region, uint64_t page) {
    if (has_tags(region, page))
        return entry;
    if (entry & PAGE_CAPABILITY_DIRTY)
        return (entry & ~(uint64_t)PAGE_CAPABILITY_DIRTY) | PAGE_CAPABILITY_IDLE;
    revocation.counts.pages_cleaned++;
    return entry & ~(uint64_t)PAGE_CAPABILITY_IDLE;
}

/* A page is swept if it is this process's own. Pages of objects are swept by the broker; here they only age. */
static bool sweep_chunk(uint64_t chunk) {
    struct region *const own = page_table_private_region();
    const uint64_t used = PAGE_CAPABILITY_DIRTY | PAGE_CAPABILITY_IDLE;
    uint64_t page = address_space.arena_base + (chunk << CHUNK_SHIFT);
    bool is_used = false;
    for (uint32_t i = 0; i < CHUNK_PAGES && page < address_space.arena_base + address_space.arena_size;
         i++, page += PAGE_BYTES) {
        const uint64_t entry = page_table_look_up_in_arena(page);
        struct region *const region = page_table_region(entry);
        if (!(entry & used)) {
            revocation.counts.pages_skipped += (entry & PAGE_MAPPED) != 0;
            continue;
        }
        if (!region->has_lines)
            continue;
        if (region == own) {
            const struct line_place place = line_place_of(own, page, 1);
            sweep(place.line, place.twin, PAGE_LINES, &revocation.shadow, SWEEP_AUTOMATIC, &revocation.counts.tags);
            revocation.counts.pages++;
        }
        const uint64_t after = aged(entry, region, page);
        if (after != entry)
            page_table_set(page, after);
        is_used = is_used || (after & used);
    }
    return is_used;
}

static void sweep_private_memory(void) {
    const uint64_t count = address_space.arena_size >> CHUNK_SHIFT;
    for (uint64_t chunk = 0; chunk <= count; chunk++) {
        if (atomic_load_explicit(&address_space.chunks[chunk], memory_order_relaxed) != 0 && !sweep_chunk(chunk))
            atomic_store_explicit(&address_space.chunks[chunk], 0, memory_order_relaxed);
    }
}

/* What this address space has had revoked. */
static enum status sweep_own(uint64_t passes, struct line_place *held, uint64_t *lock) {
    const bool is_leaving = atomic_load(&revocation.record->leaving_pass) > revocation.passes;
    revocation.shadow.leaving = is_leaving ? atomic_load(&revocation.record->leaving) : 0;
    revocation.shadow.leaving_limit = is_leaving ? atomic_load(&revocation.record->leaving_limit) : 0;
    const enum line_result result = private_copy_revoked(&revocation.shadow, held, &revocation.counts.pages_read_only);
    if (result == LINE_HELD)
        *lock = atomic_load_explicit(&held->line->lock, memory_order_acquire);
    if (result != LINE_DONE)
        return result == LINE_HELD ? STATUS_AGAIN : STATUS_NO_MEMORY;
    register_file_sweep(&revocation.shadow, &revocation.counts.tags);
    sweep_private_memory();
    revocation.passes = passes;
    return STATUS_OK;
}

enum status revocation_sweep(const struct gate *gate, struct line_place *held, uint64_t *lock) {
    if (revocation.record == NULL) { /* whoever has closed the gate sweeps memory as well */
        revocation.epoch = atomic_load(&gate->epoch);
        register_file_sweep(&revocation.shadow, &revocation.counts.tags);
        return STATUS_OK;
    }
    const uint64_t begin = clock_now();
    const uint64_t passes = atomic_load(&revocation.record->passes);
    const uint64_t passes_of_machine = atomic_load(&records_of_machine()->passes);
    enum status status = STATUS_OK;
    if (passes != revocation.passes)
        status = sweep_own(passes, held, lock);
    if (status == STATUS_OK && passes_of_machine != origins.passes) {
        if (origins.has_foreign)
            origin_sweep(&revocation.counts.tags);
        origins.passes = passes_of_machine;
    }
    revocation.counts.nanoseconds += clock_now() - begin;
    return status;
}

enum status capshm_catch_up(void) {
    const enum status status = process_enter();
    if (status == STATUS_OK)
        gate_leave();
    return status;
}

void capshm_take_counts(struct revocation_counts *counts) {
    process_lock();
    *counts = revocation.counts;
    revocation.counts = (struct revocation_counts){.pages = 0};
    process_unlock();
}

/* The broker ------------------------------------------------------------------------------------------------------- */

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

void capshm_populate(void *memory, int descriptor, uint64_t offset, uint64_t length) {
    const off_t limit = (off_t)(offset + length);
    for (off_t start = (off_t)offset, end; start < limit; start = end) {
        start = lseek(descriptor, start, SEEK_DATA);
        if (start < 0 || start >= limit)
            return;
        end = lseek(descriptor, start, SEEK_HOLE);
        if (end < 0)
            return;
        madvise((char *)memory + (start - (off_t)offset), (size_t)((end < limit ? end : limit) - start),
                MADV_POPULATE_WRITE);
    }
}

/* Fork ------------------------------------------------------------------------------------------------------------- */

void capshm_plan_child(uint32_t record, int parent_shadow, int shadow) {
    child = (struct child){record, shadow, parent_shadow};
}

/* Only what is there: to look into a hole of the file would fill it. */
static bool copy_paint(void) {
    const off_t size = (off_t)shadow_size();
    for (off_t offset = 0, end; offset < size; offset = end) {
        const off_t start = lseek(child.parent_shadow, offset, SEEK_DATA);
        if (start < 0)
            return errno == ENXIO; /* only a hole is left */
        end = lseek(child.parent_shadow, start, SEEK_HOLE);
        for (off_t at = start; at < end;) {
            const ssize_t done = pwrite(child.shadow, (const char *)revocation.bits + at, (size_t)(end - at), at);
            if (done <= 0)
                return false;
            at += done;
        }
    }
    return true;
}

void revocation_fork_before(void) {
    passes_at_fork = revocation.passes;
    if (child.record == 0 || revocation.records == NULL)
        return;
    passes_of_child = atomic_load(&revocation.records[child.record].passes);
    if (child.shadow >= 0 && atomic_load(&revocation.painted) > 0 && !copy_paint())
        child.record = 0; /* no memory for it: the child cannot have a part in the machine */
}

enum status revocation_fork_in_child(void) {
    if (revocation.records == NULL)
        return STATUS_OK;
    if (child.record == 0 || child.record >= REVOCATION_RECORDS)
        return STATUS_NO_MEMORY;
    revocation.record = &revocation.records[child.record];
    page_table_set_origin(atomic_load(&revocation.record->origin));
    origins.refused_loads = 0;
    revocation.passes = passes_of_child;
    revocation.counts = (struct revocation_counts){.pages = 0};
    return child.shadow < 0 ? STATUS_OK : join_shadow(child.shadow);
}

bool revocation_was_swept_since(uint64_t passes) {
    return passes != passes_at_fork;
}
