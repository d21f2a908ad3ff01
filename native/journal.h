/* journal.h: what a recorded process writes down: one file for each program that it runs.
 *
 * The recorder (recorder/) writes it, capshm/lab/inputs/journals.py reads it. A file begins with a header; behind it stand records,
 * all of one size, in the order in which they happened: a record's place is its sequence number. The file grows by
 * whole windows, so its tail is zero, and so is a record whose thread died before it was done. The writer maps what it
 * writes, so what was recorded stays, whatever ends the process. A file without the magic is of a process that died first.
 *
 * Who makes the folder puts an empty file JOURNAL_WHOLE into it. The first process that cannot even begin its journal
 * renames that to JOURNAL_BROKEN: this takes no descriptor, no space and no inode, one of which is what it lacks.
 */
#ifndef CAPSHM_JOURNAL_H
#define CAPSHM_JOURNAL_H

#include <stdint.h>

#define JOURNAL_MAGIC "capshmJ1"
#define JOURNAL_NEVER_FORKED UINT64_MAX
#define JOURNAL_WHOLE "whole"
#define JOURNAL_BROKEN "broken" /* .PID.ERRNO */

enum journal_event {
    JOURNAL_NOTHING, /* not written to the end */
    JOURNAL_ALLOCATED, /* address: of the new allocation. size: as asked for */
    JOURNAL_FREED, /* address: of what is given back next */
    JOURNAL_MOVING, /* address: of what this thread resizes next */
    JOURNAL_MOVED, /* address: where it is now, 0 if the call failed or freed it. size: as asked for */
    JOURNAL_WAITED, /* address: pid of a child whose end this process has seen */
};

struct journal_header {
    char magic[8];
    uint32_t pid;
    uint32_t parent;         /* pid */
    uint64_t started; /* when the process began, in the kernel's clock ticks; exec keeps it, so it tells pids apart */
    uint64_t opened; /* CLOCK_MONOTONIC, ns */
    uint64_t fork_position; /* first record of the parent's file that the fork did not copy; or JOURNAL_NEVER_FORKED */
    uint32_t fork_pid; /* whose file that is: PID.NUMBER */
    uint32_t fork_number;
    uint32_t error; /* errno of what kept the file from growing: the history ends early. 0: it is whole */
    char program[20]; /* its name, as the kernel has it */
    uint64_t unused[3];
};

struct journal_record {
    uint64_t address;
    uint64_t size;
    uint64_t time; /* CLOCK_MONOTONIC, ns */
    uint32_t thread;
    _Atomic uint32_t event; /* enum journal_event; written last */
};

enum {
    JOURNAL_HEADER_SIZE = sizeof(struct journal_header),
    JOURNAL_RECORD_SIZE = sizeof(struct journal_record),
    JOURNAL_WINDOW = 256 << 10, /* bytes by which it grows */
    JOURNAL_WINDOWS = 1 << 14, /* at most: 4 GiB, 134 million records */
};

_Static_assert(JOURNAL_RECORD_SIZE == 32, "half a cache line");
_Static_assert(JOURNAL_HEADER_SIZE % JOURNAL_RECORD_SIZE == 0, "records follow the header without a gap");
_Static_assert(JOURNAL_WINDOW % JOURNAL_RECORD_SIZE == 0, "no record lies in two windows");

#endif
