/* capshm/client.h: a C or C++ program as an emulated process of a capshm machine.
 *
 * A machine is started by Python (`capshm.Machine`). A program that it has started, by `machine.spawn` or `capshm run`,
 * attaches to it, maps memory under the rules of the machine's policy, and shares capabilities through that memory with
 * processes in Python or C:
 *
 *     capshm_capability box, gift;
 *     int fd;
 *     if (capshm_machine_attach(NULL) != CAPSHM_OK ||
 *         capshm_shm_open("/box", O_RDWR, 0, &fd) != CAPSHM_OK ||
 *         capshm_mmap(CAPSHM_NULL, 4096, CAPSHM_PROT_READ | CAPSHM_PROT_WRITE | CAPSHM_PROT_CAP, CAPSHM_MAP_SHARED, fd, 0,
 *                     &box) != CAPSHM_OK ||
 *         capshm_capability_load(box, 0, &gift) != CAPSHM_OK)
 *         errx(1, "%s", capshm_last_refusal()->message);
 *
 * Compile it with the flags that `capshm config --cflags --libs` prints, or by pkg-config.
 *
 * Capabilities are handles. What a handle names is a register of this process that revocation visits, so a program never
 * has a copy of a tagged capability that a pass could miss: after it the handle is still good, and what it names has no
 * tag. A handle is made by the functions that have a last argument `into` (or `mapped`), and is the caller's to release.
 * One that was released must not be used again: its number may name another capability by then, as with freed memory.
 *
 * Addresses are real. What capshm_mmap has mapped lies where the capability says, and may be read and written by plain
 * pointers as well, past all checks; a plain write that changes the bytes of a tagged granule takes its tag.
 *
 * Errors. Whatever returns an enum capshm_status has changed nothing unless that is CAPSHM_OK, makes no handle then, and
 * leaves the reason in capshm_last_refusal(). The rules and error numbers are those of capshm.cheribsd.
 *
 * Threads may call everything at once, but for capshm_machine_detach while others use the machine; signal handlers may
 * call nothing. The library handles SIGSEGV, SIGBUS and SIGURG, and SIGWINCH in a machine with stopper="signal", and
 * passes on what is not its own to the handlers that were there before.
 *
 * Fork. The child of a fork is not attached: it has neither capabilities nor tags, and everything answers
 * CAPSHM_NOT_ATTACHED. It may call capshm_machine_detach, and then attach as a process of its own. (Python's os.fork
 * makes emulated children; C's fork does not.) A program that is executed starts with nothing.
 *
 * One core in a process: a Python program uses `import capshm`, and does not load this library.
 */
#ifndef CAPSHM_CLIENT_H
#define CAPSHM_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CAPSHM_API __attribute__((visibility("default")))

/* Errors ----------------------------------------------------------------------------------------------------------- */

enum capshm_status {
    CAPSHM_OK,
    /* By a rule of the machine, or by the kernel: see rule and error_number. */
    CAPSHM_REFUSED,
    /* What the hardware would raise at an access, in the order in which it is checked. */
    CAPSHM_TAG_VIOLATION,
    CAPSHM_SEAL_VIOLATION,
    CAPSHM_PERMISSION_VIOLATION,
    CAPSHM_BOUNDS_VIOLATION,
    CAPSHM_ALIGNMENT_VIOLATION,
    CAPSHM_PAGE_VIOLATION,
    CAPSHM_STORE_TAG_VIOLATION,
    /* What may happen to the machine and to this process. */
    CAPSHM_NOT_ATTACHED,    /* in no machine, or the child of a fork */
    CAPSHM_BROKER_GONE,     /* the machine has ended */
    CAPSHM_HOLDER_STOPPED,  /* another process is stopped in the middle of a store there */
    CAPSHM_LAYOUT_MISMATCH, /* library and machine are of different releases */
    CAPSHM_NO_MEMORY,       /* no memory, register or slot is left */
    CAPSHM_INVALID,         /* an argument that means nothing: a handle of nothing, a text too long */
    CAPSHM_FAILED,          /* anything else; the message says what */
};

/* Why the last call that failed in this thread did. A call that succeeds leaves it as it is. */
struct capshm_refusal {
    enum capshm_status status;
    int error_number; /* CAPSHM_REFUSED: an errno, or CAPSHM_EPROT; else 0 */
    uint64_t address; /* of a violation; else 0 */
    /* CAPSHM_REFUSED: "cheribsd:E2", or "host" for the kernel; a violation: its code, "PROT_CHERI_TAG". */
    char rule[64];
    /* A sentence: what was asked, what is allowed, and what would be needed. */
    char message[512];
};

CAPSHM_API const struct capshm_refusal *capshm_last_refusal(void);

/* CheriBSD's errno for a pointer that does not authorise what was asked. */
#define CAPSHM_EPROT 1098

/* Machine ---------------------------------------------------------------------------------------------------------- */

/* Attaches this process to the machine of that name; NULL: to the one that has started its program, by the environment
 * variable CAPSHM_MACHINE. Nothing, if it is attached to that one.
 * CAPSHM_FAILED: there is no such machine of this user, or the process is in another; CAPSHM_LAYOUT_MISMATCH;
 * CAPSHM_NO_MEMORY: the arena, 64 GiB of address space, cannot be reserved. */
CAPSHM_API enum capshm_status capshm_machine_attach(const char *machine);

/* Gives up all mappings, the tags of all handles, and the process's part in the machine. It may attach again. */
CAPSHM_API void capshm_machine_detach(void);

struct capshm_facts {
    uint64_t vmspace; /* the number of this address space, as in `capshm ps` and the audit */
    char policy[64];
    char isa[16]; /* "v9" or "rvy" */
};

/* This process's own view of its machine. CAPSHM_NOT_ATTACHED. */
CAPSHM_API enum capshm_status capshm_machine_facts(struct capshm_facts *facts);

/* Capabilities ----------------------------------------------------------------------------------------------------- */

typedef struct {
    uint32_t number;
} capshm_capability;

/* No capability: as an address, that there is none. */
static const capshm_capability CAPSHM_NULL = {0};

enum {
    CAPSHM_PERMISSION_GLOBAL = 1 << 0,
    CAPSHM_PERMISSION_EXECUTE = 1 << 1,
    CAPSHM_PERMISSION_LOAD = 1 << 2,
    CAPSHM_PERMISSION_STORE = 1 << 3,
    CAPSHM_PERMISSION_LOAD_CAP = 1 << 4,
    CAPSHM_PERMISSION_STORE_CAP = 1 << 5,
    CAPSHM_PERMISSION_STORE_LOCAL = 1 << 6,
    CAPSHM_PERMISSION_SW_VMEM = 1 << 16, /* to change the mappings of the memory */
};

struct capshm_description {
    uint64_t address;
    uint64_t base;
    uint64_t length; /* UINT64_MAX also for 2^64 */
    uint32_t permissions;
    bool tag;
    bool is_sealed;
};

/* What it is just now: another process's revocation may take the tag at any time. */
CAPSHM_API enum capshm_status capshm_capability_describe(capshm_capability capability,
                                                         struct capshm_description *description);

/* Derivation never faults: what is not allowed yields a capability without tag. Lengths in bytes; bounds are rounded
 * outwards to what the format can express; permissions are those to keep. */
CAPSHM_API enum capshm_status capshm_capability_with_address(capshm_capability from, uint64_t address,
                                                             capshm_capability *into);
CAPSHM_API enum capshm_status capshm_capability_with_bounds(capshm_capability from, uint64_t length,
                                                            capshm_capability *into);
CAPSHM_API enum capshm_status capshm_capability_with_permissions(capshm_capability from, uint32_t permissions,
                                                                 capshm_capability *into);
/* A number as a pointer, without tag or any right: a hint for capshm_mmap. */
CAPSHM_API enum capshm_status capshm_capability_from_number(uint64_t number, capshm_capability *into);

/* Loads and stores, by an authority that must allow them; offset: in bytes from its address, which with it must be a
 * multiple of 16 for capabilities. What a load finds has a tag or not. One of the violations, or CAPSHM_HOLDER_STOPPED. */
CAPSHM_API enum capshm_status capshm_capability_load(capshm_capability authority, uint64_t offset,
                                                     capshm_capability *into);
CAPSHM_API enum capshm_status capshm_capability_store(capshm_capability authority, uint64_t offset,
                                                      capshm_capability value);

/* Bytes. After CAPSHM_PAGE_VIOLATION a part may have been copied: the object was truncated meanwhile. */
CAPSHM_API enum capshm_status capshm_capability_read(capshm_capability authority, uint64_t offset, void *buffer,
                                                     size_t length);
CAPSHM_API enum capshm_status capshm_capability_write(capshm_capability authority, uint64_t offset, const void *buffer,
                                                      size_t length);

/* Gives a handle back, and takes the tag of what it names; that of CAPSHM_NULL: nothing. Mappings stay. */
CAPSHM_API void capshm_capability_release(capshm_capability capability);

/* Memory: CheriBSD's calls, with its flags ------------------------------------------------------------------------- */

enum {
    CAPSHM_PROT_NONE = 0x00,
    CAPSHM_PROT_READ = 0x01,
    CAPSHM_PROT_WRITE = 0x02,
    CAPSHM_PROT_EXEC = 0x04,
    CAPSHM_PROT_CAP = 0x08,
    CAPSHM_PROT_NO_CAP = 0x10,
};
#define CAPSHM_PROT_MAX(protection) ((protection) << 16)

enum {
    CAPSHM_MAP_SHARED = 0x0001,
    CAPSHM_MAP_PRIVATE = 0x0002,
    CAPSHM_MAP_FIXED = 0x0010,
    CAPSHM_MAP_ANON = 0x1000,
    CAPSHM_MAP_GUARD = 0x2000,
    CAPSHM_MAP_EXCL = 0x4000,
};

/* Beside the flags of <fcntl.h>: the new object may carry capabilities between address spaces. (The bit is FreeBSD's; it is
 * that of Linux's O_NOFOLLOW, which means nothing here.) */
#define CAPSHM_O_SHARECAP 0x20000

/* Opens or creates shared memory; *descriptor is closed by exec, and the caller's to close.
 * path: begins with "/"; NULL: a new object without name. flags: O_RDONLY or O_RDWR, O_CREAT, O_EXCL, O_TRUNC and
 * CAPSHM_O_SHARECAP; without that a new object belongs to this address space. mode: of a new object. */
CAPSHM_API enum capshm_status capshm_shm_open(const char *path, int flags, unsigned mode, int *descriptor);

/* Takes an object's name away; it lives on while anybody has it open or mapped. */
CAPSHM_API enum capshm_status capshm_shm_unlink(const char *path);

/* Maps memory; *mapped is the capability to it, with which the mapping may also be changed (SW_VMEM).
 * address: CAPSHM_NULL, a number as hint, or with CAPSHM_MAP_FIXED a place that is free or that the capability
 * authorises. length: bytes, not 0. protection: CAPSHM_PROT_*; CAPSHM_PROT_CAP is what lets a shared mapping hold tags.
 * descriptor: of an object of the machine, or a file; -1 with CAPSHM_MAP_ANON. offset: whole pages. */
CAPSHM_API enum capshm_status capshm_mmap(capshm_capability address, size_t length, int protection, int flags,
                                          int descriptor, int64_t offset, capshm_capability *mapped);

/* Changes what whole pages permit. By a capability with SW_VMEM over all of them: else CAPSHM_EPROT. */
CAPSHM_API enum capshm_status capshm_mprotect(capshm_capability address, size_t length, int protection);

/* Unmaps whole pages, by a capability as above. Its handle stays, and is to be released. */
CAPSHM_API enum capshm_status capshm_munmap(capshm_capability address, size_t length);

#ifdef __cplusplus
}
#endif

#endif
