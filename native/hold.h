/* hold.h: how another process is made to stand still while it is looked at, without a trace of that in it.
 *
 * Each thread is seized and interrupted (ptrace(2)). Its parent is told of nothing, and a process that was stopped
 * before still is afterwards. The kernel lets go of all threads when the holder ends, however it ends: nobody needs to
 * watch over that, as over a SIGSTOP. A signal that a thread was about to take is taken when it goes on; with that, too,
 * if the holder waits for it by waitid with WNOWAIT.
 */
#ifndef CAPSHM_HOLD_H
#define CAPSHM_HOLD_H

#include <stdint.h>

/* Asks the thread, of another process, to halt: waitid tells when it does. Returns 0, or errno. */
int hold_thread(int32_t thread);

/* Lets it go on from a halt, of which waitid has told this status. Nothing for one that has died. */
void hold_end(int32_t thread, int32_t status);

#endif
