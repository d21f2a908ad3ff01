/* gate.c: slots, parking, closing and opening; the reasons are in gate.h. */
#include "gate.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <linux/membarrier.h>
#include <poll.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"
#include "run_out.h"
#include "task.h"

enum { FIRST_SLOTS = 64 }; /* a page of them; GATE_SLOTS is this doubled some times */
enum { SPINS = 200, TURNS_BETWEEN_LOOKS = 64 }; /* of who waits for a thread to leave its operation */
static const uint64_t SIGNAL_CLOSER = 0xffff;
/* ns after which a parked thread looks whether the closer still lives. */
static const uint64_t PARKED_LOOK_UP = 20000000;

static struct gate_member unattached_member;
_Thread_local struct gate_member *thread_member __attribute__((tls_model("initial-exec"))) = &unattached_member;

bool gate_register_process(void) {
    const int self = (int)syscall(SYS_pidfd_open, getpid(), 0);
    if (self < 0)
        return false;
    close(self);
    return syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED, 0, 0) == 0;
}

void gate_barrier_everywhere(void) {
    syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL_EXPEDITED, 0, 0);
}

static uint64_t owner_word(int32_t pid, uint64_t start_time) {
    return (uint64_t)(uint32_t)pid << GATE_OWNER_PID_SHIFT | start_time;
}

bool gate_owner_is_dead(uint64_t owner) {
    const int32_t pid = gate_owner_pid(owner);
    const int descriptor = (int)syscall(SYS_pidfd_open, pid, 0);
    if (descriptor < 0)
        return errno == ESRCH;
    /* The descriptor names whoever had the pid when it was opened. If the start time that is read now is the owner's,
     * the pid cannot have changed hands before, so the descriptor is the owner's. A zombie still has its start time. */
    const uint64_t start_time = task_start_time(pid);
    /* Not knowing (no descriptor is free, /proc is hidden) is no death: the descriptor alone decides then. */
    const bool is_other = start_time != 0 && owner_word(pid, start_time) != owner;
    struct pollfd ended = {.fd = descriptor, .events = POLLIN};
    const bool has_ended = poll(&ended, 1, 0) == 1;
    close(descriptor);
    return is_other || has_ended;
}

/* The signal after an opening: nobody closes it, and it was never the same before, so that nobody takes the next
 * closing for this one. */
static uint64_t opened(uint64_t signal) {
    return (signal & ~SIGNAL_CLOSER) + (UINT64_C(1) << GATE_OPENING_SHIFT);
}

static void wake_parked(struct gate *gate) {
    syscall(SYS_futex, (uint32_t *)&gate->signal, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

/* True if it was dead. A closer that died leaves the gate closed. Nothing is half done by that: tags that its sweep
 * cleared stay cleared, and its revocation never returned, so no register needs to be swept for it. */
static bool open_if_closer_is_dead(struct gate *gate, uint64_t signal) {
    const uint32_t closer = signal & SIGNAL_CLOSER;
    const uint64_t owner = atomic_load(&gate->slots[closer].owner);
    if (closer == atomic_load(&gate->keeper) || (owner != 0 && !gate_owner_is_dead(owner)))
        return false;
    if (atomic_compare_exchange_strong(&gate->signal, &signal, opened(signal)))
        wake_parked(gate);
    return true;
}

/* Waits for the gate to change from this closed signal, for a while, and looks whether it ever will. */
static void park(struct gate *gate, uint64_t signal) {
    const struct timespec look_up = {.tv_nsec = (long)PARKED_LOOK_UP};
    /* The lower half of the signal holds the closer and part of the number of openings: it changes with every opening.
     * */
    syscall(SYS_futex, (uint32_t *)&gate->signal, FUTEX_WAIT, (uint32_t)signal, &look_up, NULL, 0);
    if (atomic_load(&gate->signal) == signal)
        open_if_closer_is_dead(gate, signal);
}

/* The number of the slot to look at next. The hand goes round the slots in use; if not even half of a round's slots
 * could be claimed, as many again come into use. So a claim looks at two slots of the living on average, however many
 * there are, and no more than half of the slots in use were never needed. All of this only says where to look: whose a
 * slot is, its owner word alone says. */
static uint32_t next_slot(struct gate *gate) {
    for (;;) {
        uint32_t number = atomic_load(&gate->hand);
        uint32_t used = atomic_load(&gate->slots_used);
        if (number < used) {
            if (atomic_compare_exchange_weak(&gate->hand, &number, number + 1))
                return number;
        } else if (used < GATE_SLOTS && atomic_load(&gate->claims) <= used / 2) {
            atomic_compare_exchange_weak(&gate->slots_used, &used, used == 0 ? FIRST_SLOTS : used * 2);
        } else if (atomic_compare_exchange_weak(&gate->hand, &number, 1)) {
            atomic_store(&gate->claims, 0);
        }
    }
}

/* Takes the slot if it is free, or its owner dead. */
static bool claim(struct gate *gate, uint32_t number, uint64_t mine, gate_recovery *recover) {
    struct gate_slot *const slot = &gate->slots[number];
    uint64_t owner = atomic_load(&slot->owner);
    if (owner == mine || number == atomic_load(&gate->keeper) || (owner != 0 && !gate_owner_is_dead(owner)))
        return false;
    /* A dead holder's lock is freed by somebody who can reach the line; until then the number must not come back, or
     * the lock would seem to be held by the living. */
    const uint64_t target = atomic_load(&slot->target);
    if (owner != 0 && target != 0 && !recover(slot, number, owner, target))
        return false;
    const uint64_t signal = atomic_load(&gate->signal);
    if ((signal & SIGNAL_CLOSER) == number)
        open_if_closer_is_dead(gate, signal); /* for the same reason */
    if (!atomic_compare_exchange_strong(&slot->owner, &owner, mine))
        return false;
    atomic_store(&slot->target, 0);
    atomic_store(&slot->in_operation, GATE_OUTSIDE);
    atomic_store(&slot->thread, (int32_t)syscall(SYS_gettid));
    atomic_fetch_add(&gate->claims, 1);
    return true;
}

bool gate_claim_slot(struct gate *gate, struct gate_member *member, gate_recovery *recover) {
    const uint64_t start_time = task_start_time(getpid());
    if (start_time == 0)
        return false; /* others would take this process for dead */
    const uint64_t mine = owner_word(getpid(), start_time);
    /* So many looks are a whole round after all slots have come into use. */
    for (uint32_t looks = 0; looks < 2 * GATE_SLOTS; looks++) {
        const uint32_t number = next_slot(gate);
        if (number == 0 || !claim(gate, number, mine, recover))
            continue;
        member->gate = gate;
        member->lock_identity = number;
        member->slot = &gate->slots[number];
        return true;
    }
    return false;
}

/* A keeper has nothing mapped in which a dead holder could have left a lock. */
static bool recover_nothing(const struct gate_slot *slot, uint32_t number, uint64_t owner, uint64_t target) {
    (void)slot, (void)number, (void)owner, (void)target;
    return false;
}

bool gate_keep(struct gate *gate) {
    static struct gate_member keeper;
    if (!gate_claim_slot(gate, &keeper, recover_nothing))
        return false;
    thread_member = &keeper;
    atomic_store(&gate->keeper, (uint32_t)keeper.lock_identity);
    return true;
}

void gate_release_slot(struct gate_member *member) {
    struct gate_slot *const slot = member->slot;
    member->slot = NULL;
    if (thread_member == member)
        thread_member = &unattached_member; /* the member may soon be another thread's */
    atomic_store(&slot->in_operation, GATE_OUTSIDE);
    atomic_store(&slot->owner, 0);
}

static bool is_abandoned(struct gate *gate, uint64_t signal) {
    const uint32_t closer = signal & SIGNAL_CLOSER;
    return closer == atomic_load(&gate->keeper) && gate_owner_is_dead(atomic_load(&gate->slots[closer].owner));
}

enum gate_obstacle gate_wait(struct gate_member *member, uint64_t *signal) {
    for (bool has_waited = false;; has_waited = true) {
        *signal = atomic_load(&member->gate->signal);
        if ((*signal & SIGNAL_CLOSER) == 0)
            return GATE_IS_OPEN;
        if ((*signal & SIGNAL_CLOSER) == member->lock_identity)
            return GATE_IS_MINE;
        if (has_waited)
            return is_abandoned(member->gate, *signal) ? GATE_IS_ABANDONED : GATE_IS_CLOSED;
        park(member->gate, *signal);
    }
}

bool gate_is_keeper(int32_t pid) {
    const struct gate_member *const self = thread_member;
    if (self->slot == NULL)
        return false;
    const uint32_t keeper = atomic_load(&self->gate->keeper);
    return keeper != 0 && gate_owner_pid(atomic_load(&self->gate->slots[keeper].owner)) == pid;
}

void gate_park_interrupted(void) {
    const struct gate_member *const self = thread_member;
    const uint64_t signal = atomic_load(&self->gate->signal);
    if ((signal & SIGNAL_CLOSER) == 0)
        return; /* it came too late */
    atomic_store_explicit(&self->slot->halted, signal, memory_order_release); /* partner: has_halted */
    while (atomic_load_explicit(&self->slot->in_operation, memory_order_relaxed) == GATE_OUTSIDE &&
           atomic_load(&self->gate->signal) == signal && !is_abandoned(self->gate, signal))
        park(self->gate, signal);
}

/* Waits for one slot. True: nobody is inside an operation there. is_keeper: this is one. */
static bool wait_until_outside(struct gate_slot *slot, bool is_keeper, uint64_t deadline) {
    for (uint32_t turn = 0;; turn++) {
        if (atomic_load_explicit(&slot->in_operation, memory_order_acquire) == GATE_OUTSIDE)
            return true;
        if (turn < SPINS) {
            clock_relax();
            continue;
        }
        const bool is_last = clock_now() >= deadline;
        const uint64_t owner = atomic_load(&slot->owner);
        if (is_last || (turn - SPINS) % TURNS_BETWEEN_LOOKS == 0) {
            if (owner == 0 || gate_owner_is_dead(owner))
                return true;
            if (is_keeper && run_out(slot, gate_owner_pid(owner), deadline))
                continue;
        }
        if (is_last)
            return false;
        sched_yield();
    }
}

/* Wins the gate against other closers. On failure closer is the slot of the one that holds it. */
static bool take_gate(struct gate *gate, uint64_t deadline, uint32_t *closer) {
    for (;;) {
        uint64_t signal = atomic_load(&gate->signal);
        *closer = signal & SIGNAL_CLOSER;
        if (*closer == 0) {
            if (atomic_compare_exchange_weak(&gate->signal, &signal, signal | thread_member->lock_identity))
                return true;
        } else if (clock_now() < deadline) {
            park(gate, signal);
        } else if (!open_if_closer_is_dead(gate, signal)) {
            return false;
        }
    }
}

static void add_straggler(const struct gate_slot *slot, int32_t *stragglers, size_t capacity, size_t *count) {
    if (*count < capacity)
        stragglers[*count] = gate_owner_pid(atomic_load(&slot->owner));
    ++*count;
}

enum status gate_close(uint64_t timeout, int32_t *stragglers, size_t capacity, size_t *straggler_count) {
    *straggler_count = 0;
    struct gate *const gate = thread_member->gate;
    const uint64_t deadline = clock_now() + timeout;
    uint32_t closer;
    if (!take_gate(gate, deadline, &closer)) {
        add_straggler(&gate->slots[closer], stragglers, capacity, straggler_count);
        return STATUS_INCOMPLETE;
    }
    gate_barrier_everywhere();
    const uint32_t used = atomic_load(&gate->slots_used);
    const bool is_keeper = thread_member->lock_identity == atomic_load(&gate->keeper);
    for (uint32_t number = 1; number < used; number++) {
        struct gate_slot *const slot = &gate->slots[number];
        if (!wait_until_outside(slot, is_keeper, deadline))
            add_straggler(slot, stragglers, capacity, straggler_count);
    }
    if (*straggler_count == 0)
        return STATUS_OK;
    gate_open(false);
    return STATUS_INCOMPLETE;
}

bool gate_is_closed_by_this_thread(void) {
    const struct gate_member *const self = thread_member;
    return self->slot != NULL && (atomic_load(&self->gate->signal) & SIGNAL_CLOSER) == self->lock_identity;
}

void gate_open(bool is_new_epoch) {
    struct gate *const gate = thread_member->gate;
    if (is_new_epoch)
        atomic_fetch_add(&gate->epoch, 1); /* before the gate opens: who enters after that sees it */
    atomic_store(&gate->signal, opened(atomic_load(&gate->signal)));
    wake_parked(gate);
}
