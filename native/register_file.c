/* register_file.c: which registers are free, and the sweep over them.
 *
 * Windows are kept in sizes of powers of two, the free ones of a size in a list that runs through the registers
 * themselves; never used ones come from the end. The caller holds the lock of the process: they are asked once for many
 * registers.
 */
#include "register_file.h"

#include <sys/mman.h>

enum { SIZES = 25, RETURN_BYTES = 4 << 20 };

struct capability_register *register_file;

static uint32_t next_never_used = 1; /* register 0 is never given out: number 0 is nobody's */
static uint32_t first_free[SIZES];

enum status register_file_initialize(void) {
    void *const memory = mmap(NULL, sizeof(struct capability_register) * REGISTER_COUNT, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED)
        return STATUS_NO_MEMORY;
    register_file = memory;
    return STATUS_OK;
}

void register_file_finalize(void) {
    if (register_file != NULL)
        munmap(register_file, sizeof(struct capability_register) * REGISTER_COUNT);
    register_file = NULL;
}

static unsigned size_of(uint32_t count) {
    return count <= 1 ? 0 : 32 - (unsigned)__builtin_clz(count - 1);
}

/* A free window's first register names the next free window of its size. */
static uint64_t *next_free_of(uint32_t number) {
    return &register_file[number].next_free;
}

enum status register_file_reserve(uint32_t count, uint32_t *first) {
    if (count == 0 || count > REGISTER_COUNT / 2)
        return STATUS_NO_MEMORY;
    const unsigned size = size_of(count);
    if (first_free[size] != 0) {
        *first = first_free[size];
        first_free[size] = (uint32_t)*next_free_of(*first);
        *next_free_of(*first) = 0;
    } else if (next_never_used + (1u << size) <= REGISTER_COUNT) {
        *first = next_never_used;
        next_never_used += 1u << size;
    } else {
        return STATUS_NO_MEMORY;
    }
    return STATUS_OK;
}

/* Small windows keep their last values, which nobody can name any more; the memory of large ones goes back to the
 * kernel. */
static void return_memory(uint32_t first, uint32_t count) {
    const uint64_t begin = (uint64_t)&register_file[first];
    const uint64_t bytes = sizeof *register_file * (uint64_t)count;
    const uint64_t first_page = (begin + PAGE_BYTES - 1) & ~(uint64_t)(PAGE_BYTES - 1);
    const uint64_t end = (begin + bytes) & ~(uint64_t)(PAGE_BYTES - 1);
    if (bytes >= RETURN_BYTES)
        madvise((void *)first_page, end - first_page, MADV_DONTNEED); /* failing costs only memory */
}

void register_file_release(uint32_t first, uint32_t count) {
    const unsigned size = size_of(count);
    return_memory(first, count);
    *next_free_of(first) = first_free[size];
    first_free[size] = first;
}

void register_file_forget(void) {
    for (uint32_t number = 1; number < next_never_used; number++) {
        if (register_file[number].rights & RIGHT_TAG)
            register_file[number].rights &= ~(uint32_t)RIGHT_TAG;
    }
}

void register_file_sweep_by(bool (*is_revoked)(const struct capability_register *), struct sweep_counts *counts) {
    for (uint32_t number = 1; number < next_never_used; number++) {
        struct capability_register *const candidate = &register_file[number];
        if ((candidate->rights & RIGHT_TAG) && is_revoked(candidate)) {
            candidate->rights &= ~(uint32_t)RIGHT_TAG;
            counts->cleared++;
        }
    }
}

void register_file_sweep(const struct shadow *shadow, struct sweep_counts *counts) {
    for (uint32_t number = 1; number < next_never_used; number++) {
        struct capability_register *const candidate = &register_file[number];
        if (!(candidate->rights & RIGHT_TAG))
            continue;
        counts->found++;
        if (shadow_revokes(shadow, candidate->value)) {
            candidate->rights &= ~(uint32_t)RIGHT_TAG;
            counts->cleared++;
        }
    }
}
