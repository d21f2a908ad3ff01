/* remote.h: what other processes ask of this one's mappings, carried out here by this process's own thread.
 *
 * Linux has no call that maps, protects or unmaps in another address space. So the broker, which has decided a call on its
 * model, has the process do it. It sends SIGURG; the handler below, C that touches no Python, asks the broker what there is
 * to do, does it, says so, and asks again until there is nothing. SIGURG because a program that ignores it, as one does
 * that exec has just started, loses nothing. The broker's side, and what a death leaves, is in capshm/broker/zircon/remote.py.
 *
 *     handler                                     broker
 *     (1) takes the turn
 *     (2) "remote_next" ------------------------> decides the oldest call that waits, on the model as it is now
 *     (3) receives the orders <------------------ the orders, and descriptors for them; from here on: given
 *     (4) carries out one after another
 *     (5) "remote_done" ------------------------> answers the caller
 *     (6) back to (2); after "nothing": gives the turn back
 *
 * Invariants:
 *   - One order of changes. The broker decides one change of an address space at a time, and none while another's orders
 *     are given and not reported. Orders and the answers to the process's own requests come over one connection, and are
 *     carried out in the order in which they come.
 *   - The turn. Whoever reads from the connection has it: a request of the process's own from before it is sent until its
 *     answer is carried out, a fork from before it is planned until both processes have what was planned, a handler from
 *     (1) to (6). So a handler never takes another's answer, and nothing comes between an answer and its carrying out.
 *   - No circle. Whoever waits for an answer carries out the orders that come before it (capshm_remote_take). Two processes
 *     that change each other's mappings at once do, each of them, what the other waits for.
 *   - The handler does nothing where its thread is inside an operation, or has the lock of the process or the turn in
 *     hand: `is_wanted` stays set. Who gives the lock or the turn back looks at it. The end of an operation does not, it
 *     would cost every operation; instead the thread's next operation takes the slow way, and the broker, which does not
 *     know when there will be one, sends the signal again.
 *   - The order of stores for that: `is_wanted` is set before the turn is tried for, and the turn is given back before
 *     `is_wanted` is looked at. So either the handler gets the turn or the one who has it sees that it is wanted.
 *
 * Nothing here allocates or waits for a lock that its own thread could have; recv waits for the broker alone, which never
 * waits, and ends with it. The child of a fork has a connection of its own, and begins with its turn taken until what is
 * different in it is done; one that came without hooks is not attached and does nothing.
 */
#ifndef CAPSHM_REMOTE_H
#define CAPSHM_REMOTE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    REMOTE_ORDERS = 1024, /* at most, in one call */
    REMOTE_DESCRIPTORS = 4,
    REMOTE_MARK = 1, /* the first byte of orders; answers begin with '{' */
};

enum remote_kind { REMOTE_MAP, REMOTE_PROTECT, REMOTE_UNMAP };

/* One order: what capshm_map_object (shared), capshm_protect or capshm_unmap_range is asked. */
struct remote_order {
    uint32_t kind;
    uint32_t permissions;
    uint64_t start;
    uint64_t length;
    uint32_t permissions_before; /* REMOTE_PROTECT: to go back to if the kernel refuses */
    /* REMOTE_MAP. The places of descriptors that came along, or -1, and what can be done with them. */
    uint32_t object;
    uint64_t offset;
    int32_t data;
    int32_t tags;
    int32_t clear;
    bool is_kept_at_fork;
    bool is_tags_writable;
    bool is_clear_writable;
};

/* What the broker sends. count 0: there is nothing to do. */
struct remote_orders {
    uint32_t mark;
    uint32_t count;
    uint64_t number; /* goes back with the report */
    struct remote_order orders[REMOTE_ORDERS];
};

/* Installs the handler in front of the present one. Idempotent. False: errno tells why. */
bool remote_install_handler(void);

/* The turn; only with the request lock of capshm.process in hand, and as often given back as taken. */
void capshm_remote_hold(void);
void capshm_remote_release(void);

/* Carries out orders that came to somebody who waits for an answer, and reports that. The descriptors stay the caller's;
 * is_cut: this process had no room for them. */
void capshm_remote_take(const void *orders, size_t length, const int32_t *descriptors, size_t count, bool is_cut);

/* For process.c: whoever gives its lock back looks whether somebody is wanted. */
void remote_look(void);
/* In the child of a fork, first of all. */
void remote_start_child(void);
/* Whether orders were carried out amid a fork, after its child had been planned; forgets it. */
bool remote_came_amid_fork(void);

#endif
