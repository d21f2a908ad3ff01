/* page_table.h: what this process may do with each page of its arena, and where the tags of the page are.
 *
 * The arena is the part of the address space in which emulated mappings live, at the same address in every process, so
 * that a capability's address is the real virtual address. For each of its pages there is one entry, the emulated PTE
 * of CHERI-RISC-V:
 *
 *     bits 0 to 3   may be read, written; capabilities may be loaded, stored (the CR and CW bits)
 *     bit 4         mapped at all
 *     bit 5         capability-dirty: a tagged value was stored here since the last revoker cleared the bit (CD)
 *     bit 6         load generation (CRG), for revokers with a load barrier
 *     bit 7         no tagged value was found by the last pass, but one was there before it: what the pass before found
 *                   dirty is not clean until the next finds nothing either (cheribsd:2.4)
 *     bit 8         a write first makes the page this process's own (private.h); bit 1 is clear until then
 *     bit 9         may be executed: capshm only passes it on to the kernel
 *     bit 10        the kernel keeps it from children (MADV_DONTFORK), and what takes its place as well
 *     bits 11 to 63 address of the region that the page belongs to: where its tag lines, twins and clear map are
 *
 * The table is private memory of the process and touched only for mapped parts of the arena; fork copies it by itself.
 * Entries change only while no thread of the process is inside an operation that uses them, or by single stores that
 * are good at every instant (the dirty bit).
 */
#ifndef CAPSHM_PAGE_TABLE_H
#define CAPSHM_PAGE_TABLE_H

#include <stdbool.h>

#include "compiler.h"
#include "fault.h"
#include "granule.h"

enum {
    PAGE_READ = 1u << 0,
    PAGE_WRITE = 1u << 1,
    PAGE_LOAD_CAP = 1u << 2,
    PAGE_STORE_CAP = 1u << 3,
    PAGE_MAPPED = 1u << 4,
    PAGE_CAPABILITY_DIRTY = 1u << 5,
    PAGE_LOAD_GENERATION = 1u << 6,
    PAGE_CAPABILITY_IDLE = 1u << 7,
    PAGE_COPY = 1u << 8,
    PAGE_EXECUTE = 1u << 9,
    PAGE_NOT_FOR_CHILDREN = 1u << 10,
    PAGE_PERMISSIONS = PAGE_READ | PAGE_WRITE | PAGE_LOAD_CAP | PAGE_STORE_CAP | PAGE_EXECUTE,
    PAGE_FLAGS = 0x7ff,
    REGIONS = 1 << 16,
    REGION_AREAS = 4,
    ORIGIN_UNIT = GRANULE_SIZE / sizeof(uint32_t), /* bytes of data to a byte of origins */
    CHUNK_SHIFT = 21, /* a page of the table stands for so much memory */
};

/* One mapping of one object. The origins are what addresses count from: that of data address a is
 *     line   lines_origin + (a >> 10) * sizeof(struct tag_line)
 *     twin   twins_origin + a
 *     clear  clear_origin + (a >> 10) * 8
 *     origin origins_origin + a / ORIGIN_UNIT  (whose value it is: revoke.h)
 *     target target_origin + (a >> 10)       how a slot names the line (gate.h) */
struct region {
    _Alignas(PAGE_FLAGS + 1) uint64_t lines_origin;
    uint64_t twins_origin;
    uint64_t clear_origin;
    uint64_t origins_origin;
    uint64_t target_origin;
    _Atomic bool is_locking; /* false: one thread alone can reach the tag lines (sideband.h) */
    _Atomic bool has_origins; /* false: all values are of this address space (revoke.h) */
    bool is_lines_writable;  /* tag lines, twins and origins may be written */
    bool is_private;         /* nobody else maps this memory: fork copies data and tags together */
    bool has_lines;          /* false: this mapping has no capability permission at all */
    bool has_clear_map;      /* false: no tag can be set in this memory by anybody (a file) */
    bool is_copied_on_write; /* MAP_PRIVATE of an object: pages leave the region when they are written */
    bool is_lost_at_fork;    /* a child finds no tag lines here, and no capability permission (cheribsd:F2) */
    uint32_t own_origin;     /* what stands among the origins for this address space: 0 in private memory */
    uint32_t object;         /* names the object in slots: 24 bits, never reused within a gate; 0: region is free */
    uint64_t base;           /* first data address */
    uint64_t length;         /* in bytes, whole pages */
    uint64_t page_count;     /* pages that belong to it; with the last one it becomes free */
    struct region *next_free;
    struct area {
        uint64_t address;
        uint64_t length;
    } areas[REGION_AREAS];   /* sideband memory that is unmapped with the region */
};

/* What it takes to fill one. lines, twins, clear and origins are addresses; lines 0: no capability permission at all;
 * origins 0: no machine. */
struct region_place {
    uint64_t base;
    uint64_t length;
    uint64_t lines;
    uint64_t twins;
    uint64_t clear;
    uint64_t origins;
    uint64_t first_line;
    uint32_t object;
    bool is_lines_writable;
    bool is_private;
    bool is_locking;
    bool is_copied_on_write;
    bool is_lost_at_fork;
    struct area areas[REGION_AREAS];
};

struct address_space {
    _Atomic uint64_t *entries;
    uint64_t entries_origin; /* where the entry of page 0 of the whole address space would be */
    _Atomic uint8_t *chunks; /* not 0: some page of the chunk is dirty or idle, or was when it was looked at last */
    struct region *regions;
    uint32_t region_count; /* no region from here on was ever used */
    struct region *free_region;
    uint64_t arena_base;
    uint64_t arena_size;
    uint32_t origin; /* this address space's number in its machine; 0: none */
};

extern struct address_space address_space __attribute__((visibility("hidden")));

/* The region of all private memory, the same for every page of it (private.h). */
static inline struct region *page_table_private_region(void) {
    return address_space.regions;
}

/* Reserves the arena (PROT_NONE), the table and the regions. STATUS_NO_MEMORY: errno tells why, nothing is reserved. */
enum status page_table_initialize(uint64_t arena_base, uint64_t arena_size);

/* address must lie in the arena. */
static inline _Atomic uint64_t *page_table_entry_of(uint64_t address) {
    return &address_space.entries[(address - address_space.arena_base) >> PAGE_SHIFT];
}

/* Whether these are whole pages of the arena, at least one. */
static inline bool page_table_is_in_arena(uint64_t address, uint64_t length) {
    const uint64_t offset = address - address_space.arena_base;
    return length > 0 && offset < address_space.arena_size && length <= address_space.arena_size - offset &&
           (address | length) % PAGE_BYTES == 0;
}

/* What the kernel is asked for, as in mmap(2): PROT_READ, PROT_WRITE, PROT_EXEC. */
int page_protection(uint32_t permissions);

/* The entry of the page that holds address; 0, which permits nothing, outside the arena. */
static inline uint64_t page_table_look_up(uint64_t address) {
    const uint64_t offset = address - address_space.arena_base;
    if (unlikely(offset >= address_space.arena_size))
        return 0;
    return atomic_load_explicit(&address_space.entries[offset >> PAGE_SHIFT], memory_order_relaxed);
}

/* The same for an address that is known to lie in the arena. */
static inline uint64_t page_table_look_up_in_arena(uint64_t address) {
    const uint64_t entry = address_space.entries_origin + (address >> PAGE_SHIFT) * sizeof(uint64_t);
    return atomic_load_explicit((const _Atomic uint64_t *)entry, memory_order_relaxed);
}

static inline struct region *page_table_region(uint64_t entry) {
    return (struct region *)(entry & ~(uint64_t)PAGE_FLAGS);
}

/* Notes that a tagged value was stored. The test comes first: a line that does not change stays shared among cores. */
static inline void page_table_mark_dirty(uint64_t address, uint64_t entry) {
    if (likely(entry & PAGE_CAPABILITY_DIRTY))
        return;
    atomic_store_explicit(&address_space.chunks[(address - address_space.arena_base) >> CHUNK_SHIFT], 1,
                          memory_order_relaxed);
    atomic_fetch_or_explicit(page_table_entry_of(address), PAGE_CAPABILITY_DIRTY, memory_order_relaxed);
}

/* A region of the object, or NULL: this process has not mapped it. Looks at all regions. */
struct region *page_table_find_object(uint32_t object);

/* Finds a free region and fills it. NULL: all are in use. */
struct region *page_table_add_region(const struct region_place *place);

/* Sets the entries of length bytes from address on, both multiples of the page size, to this region with these
 * permissions. */
void page_table_map(struct region *region, uint64_t address, uint64_t length, uint32_t permissions);

/* Gives one page another entry. A region that has no page left is free again, and its sideband is unmapped. */
void page_table_set(uint64_t page, uint64_t entry);

/* Gives the address space another number in its machine: before the first object is mapped, and in the child of a fork. */
void page_table_set_origin(uint32_t origin);

/* Gives a region back that has no page yet; its sideband stays. */
void page_table_drop_region(struct region *region);

/* Unmaps everything: the arena is only reserved again, no region is in use. */
void page_table_reset(void);

/* Takes the pages out of the table. */
void page_table_unmap(uint64_t address, uint64_t length);

#endif
