/* requests.h: what a request to the broker needs of the kernel before and after it; see capshm/connection.py for why.
 *
 * Python has functions for all of it. They build a set of numbers, or a record of a file, for each call, and a request
 * makes five of them: 10 us of a round trip whose packets take 12.
 */
#ifndef CAPSHM_REQUESTS_H
#define CAPSHM_REQUESTS_H

#include <stdbool.h>
#include <stdint.h>

/* Whether this process has threads beside the calling one; true also where that cannot be told. */
bool capshm_has_other_threads(void);

/* The signals that this thread keeps from itself, a bit each, for capshm_restore_signals. */
uint64_t capshm_blocked_signals(void);
/* Keeps all signals from this thread but those that a fault raises, which cannot wait, and the C library's own. */
void capshm_block_signals(void);
void capshm_restore_signals(uint64_t blocked);
/* The same around a fork, by hooks: the second one, in both processes, gives back the mask of before the first, and does
 * nothing where that did not run, or amid an outer fork. */
void capshm_fork_block_signals(void);
void capshm_fork_restore_signals(void);

/* Whether the number stands for the file with that inode: a program may close all descriptors that it does not know, and
 * open something else by the same number. */
bool capshm_is_descriptor_of(int descriptor, uint64_t inode);

#endif
