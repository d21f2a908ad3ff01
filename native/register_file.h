/* register_file.h: the capabilities that a program holds in variables.
 *
 * A Capability in Python is the number of a register. The registers are private memory of the process that a sweep
 * visits, so revocation reaches values held in variables; fork copies them by itself. A register belongs to exactly one
 * Python object (or to one window, which a CapabilityArray keeps), so a number is never used after it was given back.
 * One that was never filled is refused with STATUS_NOT_ATTACHED.
 *
 * Beside the 16 bytes and the tag a register holds what decoding gives, because an authority is used more often than
 * made. What is loaded from memory is decoded at its first use as an authority: most of it is only passed on.
 */
#ifndef CAPSHM_REGISTER_FILE_H
#define CAPSHM_REGISTER_FILE_H

#include <stdbool.h>

#include "encoding.h"
#include "fault.h"
#include "granule.h"
#include "page_table.h"
#include "sweep.h"

enum {
    REGISTER_COUNT = 1 << 24, /* a power of two; 1 GiB of address space, memory only for those in use */
    /* Rights beside the permission bits of the ISA, so that one mask answers for all of them. */
    RIGHT_GRANULE = 1 << 27, /* the bounds lie in the arena and hold a granule: last_granule is good */
    RIGHT_DECODED = 1 << 28, /* base, length, permissions and RIGHT_UNSEALED are filled in */
    RIGHT_LIVE = 1 << 29,
    RIGHT_TAG = 1 << 30,
};
#define RIGHT_UNSEALED (1u << 31)

struct capability_register {
    struct granule value;
    uint32_t origin; /* of the address space that the value belongs to (revoke.h); 0: this one */
    uint32_t rights; /* RIGHT_LIVE, RIGHT_TAG; RIGHT_DECODED and with it RIGHT_UNSEALED, RIGHT_GRANULE, permissions */
    uint64_t base;
    uint64_t length; /* top - base; 2^64 - 1 also for 2^64: no access reaches the last byte of the address space */
    uint64_t last_granule; /* length - 16 */
    uint64_t next_free; /* of a window that is free (register_file.c) */
    uint64_t unused;
};

_Static_assert(sizeof(struct capability_register) == 64, "a register is a cache line");
_Static_assert(offsetof(struct capability_register, origin) == sizeof(struct granule),
               "as of values that are passed on");

extern struct capability_register *register_file __attribute__((visibility("hidden")));

enum status register_file_initialize(void);
void register_file_finalize(void);

/* Finds count registers in a row (count >= 1). Their number goes to *first; what they hold is left over from earlier
 * use and is to be overwritten before anybody looks. STATUS_NO_MEMORY: none left. */
enum status register_file_reserve(uint32_t count, uint32_t *first);

/* Gives registers back; count as it was reserved. For this and the above the caller holds the lock of the process. */
void register_file_release(uint32_t first, uint32_t count);

/* Clears the tag of every register: the memory that they speak of is gone. */
void register_file_forget(void);

/* Clears the tag of every register that the shadow revokes. */
void register_file_sweep(const struct shadow *shadow, struct sweep_counts *counts);

/* Clears the tag of every register of which this is true. */
void register_file_sweep_by(bool (*is_revoked)(const struct capability_register *), struct sweep_counts *counts);

/* True if all of first .. first + count - 1 are numbers of registers. */
static inline bool register_is_valid(uint32_t first, uint32_t count) {
    return (uint64_t)first + count <= REGISTER_COUNT;
}

static inline bool register_has_tag(const struct capability_register *held) {
    return held->rights & RIGHT_TAG;
}

/* Fills a register with what was loaded. */
static inline void register_load(struct capability_register *into, struct granule value, uint32_t origin, bool tag) {
    into->value = value;
    into->origin = origin;
    into->rights = RIGHT_LIVE | (tag ? (uint32_t)RIGHT_TAG : 0);
}

/* Fills in what decoding gives. Two threads may do it at once to the same end: the rights come last, and say that the
 * rest is there. */
static inline void register_decode(struct capability_register *held) {
    const struct capability_bounds bounds = capability_bounds(held->value);
    const bool is_whole = bounds.top == bounds.base && bounds.top_carry && bounds.base == 0;
    const uint64_t length = is_whole ? UINT64_MAX : bounds.top - bounds.base;
    const bool has_granule = bounds.top_carry == 0 && bounds.base < bounds.top && length >= GRANULE_SIZE &&
                             bounds.base >= address_space.arena_base &&
                             bounds.top <= address_space.arena_base + address_space.arena_size;
    __atomic_store_n(&held->base, bounds.base, __ATOMIC_RELAXED);
    __atomic_store_n(&held->length, length, __ATOMIC_RELAXED);
    __atomic_store_n(&held->last_granule, length - GRANULE_SIZE, __ATOMIC_RELAXED);
    const uint32_t rights = __atomic_load_n(&held->rights, __ATOMIC_RELAXED) | RIGHT_DECODED |
                            (has_granule ? RIGHT_GRANULE : 0) | capability_permissions(held->value.metadata) |
                            (capability_is_sealed(held->value.metadata) ? 0 : RIGHT_UNSEALED);
    __atomic_store_n(&held->rights, rights, __ATOMIC_RELEASE);
}

static inline void register_set(struct capability_register *into, struct granule value, uint32_t origin, bool tag) {
    register_load(into, value, origin, tag);
    register_decode(into);
}

#endif
