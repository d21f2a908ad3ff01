/* process.c: attaching, threads, fork. */
#define _GNU_SOURCE /* PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP */
#include "process.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/membarrier.h>

#include "capshm.h"
#include "halt.h"
#include "page_table.h"
#include "private.h"
#include "program.h"
#include "register_file.h"
#include "requests.h"
#include "revoke.h"
#include "run_out.h"
#include "sideband.h"

enum { MEMBERS = 1024 };
static const uint64_t SEEN_NOTHING = UINT64_MAX; /* no signal: the epoch would have to pass 2^47 */
static const uint64_t DEFAULT_LOCK_TIMEOUT = 1000000000;

struct process process = {.lock_timeout = DEFAULT_LOCK_TIMEOUT};

/* Wiped by fork: is_attached is false in a child until the hook has run there. */
struct members {
    bool is_attached;
    uint32_t used; /* no member from here on was ever used */
    struct gate_member members[MEMBERS];
};

static struct members *members;
/* Recursive: between the hooks of a fork Python may finalize objects, and those give registers back. */
static pthread_mutex_t mutex = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
static pthread_key_t thread_end_key;
static uint64_t seen_at_fork;
static int own_descriptor = -1; /* closed in every child; -1: none */
static ino_t own_inode;
/* Between the hooks of a fork; written with the lock in hand. In ordinary memory, so that the child sees it. */
static bool is_fork_prepared;
static unsigned fork_depth; /* forks that this process is amid; a signal handler may fork amid a fork */
static bool is_inside_for_fork;

void process_lock(void) {
    pthread_mutex_lock(&mutex);
}

void process_unlock(void) {
    pthread_mutex_unlock(&mutex);
}

static void end_thread(void *member) {
    process_lock();
    if (((struct gate_member *)member)->slot != NULL)
        gate_release_slot(member);
    process_unlock();
}

/* From a fork on shared mappings lock their tag lines, from the second thread on private ones too. */
static void lock_all_regions(bool is_private_too) {
    for (uint32_t number = 0; number < address_space.region_count; number++) {
        struct region *const region = &address_space.regions[number];
        if (is_private_too || !region->is_private)
            atomic_store_explicit(&region->is_locking, true, memory_order_relaxed);
    }
}

static uint32_t count_members(void) {
    uint32_t count = 0;
    for (uint32_t number = 0; number < members->used; number++)
        count += members->members[number].slot != NULL;
    return count;
}

bool process_is_alone(void) {
    return count_members() <= 1 && !is_fork_prepared;
}

/* The broker may look into this process, and run it out of an operation in which it is stopped. */
static void permit_keeper(void) {
    const uint32_t keeper = atomic_load(&process.gate->keeper);
    if (keeper != 0)
        run_out_permit(gate_owner_pid(atomic_load(&process.gate->slots[keeper].owner)));
}

/* With the lock in hand. */
static enum status add_member(void) {
    for (uint32_t number = 0; number < MEMBERS; number++) {
        struct gate_member *const member = &members->members[number];
        if (member->slot != NULL)
            continue;
        atomic_store(&member->seen, SEEN_NOTHING);
        if (!gate_claim_slot(process.gate, member, sideband_recover_target))
            return STATUS_NO_MEMORY;
        permit_keeper();
        if (number >= members->used)
            members->used = number + 1;
        thread_member = member;
        pthread_setspecific(thread_end_key, member);
        return STATUS_OK;
    }
    return STATUS_NO_MEMORY;
}

static void keep_others_out(void) {
    bool has_others = false;
    for (uint32_t number = 0; number < members->used; number++) {
        if (members->members[number].slot == NULL || &members->members[number] == thread_member)
            continue;
        has_others = true;
        atomic_store(&members->members[number].seen, SEEN_NOTHING);
    }
    if (!has_others)
        return; /* and none comes: a thread becomes a member with the lock in hand */
    /* Partner: the compiler barrier in gate_try_enter. */
    syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL_EXPEDITED, 0, 0);
    for (uint32_t number = 0; number < members->used; number++) {
        const struct gate_member *const member = &members->members[number];
        while (member != thread_member && member->slot != NULL &&
               atomic_load_explicit(&member->slot->in_operation, memory_order_acquire) != 0)
            sched_yield(); /* ends: an operation waits for nothing while its flag is set */
    }
}

void process_quiesce(void) {
    process_lock();
    keep_others_out();
}

void process_resume(void) {
    process_unlock();
}

static enum status attach_thread(void) {
    if (members == NULL || !members->is_attached)
        return STATUS_NOT_ATTACHED;
    process_quiesce();
    if (count_members() > 0)
        lock_all_regions(true);
    const enum status status = add_member();
    process_resume();
    return status == STATUS_OK ? STATUS_AGAIN : status;
}

/* With the lock in hand: enters although nobody has caught up yet. False: the gate has changed again. */
static bool enter_at(struct gate_member *self, uint64_t signal, enum gate_position position) {
    atomic_store_explicit(&self->slot->in_operation, position, memory_order_relaxed);
    atomic_signal_fence(memory_order_seq_cst); /* partner: the closer's membarrier */
    if (atomic_load_explicit(&self->gate->signal, memory_order_acquire) == signal)
        return true;
    gate_leave_slot(self->slot);
    return false;
}

/* The gate is open at this signal: sweeps what a pass has left to this process, and lets the thread in. With the lock in
 * hand to the end, so that a thread that is being kept out does not let itself in again. */
static enum status catch_up(struct gate_member *self, uint64_t signal) {
    static _Thread_local uint64_t waited;
    struct line_place held;
    uint64_t lock = 0;
    enum status status = STATUS_OK;
    process_lock(); /* also the place where a quiesced thread waits */
    if (revocation_is_due(self->gate)) {
        if (!enter_at(self, signal, GATE_INSIDE)) {
            process_unlock();
            return STATUS_AGAIN;
        }
        status = revocation_sweep(self->gate, &held, &lock);
        gate_leave_slot(self->slot);
    }
    if (status == STATUS_OK)
        atomic_store_explicit(&self->seen, signal, memory_order_relaxed);
    process_unlock();
    if (status == STATUS_AGAIN)
        return line_wait(held, lock, process.lock_timeout, &waited);
    waited = 0;
    return status == STATUS_OK ? STATUS_AGAIN : status;
}

static enum status clear_way(bool (*interruption)(void)) {
    struct gate_member *const self = thread_member;
    if (self->slot == NULL)
        return attach_thread();
    uint64_t signal;
    const enum gate_obstacle obstacle = gate_wait(self, &signal);
    if (obstacle == GATE_IS_MINE)
        return STATUS_GATE_CLOSED;
    if (obstacle == GATE_IS_OPEN)
        return catch_up(self, signal);
    if (obstacle == GATE_IS_ABANDONED)
        return STATUS_BROKER_GONE;
    if (interruption != NULL && interruption())
        return STATUS_INTERRUPTED;
    return STATUS_AGAIN;
}

enum status process_clear_way(void) {
    return clear_way(process.interruption);
}

static void *map_anonymous(size_t size, int flags) {
    return mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | MAP_NORESERVE | flags, -1, 0);
}

/* A gate that others share by its descriptor, or one that only this process's forks will share. */
static void *map_gate(int descriptor) {
    if (descriptor < 0)
        return map_anonymous(sizeof(struct gate), MAP_SHARED);
    struct stat status;
    if (fstat(descriptor, &status) != 0)
        return MAP_FAILED;
    if ((uint64_t)status.st_size < sizeof(struct gate)) {
        errno = EINVAL;
        return MAP_FAILED;
    }
    return mmap(NULL, sizeof(struct gate), PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
}

/* What a process needs once, whatever gate it belongs to. Nothing, after a failure; errno tells why. */
static enum status initialize_memory(uint64_t arena_base, uint64_t arena_size) {
    if (members != NULL)
        return STATUS_OK;
    void *const wiped = map_anonymous(sizeof(struct members), MAP_PRIVATE);
    enum status status = STATUS_NO_MEMORY;
    if (wiped != MAP_FAILED && madvise(wiped, sizeof(struct members), MADV_WIPEONFORK) == 0)
        status = register_file_initialize();
    if (status == STATUS_OK)
        status = page_table_initialize(arena_base, arena_size);
    if (status != STATUS_OK) {
        const int reason = errno;
        munmap(wiped, sizeof(struct members)); /* of MAP_FAILED: refused, and harmless */
        register_file_finalize();
        errno = reason;
        return status;
    }
    members = wiped;
    return STATUS_OK;
}

/* Gate and shadow. A shadow is shared where the gate is this process's own, for processes that it forks; where a broker
 * gave the gate each address space has its own, which a fork copies (cheribsd:2.3). */
static enum status join_gate(int descriptor) {
    void *const gate = map_gate(descriptor);
    if (gate == MAP_FAILED)
        return STATUS_NO_MEMORY;
    if (!revocation_begin(gate, descriptor < 0)) {
        const int reason = errno;
        munmap(gate, sizeof(struct gate));
        errno = reason;
        return STATUS_NO_MEMORY;
    }
    process.gate = gate;
    members->is_attached = true;
    return STATUS_OK;
}

/* In every child, before any Python. The copy of the lock may be held by a thread of the parent; and what the broker
 * answers to the parent must not be taken by a child that ran no hooks. */
static void start_child(void) {
    mutex = (pthread_mutex_t)PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
    if (own_descriptor >= 0 && capshm_is_descriptor_of(own_descriptor, own_inode))
        close(own_descriptor);
    own_descriptor = -1;
}

/* With the lock in hand: two threads may come at once. */
static enum status attach(uint64_t arena_base, uint64_t arena_size, int gate) {
    if (members != NULL && process.gate != NULL)
        return !members->is_attached ? STATUS_NOT_ATTACHED : gate < 0 ? STATUS_OK : STATUS_INVALID;
    if (arena_size == 0 || (arena_base | arena_size) % (PAGE_BYTES * 64) ||
        (members != NULL && (arena_base != address_space.arena_base || arena_size != address_space.arena_size)))
        return STATUS_INVALID;
    static bool has_key;
    has_key = has_key ||
              (pthread_key_create(&thread_end_key, end_thread) == 0 && pthread_atfork(NULL, NULL, start_child) == 0);
    if (!has_key || !program_install_handler())
        return STATUS_NO_MEMORY;
    if (!gate_register_process())
        return STATUS_UNSUPPORTED;
    private_handle_raw_writes();
    const enum status status = initialize_memory(arena_base, arena_size);
    return status == STATUS_OK ? join_gate(gate) : status;
}

enum status capshm_keep_gate(int descriptor) {
    struct gate *const gate = map_gate(descriptor);
    if (gate == MAP_FAILED)
        return STATUS_NO_MEMORY;
    process.gate = gate;
    return gate_keep(gate) ? STATUS_OK : STATUS_NO_MEMORY;
}

enum status capshm_attach(uint64_t arena_base, uint64_t arena_size, int gate) {
    process_lock();
    const enum status status = attach(arena_base, arena_size, gate);
    process_unlock();
    return status;
}

/* Other threads go on pointing to their members: nobody else may get those. Without memory for new ones the old ones are
 * kept, and the process cannot attach again. */
static void renew_members(void) {
    void *const wiped = map_anonymous(sizeof(struct members), MAP_PRIVATE);
    if (wiped != MAP_FAILED && madvise(wiped, sizeof(struct members), MADV_WIPEONFORK) == 0)
        members = wiped;
}

/* With the other threads kept out: they find no slot when they come back. */
static void detach(void) {
    const bool has_threads = count_members() > 1;
    private_forget(address_space.arena_base, address_space.arena_size);
    page_table_reset();
    register_file_forget();
    allocator_forget();
    for (uint32_t number = 0; number < members->used; number++) {
        if (members->members[number].slot != NULL)
            gate_release_slot(&members->members[number]);
    }
    members->is_attached = false;
    halt_take_signals(false);
    if (has_threads)
        renew_members();
    else /* they may be parked there, and look at it once more when they wake */
        munmap(process.gate, sizeof(struct gate));
    revocation_end();
    process.gate = NULL;
}

void capshm_detach(void) {
    if (members == NULL || process.gate == NULL)
        return;
    if (members->is_attached) {
        process_quiesce();
        detach();
        process_resume();
    } else {
        process_lock();
        detach();
        process_unlock();
    }
}

void capshm_keep_from_children(int descriptor) {
    struct stat status;
    own_descriptor = descriptor >= 0 && fstat(descriptor, &status) == 0 ? descriptor : -1;
    own_inode = own_descriptor >= 0 ? status.st_ino : 0;
}

size_t capshm_gate_size(void) {
    return sizeof(struct gate);
}

size_t capshm_gate_processes(int32_t *pids, size_t capacity) {
    size_t count = 0;
    if (process.gate == NULL)
        return 0;
    const uint32_t used = atomic_load(&process.gate->slots_used);
    for (uint32_t number = 1; number < used; number++) {
        const uint64_t owner = atomic_load(&process.gate->slots[number].owner);
        if (owner == 0 || number == atomic_load(&process.gate->keeper) || gate_owner_is_dead(owner))
            continue;
        if (count < capacity)
            pids[count] = gate_owner_pid(owner);
        count++;
    }
    return count;
}

bool capshm_is_attached(void) {
    return members != NULL && members->is_attached;
}

bool capshm_set_dumpable(bool is_dumpable) {
    const bool was_dumpable = prctl(PR_GET_DUMPABLE) == 1;
    prctl(PR_SET_DUMPABLE, (unsigned long)is_dumpable);
    return was_dumpable;
}

void capshm_set_isa(bool is_rvy) {
    process.is_rvy = is_rvy;
}

void capshm_set_interruption(bool (*interruption)(void)) {
    process.interruption = interruption;
}

void capshm_set_lock_timeout(uint64_t nanoseconds) {
    process.lock_timeout = nanoseconds;
}

void capshm_fork_begin(void) {
    fork_depth++;
}

unsigned capshm_fork_depth(void) {
    return fork_depth;
}

void capshm_fork_before(void) {
    if (!capshm_is_attached())
        return;
    for (;;) {
        /* The flag is set with the lock in hand, and nobody waits for the gate with the lock in hand: whoever quiesces
         * waits for flags, and whoever has closed the gate may want the lock. */
        process_quiesce();
        is_inside_for_fork =
            thread_member->slot != NULL && enter_at(thread_member, atomic_load(&thread_member->seen), GATE_AMID_FORK);
        if (is_inside_for_fork || gate_is_closed_by_this_thread())
            break; /* a thread that has itself closed the gate may fork: it would wait for itself for ever */
        process_resume();
        if (clear_way(NULL) != STATUS_AGAIN) {
            process_quiesce(); /* no slot is left for this thread, nor will one be for the child */
            break;
        }
    }
    lock_all_regions(false);
    seen_at_fork = atomic_load(&thread_member->seen);
    revocation_fork_before();
    is_fork_prepared = true;
}

void capshm_fork_in_parent(void) {
    if (fork_depth > 0)
        fork_depth--;
    if (fork_depth > 0 || !is_fork_prepared)
        return;
    is_fork_prepared = false;
    if (is_inside_for_fork)
        gate_leave();
    process_resume();
}

enum status capshm_fork_in_child(void) {
    const bool is_amid_another = fork_depth > 1;
    fork_depth = 0;
    if (!is_fork_prepared)
        return STATUS_OK; /* the parent was not attached: nor is the child */
    is_fork_prepared = false;
    if (is_amid_another)
        return STATUS_NOT_ATTACHED; /* what has been prepared is the outer one's */
    process_lock();
    members->is_attached = true;
    mapping_lose_tags_at_fork();
    allocator_start_child();
    enum status status = revocation_fork_in_child();
    if (status == STATUS_OK)
        status = add_member();
    if (status == STATUS_OK)
        atomic_store(&thread_member->seen, seen_at_fork); /* an epoch since then is caught up with, as in the parent */
    else
        members->is_attached = false;
    process_unlock();
    return status;
}
