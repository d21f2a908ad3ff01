/* capshm.h: what the core offers to Python, and to the programs of tests and benchmarks.
 *
 * Registers are named by their numbers (register_file.h). An authority is a register through which memory is reached;
 * offsets count from its address and wrap at 2^64, as the ISA's addition does. Every function that returns an enum
 * status changes nothing unless it returns STATUS_OK or says otherwise, and leaves the details of a refusal in the
 * thread's struct fault.
 */
#ifndef CAPSHM_H
#define CAPSHM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "allocator.h"
#include "encoding.h"
#include "fault.h"
#include "gate.h"
#include "origin.h"
#include "page_table.h"
#include "register_file.h"
#include "revoke.h"
#include "sideband.h"
#include "stamps.h"
#include "step.h"
#include "sweep.h"

/* Process ---------------------------------------------------------------------------------------------------------- */

/* Reserves the arena and joins a gate: that of a descriptor, of at least capshm_gate_size() bytes that were zero at
 * first, or with -1 one of its own. In a process that is attached already: nothing with -1, else STATUS_INVALID.
 * STATUS_NO_MEMORY, STATUS_UNSUPPORTED: errno tells why. */
enum status capshm_attach(uint64_t arena_base, uint64_t arena_size, int gate);
/* Unmaps everything in the arena, takes the tags of all registers and leaves the gate. */
void capshm_detach(void);
/* Names the one descriptor that is closed in every child of fork(3), hooks or none, before anything else runs there; -1: no
 * more. A raw clone(2) keeps it. */
void capshm_keep_from_children(int descriptor);
size_t capshm_gate_size(void);
/* Makes this process, which is not attached and will not be, the keeper of a new gate (gate.h): capshm_gate_close and
 * capshm_gate_open are then for its one thread. STATUS_NO_MEMORY. */
enum status capshm_keep_gate(int descriptor);
/* The pids of the living processes that have slots in this process's gate, one for each slot; the first capacity of them.
 * Returns how many there are. */
size_t capshm_gate_processes(int32_t *pids, size_t capacity);
bool capshm_is_attached(void);

/* What the child of the next fork gets from the machine: its record's number, 0 if there is no machine; and shadows, of
 * which the paint is copied during the fork, -1 if nothing was ever painted. To be undone after the fork. */
void capshm_plan_child(uint32_t record, int parent_shadow, int shadow);

/* To be called around every fork; a child in which the last one did not run is not attached. The first one counts, so
 * that a fork amid another, which a signal handler makes, changes nothing for the outer one and has an unattached child. */
void capshm_fork_begin(void);
unsigned capshm_fork_depth(void);
void capshm_fork_before(void);
void capshm_fork_in_parent(void);
enum status capshm_fork_in_child(void);

/* Whether other processes of the same user may look into this one (PR_SET_DUMPABLE); returns what was so before. Children
 * inherit it, programs that are executed do not. */
bool capshm_set_dumpable(bool is_dumpable);

void capshm_set_isa(bool is_rvy);
void capshm_set_lock_timeout(uint64_t nanoseconds);
/* A function for threads that wait at the closed gate, outside any operation and without a lock: it is called after
 * each (Unix) signal and every 20 ms, and may do whatever the thread itself may. True: give up, STATUS_INTERRUPTED. */
void capshm_set_interruption(bool (*interruption)(void));
const struct fault *capshm_fault(void);

/* Mappings --------------------------------------------------------------------------------------------------------- */

/* Where one object's memory and sideband have been mapped. Addresses are multiples of the page size. */
struct capshm_mapping {
    uint64_t address;      /* of the data, in the arena */
    uint64_t length;
    uint64_t lines;        /* of its tag lines; 0: no capability permission */
    uint64_t twins;
    uint64_t clear;        /* of its clear map */
    uint64_t first_line;   /* number of the first tag line in the object */
    uint32_t object;
    uint32_t permissions;  /* PAGE_READ, PAGE_WRITE, PAGE_LOAD_CAP, PAGE_STORE_CAP */
    bool is_lines_writable;
    bool is_private;       /* nobody else maps the memory: fork copies it */
    bool is_exclusive;     /* nobody but this thread stores capabilities to the object yet */
};

/* Maps length bytes of a descriptor, shared, at *address in the arena, or where the kernel likes if *address is 0
 * (sidebands). Arena addresses must be free. STATUS_NO_MEMORY: errno tells why, nothing is mapped. */
enum status capshm_map_memory(uint64_t *address, uint64_t length, int descriptor, uint64_t offset, bool is_writable);
/* Unmaps it; in the arena the place is reserved again. */
enum status capshm_unmap_memory(uint64_t address, uint64_t length);

/* A number for a new object, the same for all processes of the gate; none comes back. 0: all have been given out. */
uint32_t capshm_new_object(void);
/* Puts a mapping that was made into the page table. */
enum status capshm_map(const struct capshm_mapping *mapping);
/* Takes it out. Afterwards no thread of this process is inside an operation on the pages: they may be unmapped. */
enum status capshm_unmap(uint64_t address, uint64_t length);

/* A mapping of an object, or of private anonymous memory, with all that belongs to it. */
struct capshm_object_mapping {
    uint64_t address; /* of the data; whole pages of the arena */
    uint64_t length;
    uint64_t offset;       /* of its first byte in the object, whole pages */
    int32_t data;          /* descriptor; -1: private anonymous memory, and only the permissions matter */
    int32_t tags; /* of tag lines, from TWINS_OFFSET on twins, from ORIGINS_OFFSET on origins; -1: no capability
                   * permission, now or ever */
    int32_t clear; /* of the clear map; -1: nobody can set a tag in this object (a file) */
    uint32_t object; /* its number */
    uint32_t permissions; /* PAGE_READ, PAGE_WRITE, PAGE_LOAD_CAP, PAGE_STORE_CAP, PAGE_EXECUTE */
    bool is_shared; /* false: MAP_PRIVATE, page by page (private.h) */
    bool is_tags_writable; /* the tags descriptor may be mapped for writing */
    bool is_clear_writable; /* so may the clear map's: the data may be written, now or later */
    bool is_kept_at_fork; /* false: a child finds neither tags nor capability permission here (cheribsd:F2) */
};

enum {
    TWINS_OFFSET = 1 << 30, /* in the file of the tags: the tag lines of the largest object lie before */
};
#define OBJECT_SIZE_MAX (UINT64_C(64) << 30)
#define ORIGINS_OFFSET (TWINS_OFFSET + OBJECT_SIZE_MAX)

/* Maps it over whatever lies there. The descriptors may be closed right after. STATUS_NO_MEMORY: errno tells why, and
 * nothing has changed. */
enum status capshm_map_object(const struct capshm_object_mapping *mapping);
/* The same for an object that nobody else has yet, over memory that is all this process's own: the object gets its data
 * and, if it has tags, its tags, and no store of another thread is lost. data, tags: descriptors of the same memory that
 * may be written, whatever the mapping itself may; tags -1: it has none. STATUS_NO_MEMORY: errno tells why; whenever it
 * fails, only the object may have changed. */
enum status capshm_move_into_object(const struct capshm_object_mapping *mapping, int data, int tags);
/* Gives the mapped pages of a range other permissions. STATUS_NO_MEMORY: the page table says so, but the kernel had no
 * memory to follow: raw accesses may be refused or permitted as before. */
enum status capshm_protect(uint64_t address, uint64_t length, uint32_t permissions);
/* Back to the bare reservation. */
enum status capshm_unmap_range(uint64_t address, uint64_t length);
/* In the child of a fork that may not share capabilities: the shared mappings that have a page in the range lose their
 * tags, memory and all, and with them capability permission. */
enum status capshm_lose_tags(uint64_t address, uint64_t length);
/* Whether the kernel gives the data of a range to a child at all. */
enum status capshm_set_inherit(uint64_t address, uint64_t length, bool is_inherited);

/* Takes a snapshot of data and tags of a mapped range, outside the arena; a child may adopt it as private memory of its
 * own in the place of what it inherited. Whoever has a stage drops it, adopted or not. */
enum status capshm_stage(uint64_t address, uint64_t length, uint64_t *stage);
enum status capshm_adopt(uint64_t stage, uint64_t address, uint32_t permissions);
void capshm_drop_stage(uint64_t stage);

/* The entry of a page as page_table.h describes it; 0 outside the arena. */
uint64_t capshm_page_entry(uint64_t address);

/* Registers and derivation (cheribsd:5.2): never a fault; what is not allowed clears the tag ----------------------- */

enum status capshm_reserve(uint32_t count, uint32_t *first);
enum status capshm_release(uint32_t first, uint32_t count);

/* Puts any bits into a register. Only the core's own callers make tagged ones: of a new mapping, the sealing root. */
enum status capshm_make(uint32_t into, uint64_t address, uint64_t metadata, bool tag);
enum status capshm_inspect(uint32_t from, struct capability_register *out);
/* *tag: 1 or 0. */
enum status capshm_tag(uint32_t from, uint32_t *tag);
enum status capshm_tags(uint32_t first, uint32_t count, uint8_t *tags);
enum status capshm_equal(uint32_t left, uint32_t right, uint32_t *is_equal);
enum status capshm_gather(const uint32_t *from, uint32_t count, uint32_t into);

enum status capshm_with_address(uint32_t from, uint64_t address, uint32_t into);
enum status capshm_with_increment(uint32_t from, uint64_t increment, uint32_t into);
enum status capshm_with_bounds(uint32_t from, uint64_t length, bool is_exact_required, uint32_t into);
enum status capshm_with_permissions(uint32_t from, uint32_t mask, uint32_t into);
enum status capshm_without_tag(uint32_t from, uint32_t into);
enum status capshm_seal(uint32_t from, uint32_t authority, uint32_t into);
enum status capshm_unseal(uint32_t from, uint32_t authority, uint32_t into);
enum status capshm_seal_entry(uint32_t from, uint32_t into);

/* Memory (cheribsd:5.3) -------------------------------------------------------------------------------------------- */

enum status capshm_load(uint32_t authority, uint64_t offset, uint32_t into);
enum status capshm_store(uint32_t authority, uint64_t offset, uint32_t value);

/* Bulk forms. The whole range is checked first. A fault in the middle (truncation, a tagged value that may not be
 * stored): the elements before thread_fault.address are done. */
enum status capshm_load_many(uint32_t authority, uint64_t offset, uint32_t first, uint32_t count);
enum status capshm_store_many(uint32_t authority, uint64_t offset, uint32_t first, uint32_t count);
enum status capshm_fill(uint32_t authority, uint64_t offset, uint64_t count, uint32_t value);
enum status capshm_copy(uint32_t from, uint32_t to, uint64_t length);

enum status capshm_read(uint32_t authority, uint64_t offset, void *buffer, uint64_t length);
enum status capshm_write(uint32_t authority, uint64_t offset, const void *buffer, uint64_t length);

/* Checks that the range may be read (and written), and gives its plain address. */
enum status capshm_view(uint32_t authority, uint64_t offset, uint64_t length, bool is_writable, uint64_t *address);

/* Revocation (revoke.h) -------------------------------------------------------------------------------------------- */

/* What the broker has made for all address spaces of the machine, and which of it is this one's. Once after attaching. */
size_t capshm_records_size(void);
enum status capshm_join_records(int descriptor, uint32_t number);
/* A shadow that the broker can read, in the place of the first one, in which nothing could be painted. */
enum status capshm_join_shadow(int descriptor);
/* The published pair as it is now; 0 and 0 without a machine. */
void capshm_epochs(uint64_t *enqueue, uint64_t *dequeue);

/* Paint and clear every granule of the capability's bounds. STATUS_BOUNDS_VIOLATION: not inside the arena. */
enum status capshm_paint(uint32_t capability, bool is_painted);
/* The same for count pairs of start and length, multiples of 16: all of them, or none. */
enum status capshm_paint_ranges(const uint64_t *ranges, size_t count, bool is_painted);
bool capshm_is_painted(uint64_t address);

/* An operation that does nothing: what a pass has left to this process is swept afterwards. */
enum status capshm_catch_up(void);
/* Has the pages of a mapped part of a sparse file in this process's page table, so that no access faults; not those of
 * its holes, which stay holes. What cannot be done is left to the faults. */
void capshm_populate(void *memory, int descriptor, uint64_t offset, uint64_t length);
/* What these sweeps have met since the last call. */
void capshm_take_counts(struct revocation_counts *counts);
/* How many loads of others' values have come out untagged since the last call, because this address space has had revoked
 * what lay at their bases. */
uint64_t capshm_take_refused_loads(void);
/* stamp_at of stamps.h. */
uint32_t capshm_stamp_at(const char *memory, uint32_t root, uint64_t granule);

/* Gate and sweep --------------------------------------------------------------------------------------------------- */

/* Closes the gate for the calling thread; STATUS_INCOMPLETE: the pids of those still inside are in stragglers. */
enum status capshm_gate_close(uint64_t timeout, int32_t *stragglers, size_t capacity, size_t *straggler_count);
void capshm_gate_open(bool is_new_epoch);
bool capshm_gate_is_mine(void);

/* For processes of a machine whose stopper sends signals (halt.h). STATUS_UNSUPPORTED: errno tells why. */
enum status capshm_take_halt_signals(bool is_wanted);
/* While the gate is closed by the calling thread: returns when whoever will be parked by a signal is, or after timeout ns.
 * Of SIGSTOP: these processes, which the caller lets go on again. STATUS_INVALID: the gate is not closed. */
enum status capshm_halt_by_signal(uint64_t timeout);
enum status capshm_halt_by_sigstop(uint64_t timeout, const int32_t *pidfds, const int32_t *pids, size_t count);
/* Neither stopped nor ended. */
bool capshm_is_running(int32_t process);

/* A full barrier in every running thread of every attached process; whoever sets clear bits without a mapping, as a broker
 * does, needs it between the bits and the bytes (sideband.h). */
void capshm_barrier_everywhere(void);

/* While the gate is closed by the calling thread: tag lines of a mapped range, and this process's registers. With a new
 * epoch at the opening the other processes sweep theirs before their next operation. */
enum status capshm_sweep_memory(uint64_t address, uint64_t length, uint32_t kernel, struct sweep_counts *counts);
enum status capshm_sweep_registers(struct sweep_counts *counts);

/* Step points (step.h). arm: false if the build has none, or for a bad argument. name: NULL past the last. */
bool capshm_step_arm(uint32_t step, uint32_t nth, uint32_t action);
const char *capshm_step_name(uint32_t step);

/* Laboratory ------------------------------------------------------------------------------------------------------- */

/* The round trip in microseconds between this process and a child that it forks, both spinning; it says how far apart
 * the machine's processors are just now. -1, and errno: no child, or (ENODEV) two processes cannot spin on one processor. */
double capshm_canary(void);

#endif
