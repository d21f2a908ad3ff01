/* step.h: named points between the stores of a protocol, where a test, a fault injector or a scheduler may act.
 *
 * STEP(name) is nothing at all unless the core is compiled with CAPSHM_STEP_POINTS. Then a process may arm one point:
 * at the n-th time that any of its threads comes by, the action is carried out there, in the middle of the operation,
 * with whatever locks and flags it holds. An armed point is private to its process and disarmed once it has acted.
 */
#ifndef CAPSHM_STEP_H
#define CAPSHM_STEP_H

#include <stdint.h>

#define STEP_POINTS(point)                                                                                             \
    point(OPERATION_ENTERED)  /* the in-operation flag is set, the stop flag was clear */                              \
    point(LINE_NAMED)         /* the slot names the tag line; the lock is not taken yet */                             \
    point(LINE_LOCKED)        /* the lock is held; the old tag bit still stands over the old bytes */                  \
    point(TAGS_CLEARED)       /* no authority is left in the granules that are to change */                            \
    point(TWIN_STORED)        /* a twin is new, its data old */                                                        \
    point(DATA_STORED)        /* twin and data are new, the tag bit is clear */                                        \
    point(CLEAR_MAP_RESET)    /* nothing but the tag bit is missing */                                                 \
    point(TAGS_SET)           /* the store is done; the lock is still held */                                          \
    point(LINE_UNLOCKED)      /* the lock is free, the slot still names the line */                                    \
    point(LOAD_BEGUN)         /* a load has read the lock word and the tags */                                         \
    point(LOAD_COPIED)        /* ... and data and twin; it will now look at the lock word again */                     \
    point(WRITE_CLEARED)      /* a data write has cleared the tags; its bytes are not written yet */                   \
    point(WRITE_DONE)         /* ... they are */                                                                       \
    point(OPERATION_LEFT)     /* the in-operation flag is clear again */                                               \
    point(REMOTE_ASKED)       /* the broker was asked what others want; no answer is read */                           \
    point(REMOTE_TAKEN)       /* another process's orders are here; nothing is carried out */                          \
    point(REMOTE_CHANGED)     /* one more order is carried out; the broker does not know */                            \
    point(REMOTE_REPORTED)    /* the broker has been told */

enum step {
#define STEP_NAME(name) STEP_##name,
    STEP_POINTS(STEP_NAME)
#undef STEP_NAME
    STEP_COUNT
};

enum step_action {
    STEP_ACTION_NONE,
    STEP_ACTION_KILL, /* SIGKILL to oneself */
    STEP_ACTION_STOP, /* SIGSTOP to oneself; goes on after SIGCONT */
};

#ifdef CAPSHM_STEP_POINTS
void step_reached(enum step step);
#define STEP(name) step_reached(STEP_##name)
#else
#define STEP(name) ((void)0)
#endif

#endif
