/* world.c: mappings, gate and sweeps as Python sees them; each a few lines over the module that does it. */
#include <sys/mman.h>

#include "capshm.h"
#include "checks.h"
#include "process.h"
#include "revoke.h"

const struct fault *capshm_fault(void) {
    return &thread_fault;
}

uint32_t capshm_new_object(void) {
    uint32_t given = atomic_load(&process.gate->objects);
    do {
        if (given == GATE_OBJECTS - 1)
            return 0;
    } while (!atomic_compare_exchange_weak(&process.gate->objects, &given, given + 1));
    return given + 1;
}

enum status capshm_map_memory(uint64_t *address, uint64_t length, int descriptor, uint64_t offset, bool is_writable) {
    if (*address != 0 && !page_table_is_in_arena(*address, length))
        return STATUS_INVALID;
    const int protection = is_writable ? PROT_READ | PROT_WRITE : PROT_READ;
    const int flags = MAP_SHARED | (*address != 0 ? MAP_FIXED : 0);
    void *const memory = mmap((void *)*address, length, protection, flags, descriptor, (off_t)offset);
    if (memory == MAP_FAILED)
        return STATUS_NO_MEMORY;
    madvise(memory, length, MADV_DONTDUMP); /* a core file has no use for shared memory; failing costs only disk */
    *address = (uint64_t)memory;
    return STATUS_OK;
}

enum status capshm_unmap_memory(uint64_t address, uint64_t length) {
    if (!page_table_is_in_arena(address, length))
        return munmap((void *)address, length) == 0 ? STATUS_OK : STATUS_NO_MEMORY;
    /* One call that replaces, so that no other thread's mapping slips into the hole. */
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
    if (mmap((void *)address, length, PROT_NONE, flags, -1, 0) == MAP_FAILED)
        return STATUS_NO_MEMORY;
    madvise((void *)address, length, MADV_DONTDUMP); /* as the rest of the arena, so that the kernel joins them again */
    return STATUS_OK;
}

enum status capshm_map(const struct capshm_mapping *mapping) {
    if (!capshm_is_attached())
        return STATUS_NOT_ATTACHED;
    if (!page_table_is_in_arena(mapping->address, mapping->length) || mapping->object == 0 ||
        mapping->object >= GATE_OBJECTS || mapping->clear == 0)
        return STATUS_INVALID;
    process_quiesce();
    const struct region *const other = page_table_find_object(mapping->object);
    const bool is_locking = other != NULL ? atomic_load_explicit(&other->is_locking, memory_order_relaxed)
                                          : !mapping->is_exclusive || !process_is_alone();
    struct region *const region = page_table_add_region(&(struct region_place){
        .base = mapping->address,
        .length = mapping->length,
        .lines = mapping->lines,
        .twins = mapping->twins,
        .clear = mapping->clear,
        .first_line = mapping->first_line,
        .object = mapping->object,
        .is_lines_writable = mapping->is_lines_writable,
        .is_private = mapping->is_private,
        .is_locking = is_locking,
    });
    if (region != NULL)
        page_table_map(region, mapping->address, mapping->length, mapping->permissions);
    process_resume();
    return region == NULL ? STATUS_NO_MEMORY : STATUS_OK;
}

enum status capshm_unmap(uint64_t address, uint64_t length) {
    if (!capshm_is_attached())
        return STATUS_NOT_ATTACHED;
    if (!page_table_is_in_arena(address, length))
        return STATUS_INVALID;
    process_quiesce();
    page_table_unmap(address, length);
    process_resume();
    return STATUS_OK;
}

uint64_t capshm_page_entry(uint64_t address) {
    return address_space.entries == NULL ? 0 : page_table_look_up(address);
}

enum status capshm_gate_close(uint64_t timeout, int32_t *stragglers, size_t capacity, size_t *straggler_count) {
    *straggler_count = 0;
    if (gate_is_closed_by_this_thread())
        return STATUS_GATE_CLOSED; /* it would wait for itself */
    const enum status status =
        thread_member->slot == NULL ? process_clear_way() : STATUS_AGAIN; /* a slot, for a new thread */
    if (status != STATUS_AGAIN)
        return refuse(status, 0, 0);
    return gate_close(timeout, stragglers, capacity, straggler_count);
}

void capshm_barrier_everywhere(void) {
    gate_barrier_everywhere();
}

bool capshm_gate_is_mine(void) {
    return gate_is_closed_by_this_thread();
}

void capshm_gate_open(bool is_new_epoch) {
    if (gate_is_closed_by_this_thread())
        gate_open(is_new_epoch);
}

/* With the lock in hand, so that nobody unmaps meanwhile. */
static enum status sweep_memory(uint64_t address, uint64_t length, uint32_t kernel, struct sweep_counts *counts) {
    if (!page_table_is_in_arena(address, length) || !gate_is_closed_by_this_thread() ||
        !sweep_kernel_is_available(kernel))
        return STATUS_INVALID;
    while (length > 0) {
        const uint64_t entry = page_table_look_up(address);
        struct region *const region = page_table_region(entry);
        if (!(entry & PAGE_MAPPED) || !region->is_lines_writable)
            return refuse_page(0, address, entry);
        const uint64_t left = region->length - (address - region->base);
        const uint64_t now = left < length ? left : length;
        const struct line_place first = line_place_of(region, address, 1);
        sweep(first.line, first.twin, now >> LINE_DATA_SHIFT, &revocation.shadow, kernel, counts);
        address += now;
        length -= now;
    }
    return STATUS_OK;
}

enum status capshm_sweep_memory(uint64_t address, uint64_t length, uint32_t kernel, struct sweep_counts *counts) {
    process_lock();
    const enum status status = sweep_memory(address, length, kernel, counts);
    process_unlock();
    return status;
}

enum status capshm_sweep_registers(struct sweep_counts *counts) {
    if (!gate_is_closed_by_this_thread())
        return STATUS_INVALID;
    process_lock();
    register_file_sweep(&revocation.shadow, counts);
    process_unlock();
    return STATUS_OK;
}
