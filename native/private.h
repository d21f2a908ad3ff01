/* private.h: memory that is this process's own: private anonymous memory, and pages of objects that are mapped
 * MAP_PRIVATE, once they have been written.
 *
 * All of it belongs to one region. Its tag lines, twins, clear map and origins are private memory, too, and lie at the same
 * place for the same address in the whole arena, so that a mapping costs nothing but its data and the kernel's copy-on-write
 * copies data and tags at a fork without anybody's help.
 *
 * MAP_PRIVATE of an object. A page is private as a whole or not at all. Until its first write it belongs to a region of
 * the object, whose sideband is mapped read-only, its entry has PAGE_COPY in the place of PAGE_WRITE, and the kernel
 * maps it without write permission. The first store through capshm, the making of a writable view, and a raw write,
 * which faults, take a snapshot of data and tags together and put it in the place of the page. Left to the kernel
 * alone, data and tag lines would part company: each is copied when it is written first.
 *
 * The snapshot is made inside the gate and while the other threads of the process are kept out, elsewhere, and moved
 * into its place by one mremap: a raw reader sees the old page or the new one. A death in the middle ends the only
 * process that could have seen anything.
 *
 * A range that moves into an object (capshm_move_into_object) is copied at one instant, too: nobody may write it past
 * the library then, and whoever tries waits in the handler of the fault. Only system calls that write there see it:
 * they end with EFAULT.
 */
#ifndef CAPSHM_PRIVATE_H
#define CAPSHM_PRIVATE_H

#include "fault.h"
#include "page_table.h"
#include "sideband.h"

/* Reserves the sideband of the private region, once. STATUS_NO_MEMORY: errno tells why. */
enum status private_initialize(void);

/* Takes all tags of a range of private memory away and gives the memory of its twins back; whole pages. The other threads
 * are kept out. */
void private_forget(uint64_t address, uint64_t length);

/* Outside the gate: makes the page of the address this process's own if its entry has PAGE_COPY. STATUS_AGAIN: it is, or
 * needs not be; try again what was to be done. Otherwise the refusal. Safe in the handler of a fault in the program. */
enum status private_copy_page(uint64_t address, uint32_t authority);

/* Inside the gate, the other threads kept out: pages that show an object's tags by MAP_PRIVATE, some of which this shadow
 * revokes, become this process's own, so that they can be swept and the object keeps its tags. LINE_HELD: at *place;
 * LINE_FAULTED: no memory. *count grows by the pages that were looked at. */
struct shadow;
enum line_result private_copy_revoked(const struct shadow *shadow, struct line_place *place, uint64_t *count);

/* Lets program.h's handler answer raw writes to such pages. */
void private_handle_raw_writes(void);

/* Enters the gate while the other threads of the process are kept out; leave_alone ends both. */
enum status enter_alone(void);
void leave_alone(void);

/* Between enter_alone and leave_alone: until then raw writes may fault although the page table permits them; they wait,
 * and are tried again. */
void private_hold_raw_writes(void);

/* Writes data and tags of pages that may be read and that nobody writes into other memory: the data to copy, the tags
 * where region says that those of the same addresses are; NULL: nowhere. Pages past the end of their object are zero
 * and untagged. LINE_FAULTED: the copy could not be written. LINE_HELD: by somebody in another process, at *place. */
enum line_result private_copy_out(uint64_t address, uint64_t length, char *copy, const struct region *region,
                                  struct line_place *place);

/* Leaves the gate with a refusal, unless the refusal was that of a page that must be copied first: STATUS_AGAIN then. */
enum status leave_refused(enum status status, uint32_t authority);

#endif
