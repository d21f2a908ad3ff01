/* sideband.h: tag lines, twins and clear map: how a tag is written, read and lost.
 *
 * What must hold, whoever dies, stops, or writes past this library at any instruction:
 *
 *     a granule that reads as tagged holds 16 bytes that were stored together as one valid capability.
 *
 * A granule is tagged if and only if its tag bit is set, its clear bit is not, and its twin equals its data.
 *
 * The lock word of a tag line
 *     bits 0 to 15   slot of the holder (gate.h), 0 while the lock is free
 *     bits 16 to 21  the granule that is being stored
 *     bit 22         more than one granule of the line is being stored
 *     bits 23 to 63  version: one more with each unlocking. 41 bits: a reader would have to be stopped for exactly a
 *                    multiple of 2^41 stores to the same KiB to be fooled, at 5 ns each three hours of nothing else
 *
 * Store (one lock for all granules of a call that lie in the line)
 *     (1) slot.target = line          so that a death leaves a trace of the lock
 *     (2) lock: free -> mine          acquire; while held nobody else writes tags, twins or clear bits of this line
 *     (3) tags &= ~mask               no authority is left in what is about to change
 *     (4) twin, origin; (5) data      of each granule; those of an untagged value are left as they are
 *     (6) clear &= ~mask              only bits that are set: usually none, and the line stays shared
 *     (7) tags |= tagged              one store for all of them
 *     (8) lock: mine -> free, version + 1 (release)
 *     (9) slot.target = 0
 * A death before (3) leaves the old value with its tag, before (7) an untagged granule, after (7) the new value with
 * its tag. The tags are true at every instant, so recovery has nothing to repair: it frees the lock, tags unchanged,
 * version + 1, by one compare-and-swap that only one of many recoverers wins, and touches neither twins nor data.
 * (6) must come after (5) and before (7): a process with data permission only sets the clear bit before it writes its
 * bytes. If the bit were reset before (5), its bytes could arrive last under a tag; if after (7), a death between the two
 * would leave what is stored untagged; if after (8), a clear by one who has seen the tag would be lost.
 *
 * (5) and the reading of the clear bits in (6) are a store and a load, which processors swap: a store that asked too
 * early would miss the bit of a write whose bytes it then covers, and stay untagged though it came last. A fence there
 * would cost every capability store 5 ns; so the one who sets the bit issues a barrier in all processes, between bit
 * and bytes.
 *
 * Alone. While one thread alone can reach the tag lines (private memory, or an object whose sideband no other process
 * has mapped) there is nobody to exclude and nobody who could see a death: a store is (4), (5), (6), and (7) if the bit
 * is not set yet. The mode ends before a second thread or process comes in, while that thread is outside any operation
 * (process.h).
 *
 * Load
 *     (1) lock (acquire); held for this granule or for several: wait
 *     (2) tags, data, twin, clear, origin     data and twin in halves; acquire
 *     (3) lock again; changed: start again
 * The two readings of the lock word make it a sequence lock: everything between them belongs together, so halves do no
 * harm. If the holder of another granule is at work the load goes on, since a lock that stays the same for the whole
 * load has changed nothing here. Readers do not write: a process that may not write the sideband reads through the lock
 * of a dead holder, whose tags are true.
 *
 * The origin (revoke.h) lies between the same two stores as the twin: it is written after (3), when no tag stands over the
 * granule, and before (7), when one does again. So whoever sees the tag in (2), and the same lock word around it, has read
 * the origin that was stored with it; and a death leaves either a tag with its own origin, or none. Where `has_origins` is
 * false nobody reads it.
 *
 * Data write (a store of plain bytes through capshm): clear the tags of all granules it touches, then write the bytes.
 * Where the tags are clear already no lock is taken: a capability store that comes between is simply the later or the
 * earlier of the two. A process that may not write tag lines sets clear bits instead.
 *
 * Plain stores that capshm never sees (a view, another program, pwrite) untag what they change, because the twin then
 * differs. One that stores equal bytes, or restores them, is invisible: the verdict stays "tagged", and the authority
 * is exactly the last capability stored there. Whoever may write the tag line and meets a twin that differs clears the
 * bit, so that the window stays small.
 *
 * Waiting. Whoever meets a held lock spins briefly, leaves the gate, and looks at the holder: dead, and the lock is
 * freed; alive, and it waits up to lock_timeout in all, then STATUS_HOLDER_STOPPED with nothing changed. Writers of
 * other granules of the line wait as well (a KiB of data): letting them pass needs a second compare-and-swap at (7),
 * and doubles the price of each store.
 */
#ifndef CAPSHM_SIDEBAND_H
#define CAPSHM_SIDEBAND_H

#include <stdbool.h>

#include "gate.h"
#include "granule.h"
#include "page_table.h"

/* Some granules of one line of one mapping. */
struct line_place {
    struct region *region;
    struct tag_line *line;
    struct granule *twin; /* of the first granule */
    _Atomic uint64_t *clear;
    struct granule *data; /* of the first granule */
    uint32_t first;       /* number of the first granule in the line */
    uint32_t count;       /* 1 to 64 - first */
    bool has_line;        /* false: no tag can be read here, and line and twin mean nothing */
};

/* Where the granules at address are; they must lie in one line. */
static inline struct line_place line_place_of(struct region *region, uint64_t address, uint32_t count) {
    const uint64_t line = address >> LINE_DATA_SHIFT;
    return (struct line_place){
        .region = region,
        .line = (struct tag_line *)(region->lines_origin + line * sizeof(struct tag_line)),
        .twin = (struct granule *)(region->twins_origin + address),
        .clear = (_Atomic uint64_t *)(region->clear_origin + line * sizeof(uint64_t)),
        .data = (struct granule *)address,
        .first = address >> GRANULE_SHIFT & (LINE_GRANULES - 1),
        .count = count,
        .has_line = region->has_lines,
    };
}

/* The bits of count granules from the first on. */
static inline uint64_t line_mask(uint32_t first, uint32_t count) {
    return (count == LINE_GRANULES ? UINT64_MAX : ((uint64_t)1 << count) - 1) << first;
}

enum line_result {
    LINE_DONE,
    LINE_HELD,    /* somebody holds the lock: leave the gate, line_wait, start again */
    LINE_FAULTED, /* the data could not be touched (program_fault); lock released, granules untagged */
};

/* Stores count values, each with its origin behind it, stride bytes apart (0: the same for all); bit i of tagged is the
 * tag of value i.
 * Requires a region whose lines are writable. *done: how many were stored, all of them unless it faulted. */
enum line_result line_store(struct line_place place, const char *values, size_t stride, uint64_t tagged,
                            uint32_t *done);

/* Stores one value, with its origin behind it, where others may reach the line too. False: the line was held, or it faulted; then the granule is
 * untagged. */
bool line_store_one(struct region *region, uint64_t address, const struct granule *value, bool tag);

/* Loads count granules into values, their origins behind them, stride bytes apart, and their tags. With no lines all are
 * untagged. Whose values may be used is for the caller to ask (revoke.h). */
enum line_result line_load(struct line_place place, void *values, size_t stride, uint64_t *tagged);

/* Clears the tag of granule i if its twin still differs from its data. Somebody who may write the line has met one. */
void line_scrub(struct line_place place, uint32_t i);

/* Clears the tags of the granules, in whatever way this mapping may, before plain bytes are written there. */
enum line_result line_clear(struct line_place place);

/* After LINE_HELD, outside the gate: waits a while for the lock to change hands, frees it if the holder is dead.
 * lock: the line's lock word, read inside the gate; the line itself is not touched, it may be unmapped by now.
 * timeout, *waited: nanoseconds to wait for the same holder, and waited so far by this operation, in and out.
 * STATUS_AGAIN: try again. STATUS_HOLDER_STOPPED: the holder lives and kept the lock for so long. */
enum status line_wait(struct line_place place, uint64_t lock, uint64_t timeout, uint64_t *waited);

/* A gate_recovery (gate.h), for lines of objects that this process maps with the right to. */
bool sideband_recover_target(const struct gate_slot *slot, uint32_t number, uint64_t owner, uint64_t target);

#endif
