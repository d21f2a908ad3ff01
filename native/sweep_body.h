/* sweep_body.h: the pass over tag lines that all sweep kernels share. Private to sweep*.c; read sweep.h first.
 *
 * A kernel defines what follows and then includes this file, which defines SWEEP_FUNCTION:
 *
 *     SWEEP_TARGET             function attribute that names the instructions the kernel may use
 *     SWEEP_DENSE              a line with this many tags or more is examined whole; 65 means never
 *     struct examiner          the shadow as the kernel wants it; examiner_make(shadow) makes it
 *     has_any_tag(lines)       whether one of LINE_GROUP lines has a tag
 *     lowest_tag(tags)         number of the lowest set bit, anything up to 64 if there is none
 *     examine_line(twins, examiner)
 *                              bit i: twins[i] is revoked; all 64 are read, tagged or not
 *     examine_queue(twins, queue, ahead, examiner)
 *                              bit i: twins[queue[i]] is revoked, for 64 entries; meanwhile prefetches twins[ahead[i]]
 *
 * Few tags in a line, and what costs is waiting: for memory, since their twins are scattered, and for mispredicted
 * branches, since their number is random. So their granule numbers go to a queue, and twins are prefetched a fixed
 * number of capabilities, not of lines, before they are examined. Many tags in a line, and what costs is arithmetic:
 * the line is examined whole, without asking which of its granules are tagged, and the answer is masked with the tags.
 * A whole line is read only if it has a tag, so no page of twins comes into being by being swept.
 */
#include <string.h>

#include "sweep.h"

enum {
    LINE_GROUP = 8,            /* lines tested for tags at once */
    QUEUE_RUN = LINE_GRANULES, /* entries examined at once, one for each bit of a word */
    QUEUE_AHEAD = 64,          /* entries between prefetch and use; 128 and 256 are no faster */
    QUEUE_HIGH = 512,          /* drained when this long */
    QUEUE_SLACK = LINE_GROUP * LINE_GRANULES + 8, /* what one group can add, and the overrun of the last line */
    DENSE_LAG = 4,                                /* lines between prefetch and use of whole lines */
};

/* One pass. Not kept anywhere: a pass that dies has cleared some tags, and the next one starts afresh. */
struct pass {
    struct tag_line *lines;
    const struct granule *twins;
    struct examiner examiner;
    uint64_t found;
    uint64_t cleared;
    uint64_t dense_count;
    size_t dense[DENSE_LAG];
    size_t queued;
    uint32_t queue[QUEUE_HIGH + QUEUE_SLACK + QUEUE_AHEAD + QUEUE_RUN];
};

#define SWEEP_INLINE static inline __attribute__((always_inline)) SWEEP_TARGET
/* The arithmetic stays out of the loop over lines, whose registers and code it would crowd: 5 to 10 % of the time at
 * 1 % of tags. */
#define SWEEP_APART static __attribute__((noinline)) SWEEP_TARGET

SWEEP_INLINE void clear_tags(struct tag_line *line, uint64_t revoked) {
    /* Nobody else writes the line: the world is stopped. Relaxed: the gate orders it. */
    const uint64_t tags = atomic_load_explicit(&line->tags, memory_order_relaxed);
    atomic_store_explicit(&line->tags, tags & ~revoked, memory_order_relaxed);
}

SWEEP_APART void take_dense(struct pass *pass, size_t line) {
    const uint64_t tags = atomic_load_explicit(&pass->lines[line].tags, memory_order_relaxed);
    const uint64_t revoked = tags & examine_line(pass->twins + line * LINE_GRANULES, &pass->examiner);

    if (revoked) {
        clear_tags(&pass->lines[line], revoked);
        pass->cleared += (uint64_t)__builtin_popcountll(revoked);
    }
}

SWEEP_INLINE void take_run(struct pass *pass, const uint32_t *run, uint64_t mask) {
    uint64_t revoked = mask & examine_queue(pass->twins, run, run + QUEUE_AHEAD, &pass->examiner);

    pass->cleared += (uint64_t)__builtin_popcountll(revoked);
    for (; revoked; revoked &= revoked - 1) {
        const uint32_t granule = run[__builtin_ctzll(revoked)];
        clear_tags(&pass->lines[granule / LINE_GRANULES], UINT64_C(1) << granule % LINE_GRANULES);
    }
}

/* The entries that stay are those already prefetched. */
SWEEP_APART void drain_queue(struct pass *pass) {
    size_t done = 0;

    for (; done + QUEUE_RUN + QUEUE_AHEAD <= pass->queued; done += QUEUE_RUN)
        take_run(pass, pass->queue + done, ~UINT64_C(0));
    pass->queued -= done;
    memmove(pass->queue, pass->queue + done, pass->queued * sizeof *pass->queue);
}

SWEEP_APART void empty_queue(struct pass *pass) {
    if (pass->queued == 0)
        return;
    /* Prefetches run past the end, and the last run does: both meet the last entry again. */
    for (size_t extra = 0; extra < QUEUE_AHEAD + QUEUE_RUN; extra++)
        pass->queue[pass->queued + extra] = pass->queue[pass->queued - 1];
    for (size_t done = 0; done < pass->queued; done += QUEUE_RUN) {
        const size_t left = pass->queued - done;
        take_run(pass, pass->queue + done, left < QUEUE_RUN ? (UINT64_C(1) << left) - 1 : ~UINT64_C(0));
    }
    pass->queued = 0;
}

/* Appends the granules of a line. Entries are written in twos, sixes and eights whether they are there or not, and the
 * length says how many count: a loop that ends at the number of tags is mispredicted once a line. */
SWEEP_INLINE void enqueue(struct pass *pass, size_t line, uint64_t tags, unsigned count) {
    const uint32_t first = (uint32_t)line * LINE_GRANULES;
    uint32_t *end = pass->queue + pass->queued;

    pass->queued += count;
    for (unsigned i = 0; i < 2; i++, tags &= tags - 1)
        end[i] = first + lowest_tag(tags);
    if (count <= 2)
        return;
    for (unsigned i = 2; i < 8; i++, tags &= tags - 1)
        end[i] = first + lowest_tag(tags);
    for (unsigned done = 8; done < count; done += 8)
        for (unsigned i = done; i < done + 8; i++, tags &= tags - 1)
            end[i] = first + lowest_tag(tags);
}

/* Prefetches a line, and examines the one that was DENSE_LAG dense lines before it. */
SWEEP_APART void push_dense(struct pass *pass, size_t line) {
    size_t *slot = &pass->dense[pass->dense_count % DENSE_LAG];

    for (size_t i = 0; i < LINE_GRANULES; i += 64 / GRANULE_SIZE)
        __builtin_prefetch(pass->twins + line * LINE_GRANULES + i);
    if (pass->dense_count >= DENSE_LAG)
        take_dense(pass, *slot);
    *slot = line;
    pass->dense_count++;
}

SWEEP_INLINE void take_line(struct pass *pass, size_t line) {
    const uint64_t tags = atomic_load_explicit(&pass->lines[line].tags, memory_order_relaxed);
    const unsigned count = (unsigned)__builtin_popcountll(tags);

    pass->found += count;
    if (count >= SWEEP_DENSE)
        push_dense(pass, line);
    else
        enqueue(pass, line, tags, count);
}

SWEEP_TARGET void SWEEP_FUNCTION(struct tag_line *lines, const struct granule *twins, size_t line_count,
                                 const struct shadow *shadow, struct sweep_counts *counts) {
    struct pass pass;
    size_t line = 0;

    pass.lines = lines;
    pass.twins = twins;
    pass.examiner = examiner_make(shadow);
    pass.found = pass.cleared = pass.dense_count = pass.queued = 0;
    memset(pass.queue, 0, sizeof pass.queue); /* entries past the end are prefetched, so they must be numbers */

    for (; line + LINE_GROUP <= line_count; line += LINE_GROUP) {
        if (!has_any_tag(lines + line))
            continue;
        for (size_t i = 0; i < LINE_GROUP; i++)
            take_line(&pass, line + i);
        if (pass.queued >= QUEUE_HIGH)
            drain_queue(&pass);
    }
    for (; line < line_count; line++)
        take_line(&pass, line);
    empty_queue(&pass);
    for (size_t i = 0; i < DENSE_LAG && i < pass.dense_count; i++)
        take_dense(&pass, pass.dense[i]);

    counts->lines += line_count;
    counts->found += pass.found;
    counts->cleared += pass.cleared;
}
