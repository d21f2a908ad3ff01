/* allocator.h: memory for the program's own data, with the quarantine of a revoking allocator (cheribsd:2.7).
 *
 * An allocation is a slot. Up to 32 KiB, slots of one size lie in chunks that are kept for it; a larger allocation is a
 * mapping of its own, all zero. The core maps nothing: where it has no slot left it says how much memory it needs, and whoever
 * asked maps that (through the broker) and hands the capability in. All bookkeeping lies outside the program's memory,
 * in private memory that a fork copies; the capabilities of chunks are registers, like all others.
 *
 * A slot is free, live, or in quarantine. With quarantine on, what is given back may be used again only after a
 * revocation. Every pass has its own ranges:
 *
 *     give_back    the slot joins the ranges that wait
 *     take         STATUS_REVOCATION_DUE once too much waits: nothing was taken, the caller runs a pass and asks again
 *     begin_pass   all that waits belongs to the pass from here on; what is given back later waits for the next one
 *     (revoke)     the caller paints the ranges, revokes, and cleans them
 *     end_pass     revoked: the slots are free. Not revoked: they stay, and belong to the next pass too
 *
 * A death at any point takes all of this along with the process. A fork copies it: in the child no pass is under way,
 * and what belonged to one belongs to the child's next.
 *
 * Every function here is one operation inside the gate, or some; what they share is locked only inside, so that neither
 * a stopped world nor a fork ever finds it half changed, and no thread waits for the gate with the lock in hand.
 * `into` and `pointer` are registers. Unless a function says otherwise, it fails as all operations do (capshm.h) and has
 * then changed nothing.
 */
#ifndef CAPSHM_ALLOCATOR_H
#define CAPSHM_ALLOCATOR_H

#include <stdbool.h>
#include <stdint.h>

#include "fault.h"

/* When a pass is due: of `heap` bytes, live and in quarantine, at least `floor`, and of those that wait at least
 * numerator / denominator. */
struct allocator_policy {
    uint64_t floor;
    uint32_t numerator;
    uint32_t denominator;
    bool is_quarantining; /* false: what is given back may be used again at once */
    bool is_every_free;   /* a pass is due after each give_back */
};

/* Bytes of memory that began life as an allocation. */
struct allocator_range {
    uint64_t start;
    uint64_t length;
};

/* In bytes of slots, which are at least as long as what was asked for. */
struct allocator_counts {
    uint64_t heap;       /* live and in quarantine */
    uint64_t quarantine; /* of which wait for a pass, or belong to one */
    uint64_t passes;     /* that ended with revoked memory */
    bool is_quarantining;
};

/* Fills `into` with a new allocation of at least size bytes: bounds of that length, or the next that can be represented;
 * without SW_VMEM.
 * STATUS_MEMORY_NEEDED: map as many bytes as capshm_allocator_needed says, private, readable and writable, and call
 * capshm_allocator_add. STATUS_REVOCATION_DUE: run a pass, and ask again. */
enum status capshm_allocator_take(uint64_t size, uint32_t into);
/* *length: whole pages; more than the arena has, if size is. */
enum status capshm_allocator_needed(uint64_t size, uint64_t *length);

/* Hands in the memory that take(size) needed, and takes from it. `memory`: the capability that the mapping returned; the
 * allocator keeps a copy. STATUS_INVALID: it does not reach over enough memory. */
enum status capshm_allocator_add(uint32_t memory, uint64_t size, uint32_t into);

/* The allocation that `pointer` is, and that it belongs to, is over. STATUS_NOT_ALLOCATED, as in find.
 * STATUS_MEMORY_UNUSED: it was given back, and there are mappings to be unmapped (capshm_allocator_begin_unmap).
 * STATUS_REVOCATION_DUE: it was given back, and a pass is due. */
enum status capshm_allocator_give_back(uint32_t pointer);

/* The slot of the allocation that `pointer` is. STATUS_NOT_ALLOCATED: it has no tag, is sealed, or does not point to the
 * first byte both of its bounds and of a live allocation. */
enum status capshm_allocator_find(uint32_t pointer, struct allocator_range *slot);

/* STATUS_OK: size bytes fit the bounds of `pointer` and waste at most half of them, so a realloc leaves it as it is.
 * STATUS_MUST_MOVE: take another, copy, and give this one back. STATUS_NOT_ALLOCATED, as in find. */
enum status capshm_allocator_resize(uint32_t pointer, uint64_t size);

/* Fills `into` with the capability of a mapping that no allocation uses any more, and that nobody else is given: unmap all
 * of its bounds, then end it. *mapping: its name until then. STATUS_NOT_ALLOCATED: there is none.
 * A child that is forked in between has it still mapped, and is not given it. */
enum status capshm_allocator_begin_unmap(uint32_t into, uint32_t *mapping);

/* Not unmapped: somebody is given it again. STATUS_INVALID: no such mapping was given out. */
enum status capshm_allocator_end_unmap(uint32_t mapping, bool is_unmapped);

/* From now on. What is in quarantine stays there until it is revoked. */
enum status capshm_allocator_set_policy(const struct allocator_policy *policy);

/* Begins a pass over all that waits. *ranges, of *count, are good until end_pass, and do not change.
 * STATUS_NOT_ALLOCATED: nothing is in quarantine. STATUS_PASS_UNDER_WAY: another thread has begun one. */
enum status capshm_allocator_begin_pass(const struct allocator_range **ranges, uint64_t *count);

/* Ends the pass, whatever it answers; slots that are not free then belong to the next. STATUS_MEMORY_UNUSED: as in
 * give_back. STATUS_INVALID: none is under way, as in a child that was forked in the middle of one. */
enum status capshm_allocator_end_pass(bool is_revoked);

enum status capshm_allocator_count(struct allocator_counts *counts);

/* In the child of a fork, and when all memory of the process is given up (process.c, with the lock of the process). */
void allocator_start_child(void);
void allocator_forget(void);

#endif
