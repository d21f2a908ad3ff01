/* halt.h: the two ways beside the gate to stop processes for a pass, by a signal and by SIGSTOP, to compare.
 *
 * Neither is what makes a stop sound. The gate is closed first, and once it is nobody touches a capability, whatever else
 * he does (gate.h). What comes on top of it here keeps processes from doing anything else, too, as most systems do that
 * stop the world; whom it does not reach in time is stopped by the gate alone.
 *
 *     closer (the keeper)                              thread
 *     (1) closes the gate
 *     (2) tgkill, or SIGSTOP, to each                  (3) handler: halted = the gate's signal; parks while that stands
 *     (4) waits until each is halted, or will not be
 *     ... the pass ...
 *     (5) opens the gate; SIGCONT                      (6) wakes, and returns from the handler
 *
 * The signal is SIGWINCH, sent to each thread that has a slot. It is ignored by default, so that it does no harm to a
 * process which has just become another program by exec, and where it is handled, handlers bear it to come for nothing.
 * A real-time signal would end the new program. It goes to threads, so it never merges with one that the terminal sends
 * to the process; and what others send is passed on to the handler that was there before. The handler is installed
 * when a process attaches to a machine of that stopper, and taken away when it leaves; system calls that it interrupts
 * are restarted (SA_RESTART), but for those that the kernel never restarts: sleeping, polling. Python restarts these
 * itself.
 *
 * Who does not come to be parked:
 *     inside an operation        cannot be, after (1); a flag that is set for a moment on the way to the gate: the
 *                                handler returns, and the thread parks at the gate
 *     blocks the signal          as every process does while it waits for the broker's answer: the gate alone
 *     stopped, or dead           needs no parking; if it goes on, the gate is closed, and it takes the signal
 *     asleep in a system call    is woken by the signal, and parks
 *     amid a fork                the gate waits for the fork (gate.h); the child has no slot before it has looked at
 *                                the gate, which is closed
 *     handles SIGWINCH itself    a program that has put its own handler over this one gets a SIGWINCH with each pass,
 *                                and is stopped by the gate alone
 *
 * SIGSTOP stops whole processes, and their parents see them stop and go on. One that was stopped before stays so. If the
 * broker dies amid such a pass its guard lets them go on (capshm/broker/revocation/guard.py); one that is parked by the handler sees
 * for itself that the broker is dead, as one does that is parked at the gate.
 */
#ifndef CAPSHM_HALT_H
#define CAPSHM_HALT_H

#include <stdbool.h>

/* Installs or removes this process's handler; does nothing if that is done, or somebody has put another in its place.
 * False: errno tells why. */
bool halt_take_signals(bool is_wanted);

#endif
