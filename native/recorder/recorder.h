/* recorder.h: the journal of this process, to which every thread may append at any time. Nothing here allocates. */
#ifndef CAPSHM_RECORDER_H
#define CAPSHM_RECORDER_H

#include "journal.h"

/* Takes the next place in the journal and fills it; errno stays as it was. Does nothing where no recording was asked
 * for (CAPSHM_RECORD names no folder), or where it cannot go on. */
void recorder_append(enum journal_event event, uint64_t address, uint64_t size);

/* Begins the journal, if that has not happened yet: a program, or a child, that never allocates has been seen too. */
void recorder_begin(void);

#endif
