/* recorder.c: a journal in a file that is mapped, window by window.
 *
 * Order: a thread takes its place with one atomic addition. A free takes it before the allocator may give the address
 * to somebody else, an allocation after the allocator has given it; so of two records of one address the place tells
 * which came first, without a lock.
 *
 * Fork: the child's copy of `next` is the position of the fork in the parent's journal. `lifetime` lies in memory that
 * the kernel wipes in a child, however it was made, so a child begins a journal of its own before its first record. A
 * child of vfork shares its parent's memory until exec, and so its journal.
 *
 * The file is opened by name for each window and closed again: descriptors belong to the program, which counts and closes
 * them as it likes. Its blocks are allocated before they are mapped: a full disk ends the recording, never the program.
 *
 * Who holds the lock can neither be interrupted by a signal handler nor be cancelled: opening a file is where a thread
 * would meet its cancellation.
 */
#define _GNU_SOURCE /* MAP_ANONYMOUS, sched_yield */
#include "recorder.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum {
    RECORDS_IN_WINDOW = JOURNAL_WINDOW / JOURNAL_RECORD_SIZE,
    FIRST_RECORD = JOURNAL_HEADER_SIZE / JOURNAL_RECORD_SIZE,
    NAMES = 1000, /* journals of one pid at most */
};

enum state { NOT_BEGUN, RECORDING, ENDED };

static struct lifetime {
    _Atomic uint32_t state; /* enum state */
    _Atomic uint32_t lock;  /* of who begins or grows the journal */
} *lifetime;

/* In place of memory that is wiped in a child, where there is none. */
static struct lifetime unrecorded = {.state = ENDED};

static struct journal {
    uint32_t pid; /* 0: none yet */
    uint32_t number;
    char folder[PATH_MAX]; /* a copy: the program may change its environment */
    _Atomic uint64_t next; /* place of the next record, counted in records from the start of the file */
    _Atomic(struct journal_record *) windows[JOURNAL_WINDOWS];
} journal;

static _Thread_local uint32_t thread;

static uint64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

/* What a thread is like outside the lock. */
struct outside {
    sigset_t signals;
    int cancellation;
};

static void lock(struct outside *outside) {
    sigset_t all;
    sigfillset(&all);
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &outside->cancellation); /* else it may die with the lock */
    pthread_sigmask(SIG_SETMASK, &all, &outside->signals); /* a handler that allocates would wait for itself */
    while (atomic_exchange_explicit(&lifetime->lock, 1, memory_order_acquire) != 0)
        sched_yield();
}

static void unlock(const struct outside *outside) {
    atomic_store_explicit(&lifetime->lock, 0, memory_order_release);
    pthread_sigmask(SIG_SETMASK, &outside->signals, NULL);
    pthread_setcancelstate(outside->cancellation, NULL);
}

/* When the process began: field 22 of its stat file, the 20th behind the name, which may hold anything. 0: unknown. */
static uint64_t read_start_time(void) {
    char text[1024];
    const int file = open("/proc/self/stat", O_RDONLY | O_CLOEXEC);
    const ssize_t length = file < 0 ? -1 : read(file, text, sizeof text - 1);
    if (file >= 0)
        close(file);
    if (length < 0)
        return 0;
    text[length] = '\0';
    const char *place = strrchr(text, ')');
    for (int field = 0; field < 20 && place != NULL; field++)
        place = strchr(place + 1, ' ');
    return place == NULL ? 0 : strtoull(place, NULL, 10);
}

/* Makes room in the file for one more window and maps it; NULL: errno tells why not. */
static struct journal_record *map_window(int file, uint64_t window) {
    const off_t offset = (off_t)(window * JOURNAL_WINDOW);
    struct rlimit limit;
    if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur < (rlim_t)(offset + JOURNAL_WINDOW)) {
        errno = EFBIG; /* trying would send SIGXFSZ to the program */
        return NULL;
    }
    errno = posix_fallocate(file, offset, JOURNAL_WINDOW);
    if (errno != 0)
        return NULL;
    void *const memory = mmap(NULL, JOURNAL_WINDOW, PROT_READ | PROT_WRITE, MAP_SHARED, file, offset);
    return memory == MAP_FAILED ? NULL : memory;
}

static int open_file(int flags) {
    char path[PATH_MAX + 32];
    snprintf(path, sizeof path, "%s/%u.%u", journal.folder, (unsigned)journal.pid, (unsigned)journal.number);
    return open(path, O_RDWR | O_CLOEXEC | flags, 0600);
}

static int create_file(void) {
    int file = -1;
    for (journal.number = 0; journal.number < NAMES; journal.number++) {
        file = open_file(O_CREAT | O_EXCL);
        if (file >= 0 || errno != EEXIST)
            break;
    }
    return file;
}

/* What the child of a fork has inherited is its parent's, and the header says where the parent was. The windows stay
 * mapped: the child may come back from a signal handler that forked into the middle of a record, and writes there the
 * same once more. */
static struct journal_header leave_inherited(void) {
    struct journal_header header = {
        .magic = JOURNAL_MAGIC,
        .pid = (uint32_t)getpid(),
        .parent = (uint32_t)getppid(),
        .started = read_start_time(),
        .opened = now(),
        .fork_position = JOURNAL_NEVER_FORKED,
    };
    prctl(PR_GET_NAME, header.program);
    if (journal.pid != 0) {
        header.fork_position = atomic_load(&journal.next);
        header.fork_pid = journal.pid;
        header.fork_number = journal.number;
        for (uint64_t window = 0; window <= header.fork_position / RECORDS_IN_WINDOW && window < JOURNAL_WINDOWS;
             window++)
            atomic_store(&journal.windows[window], NULL);
    }
    return header;
}

/* Whether somebody has asked for a recording. */
static bool find_folder(void) {
    const char *const folder = getenv("CAPSHM_RECORD");
    if (journal.folder[0] == '\0' && folder != NULL && strlen(folder) < sizeof journal.folder)
        strcpy(journal.folder, folder);
    return journal.folder[0] != '\0';
}

/* Says in the folder that this process has no journal, because of errno. Whoever comes second need not say it again. */
static void tell_missing(void) {
    char whole[PATH_MAX + 32], broken[PATH_MAX + 32];
    const int error = errno;
    snprintf(whole, sizeof whole, "%s/" JOURNAL_WHOLE, journal.folder);
    snprintf(broken, sizeof broken, "%s/" JOURNAL_BROKEN ".%d.%d", journal.folder, (int)getpid(), error);
    rename(whole, broken);
}

static enum state begin(void) {
    if (!find_folder())
        return ENDED;
    struct journal_header header = leave_inherited();
    journal.pid = header.pid;
    atomic_store(&journal.next, FIRST_RECORD);
    thread = 0;
    const int file = create_file();
    struct journal_record *const first = file < 0 ? NULL : map_window(file, 0);
    if (first == NULL) {
        tell_missing();
    } else {
        memcpy(first, &header, sizeof header);
        atomic_store_explicit(&journal.windows[0], first, memory_order_release);
    }
    if (file >= 0)
        close(file);
    return first == NULL ? ENDED : RECORDING;
}

/* Memory that a child finds zero. Where the kernel has none to give, that is told once, and nothing is recorded. */
static struct lifetime *map_lifetime(void) {
    const size_t length = (size_t)sysconf(_SC_PAGESIZE);
    void *const page = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page != MAP_FAILED && madvise(page, length, MADV_WIPEONFORK) == 0)
        return page;
    if (find_folder())
        tell_missing();
    if (page != MAP_FAILED)
        munmap(page, length);
    return &unrecorded;
}

/* Whether records may be written. The first caller in a process begins its journal. */
static bool is_recording(void) {
    if (lifetime == NULL) {
        if (environ == NULL)
            return false; /* the C library has not begun yet */
        const int error = errno;
        lifetime = map_lifetime();
        errno = error;
    }
    uint32_t state = atomic_load_explicit(&lifetime->state, memory_order_acquire);
    if (state != NOT_BEGUN)
        return state == RECORDING;
    struct outside outside;
    const int error = errno;
    lock(&outside);
    state = atomic_load_explicit(&lifetime->state, memory_order_relaxed);
    if (state == NOT_BEGUN) {
        state = begin();
        atomic_store_explicit(&lifetime->state, state, memory_order_release);
    }
    unlock(&outside);
    errno = error;
    return state == RECORDING;
}

/* Maps one more window; with the lock. NULL: there can be none, and the header says why. */
static struct journal_record *grow(uint64_t window) {
    struct journal_record *found = NULL;
    errno = EFBIG;
    const int file = window < JOURNAL_WINDOWS ? open_file(0) : -1;
    if (file >= 0)
        found = map_window(file, window);
    if (found == NULL) {
        ((struct journal_header *)atomic_load(&journal.windows[0]))->error = (uint32_t)errno;
        atomic_store_explicit(&lifetime->state, ENDED, memory_order_release);
    } else {
        atomic_store_explicit(&journal.windows[window], found, memory_order_release);
    }
    if (file >= 0)
        close(file);
    return found;
}

static struct journal_record *find_window(uint64_t window) {
    struct journal_record *found = NULL;
    if (window < JOURNAL_WINDOWS)
        found = atomic_load_explicit(&journal.windows[window], memory_order_acquire);
    if (found != NULL)
        return found;
    struct outside outside;
    const int error = errno;
    lock(&outside);
    if (window < JOURNAL_WINDOWS)
        found = atomic_load_explicit(&journal.windows[window], memory_order_relaxed);
    if (found == NULL && atomic_load_explicit(&lifetime->state, memory_order_relaxed) == RECORDING)
        found = grow(window);
    unlock(&outside);
    errno = error;
    return found;
}

void recorder_append(enum journal_event event, uint64_t address, uint64_t size) {
    if (!is_recording())
        return;
    const uint64_t place = atomic_fetch_add_explicit(&journal.next, 1, memory_order_relaxed);
    struct journal_record *const window = find_window(place / RECORDS_IN_WINDOW);
    if (window == NULL)
        return;
    if (thread == 0)
        thread = (uint32_t)syscall(SYS_gettid);
    struct journal_record *const record = &window[place % RECORDS_IN_WINDOW];
    record->address = address;
    record->size = size;
    record->time = now();
    record->thread = thread;
    atomic_store_explicit(&record->event, event, memory_order_release); /* a reader sees all of it, or nothing */
}

void recorder_begin(void) {
    (void)is_recording();
}
