/* fault.h: how an operation says that it was refused, and what the thread then knows about it.
 *
 * Operations return an enum status. Emulated faults and STATUS_HOLDER_STOPPED leave their details in this thread's
 * struct fault, which the caller reads before its next call.
 */
#ifndef CAPSHM_FAULT_H
#define CAPSHM_FAULT_H

#include <stdint.h>

enum status {
    STATUS_OK,
    /* Emulated hardware faults, in the order in which they are checked (cheribsd:5.3). */
    STATUS_TAG_VIOLATION,
    STATUS_SEAL_VIOLATION,
    STATUS_PERMISSION_VIOLATION,
    STATUS_STORE_LOCAL_VIOLATION,
    STATUS_BOUNDS_VIOLATION,
    STATUS_ALIGNMENT_VIOLATION,
    STATUS_PAGE_NOT_MAPPED,    /* SIGSEGV, SEGV_MAPERR */
    STATUS_PAGE_NOT_PERMITTED, /* SIGSEGV, SEGV_ACCERR */
    STATUS_PAGE_BEYOND_OBJECT, /* SIGBUS, BUS_ADRERR: truncated, or no memory left for the page */
    STATUS_STORE_TAG_VIOLATION,
    /* What happened to the machine itself. */
    STATUS_NOT_ATTACHED,
    STATUS_HOLDER_STOPPED,
    STATUS_GATE_CLOSED, /* by the calling thread itself */
    STATUS_INCOMPLETE, /* the gate could not be closed over everyone in time */
    STATUS_BROKER_GONE, /* it died with the gate closed: nobody opens it again */
    STATUS_INTERRUPTED, /* while it waited at the closed gate (capshm_set_interruption) */
    STATUS_NO_MEMORY,  /* no register, slot, region or memory left */
    STATUS_UNSUPPORTED, /* the kernel refuses a system call that gates need; errno tells why */
    STATUS_INVALID,    /* an argument that no caller in this project passes */
    /* What the allocator answers (allocator.h). */
    STATUS_NOT_ALLOCATED,
    STATUS_MUST_MOVE,
    STATUS_MEMORY_NEEDED,
    STATUS_MEMORY_UNUSED,
    STATUS_REVOCATION_DUE,
    STATUS_PASS_UNDER_WAY,
    /* Inside the core only: the operation has left the gate and is to be started again. */
    STATUS_AGAIN,
    STATUS_COPY_FIRST, /* the page must be made this process's own before it is written (private.h) */
};

struct fault {
    uint64_t address;  /* where the access stopped; in bulk forms all elements before it are done */
    uint32_t register_index; /* the capability that was refused */
    int32_t pid;       /* STATUS_HOLDER_STOPPED: the holder */
};

extern _Thread_local struct fault thread_fault;

#endif
