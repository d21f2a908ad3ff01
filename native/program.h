/* program.h: access to program memory, which may fail at any instruction.
 *
 * Another process may truncate an object, and its file system may be full, in the middle of an operation: the access
 * then raises SIGBUS or SIGSEGV while the operation holds a lock and the in-operation flag. So every instruction of the
 * core that touches program memory is in a table (instruction -> fix-up), as in operating-system kernels: one handler
 * looks the faulting instruction up and continues at its fix-up, the access returns false, and the operation unwinds as
 * for any other refusal. A fault at any other instruction goes on to the handler that was installed before.
 *
 * On x86-64 the table is a section that the linker collects, filled by `asm goto`: the successful path pays nothing.
 * Elsewhere, and with CAPSHM_PORTABLE, each access arms a sigsetjmp of its own.
 *
 * A granule is read and written here without any promise of atomicity: the tag line's lock word tells a reader whether
 * what it read belongs together (sideband.h).
 */
#ifndef CAPSHM_PROGRAM_H
#define CAPSHM_PROGRAM_H

#include <stdbool.h>
#include <stddef.h>

#include "granule.h"

#if defined(__x86_64__) && !defined(CAPSHM_PORTABLE)
#define PROGRAM_X86_64 1
#include <emmintrin.h>
#endif

struct program_fault {
    bool is_bus_error;    /* SIGBUS: the mapping is there, the object's page is not */
    bool is_mapping_gone; /* SIGSEGV, SEGV_MAPERR */
};

extern _Thread_local struct program_fault program_fault;

/* Asked about faults of the program's own instructions (SIGSEGV, SEGV_ACCERR): true if the access is to be tried again. */
extern bool (*program_write_fault)(uint64_t address);

/* Installs the handler for SIGSEGV and SIGBUS in front of the present ones. Idempotent. False: errno tells why. */
bool program_install_handler(void);

/* Copies length bytes; either side may be program memory. False: program_fault tells why; a prefix may have been
 * copied. */
bool program_copy(void *to, const void *from, size_t length);

#ifdef PROGRAM_X86_64

/* A line of the table: the two addresses relative to themselves, so that the section needs no relocation. */
#define PROGRAM_FIXUP(instruction, fixup)                                                                              \
    ".pushsection capshm_fixups, \"a\"\n"                                                                              \
    ".balign 4\n"                                                                                                      \
    ".long " instruction " - .\n"                                                                                      \
    ".long " fixup " - .\n"                                                                                            \
    ".popsection\n"

static inline bool program_load(const struct granule *from, struct granule *to) {
    uint64_t address;
    uint64_t metadata;
    __asm__ goto volatile("1: movq %[lower], %[address]\n"
                          "2: movq %[upper], %[metadata]\n" PROGRAM_FIXUP("1b", "%l[faulted]")
                              PROGRAM_FIXUP("2b", "%l[faulted]")
                          : [address] "=&r"(address), [metadata] "=&r"(metadata)
                          : [lower] "m"(from->address), [upper] "m"(from->metadata)
                          : "memory"
                          : faulted);
    *to = (struct granule){address, metadata};
    return true;
faulted:
    return false;
}

static inline bool program_store(struct granule *to, const struct granule *from) {
    const __m128i value = _mm_loadu_si128((const __m128i *)from);
    __asm__ goto volatile("1: movdqa %[value], %[granule]\n" PROGRAM_FIXUP("1b", "%l[faulted]")
                          :
                          : [granule] "m"(*to), [value] "x"(value)
                          : "memory"
                          : faulted);
    return true;
faulted:
    return false;
}

static inline bool program_load_origin(const uint32_t *from, uint32_t *to) {
    uint32_t value;
    __asm__ goto volatile("1: movl %[origin], %[value]\n" PROGRAM_FIXUP("1b", "%l[faulted]")
                          : [value] "=r"(value)
                          : [origin] "m"(*from)
                          : "memory"
                          : faulted);
    *to = value;
    return true;
faulted:
    return false;
}

static inline bool program_store_origin(uint32_t *to, uint32_t from) {
    __asm__ goto volatile("1: movl %[value], %[origin]\n" PROGRAM_FIXUP("1b", "%l[faulted]")
                          :
                          : [origin] "m"(*to), [value] "r"(from)
                          : "memory"
                          : faulted);
    return true;
faulted:
    return false;
}

#else

bool program_load(const struct granule *from, struct granule *to);
bool program_store(struct granule *to, const struct granule *from);
bool program_load_origin(const uint32_t *from, uint32_t *to);
bool program_store_origin(uint32_t *to, uint32_t from);

#endif

#endif
