/* remote.c: the handler of SIGURG, and the carrying out of orders; the reasons are in remote.h. */
#include "remote.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "capshm.h"
#include "process.h"

enum { NUMBER_DIGITS = 20, REPORT_SIZE = 160 };

static const char NEXT[] = "{\"do\":\"remote_next\",\"n\":0}";

static struct sigaction previous_urg;
static _Thread_local volatile bool is_calling_previous __attribute__((tls_model("initial-exec")));
static _Atomic bool is_turn_taken;
static uint32_t turn_depth; /* of whoever has the request lock */
static _Atomic bool is_wanted;
static bool has_come_amid_fork; /* with the turn */
/* Not on the stack: a handler may have little of it. With the turn, as the rest below. */
static struct remote_orders received;

static bool take_turn(void) {
    return !atomic_exchange(&is_turn_taken, true);
}

/* Descriptors that came with orders. */
struct descriptors {
    const int32_t *numbers;
    size_t count; /* 0: none were sent, or there was no room for them */
};

static bool has(const struct descriptors *descriptors, int32_t place) {
    return place < 0 || (size_t)place < descriptors->count;
}

static int at(const struct descriptors *descriptors, int32_t place) {
    return place < 0 ? -1 : descriptors->numbers[place];
}

static enum status map(const struct remote_order *order, const struct descriptors *descriptors) {
    if (!has(descriptors, order->data) || !has(descriptors, order->tags) || !has(descriptors, order->clear)) {
        errno = EMFILE;
        return STATUS_NO_MEMORY;
    }
    const struct capshm_object_mapping mapping = {
        .address = order->start,
        .length = order->length,
        .offset = order->offset,
        .data = at(descriptors, order->data),
        .tags = at(descriptors, order->tags),
        .clear = at(descriptors, order->clear),
        .object = order->object,
        .permissions = order->permissions,
        .is_shared = true,
        .is_kept_at_fork = order->is_kept_at_fork,
        .is_tags_writable = order->is_tags_writable,
        .is_clear_writable = order->is_clear_writable,
    };
    return capshm_map_object(&mapping);
}

static enum status protect(const struct remote_order *order) {
    const enum status status = capshm_protect(order->start, order->length, order->permissions);
    if (status == STATUS_OK)
        return STATUS_OK;
    const int reason = errno;
    /* Back again: areas become one, which needs no memory. */
    capshm_protect(order->start, order->length, order->permissions_before);
    errno = reason;
    return status;
}

/* 0, or errno: why not. */
static int carry_out_one(const struct remote_order *order, const struct descriptors *descriptors) {
    enum status status = STATUS_INVALID;
    errno = EINVAL;
    if (order->kind == REMOTE_MAP)
        status = map(order, descriptors);
    else if (order->kind == REMOTE_PROTECT)
        status = protect(order);
    else if (order->kind == REMOTE_UNMAP)
        status = capshm_unmap_range(order->start, order->length);
    return status == STATUS_OK ? 0 : errno;
}

static char *write_text(char *to, const char *text) {
    const size_t length = strlen(text);
    memcpy(to, text, length);
    return to + length;
}

static char *write_number(char *to, uint64_t number) {
    char digits[NUMBER_DIGITS];
    size_t count = 0;
    do
        digits[count++] = (char)('0' + number % 10);
    while ((number /= 10) != 0);
    while (count > 0)
        *to++ = digits[--count];
    return to;
}

/* False: the broker is gone. */
static bool send_text(const char *text, size_t length) {
    ssize_t sent;
    do
        sent = send(process_connection(), text, length, MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    return sent >= 0;
}

static bool report(uint64_t number, uint32_t done, int reason) {
    char text[REPORT_SIZE];
    char *end = write_text(text, "{\"do\":\"remote_done\",\"n\":0,\"number\":");
    end = write_number(end, number);
    end = write_number(write_text(end, ",\"done\":"), done);
    end = write_number(write_text(end, ",\"errno\":"), (uint64_t)reason);
    end = write_text(end, "}");
    const bool is_sent = send_text(text, (size_t)(end - text));
    STEP(REMOTE_REPORTED);
    return is_sent;
}

static bool carry_out(const struct remote_orders *orders, struct descriptors descriptors) {
    STEP(REMOTE_TAKEN);
    if (capshm_fork_depth() > 0)
        has_come_amid_fork = true;
    uint32_t done = 0;
    int reason = 0;
    while (done < orders->count && (reason = carry_out_one(&orders->orders[done], &descriptors)) == 0) {
        done++;
        STEP(REMOTE_CHANGED);
    }
    return report(orders->number, done, reason);
}

static bool is_whole(const struct remote_orders *orders, size_t length) {
    const size_t head = offsetof(struct remote_orders, orders);
    return length >= head && orders->mark == REMOTE_MARK && orders->count <= REMOTE_ORDERS &&
           length == head + orders->count * sizeof(struct remote_order);
}

void capshm_remote_take(const void *orders, size_t length, const int32_t *descriptors, size_t count, bool is_cut) {
    if (length > sizeof received)
        return;
    memcpy(&received, orders, length);
    if (is_whole(&received, length) && received.count > 0)
        carry_out(&received, (struct descriptors){descriptors, is_cut ? 0 : count});
}

static void close_all(const int *descriptors, size_t count) {
    for (size_t i = 0; i < count; i++)
        close(descriptors[i]);
}

/* The descriptors that came with a packet; those that there was no room for are missing. */
static size_t descriptors_of(struct msghdr *message, int *descriptors) {
    const struct cmsghdr *const control = CMSG_FIRSTHDR(message);
    if (control == NULL || control->cmsg_level != SOL_SOCKET || control->cmsg_type != SCM_RIGHTS)
        return 0;
    const size_t length = control->cmsg_len - CMSG_LEN(0);
    memcpy(descriptors, CMSG_DATA(control), length);
    return length / sizeof(int);
}

/* Waits for orders; what else is in the way nobody waits for: who has the turn has no request under way. False: the broker
 * is gone, or has nothing to do. */
static bool receive(int *descriptors, size_t *count) {
    for (;;) {
        _Alignas(struct cmsghdr) char control[CMSG_SPACE(REMOTE_DESCRIPTORS * sizeof(int))];
        struct iovec data = {&received, sizeof received};
        struct msghdr message = {
            .msg_iov = &data, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
        const ssize_t length = recvmsg(process_connection(), &message, MSG_CMSG_CLOEXEC);
        if (length < 0 && errno == EINTR)
            continue;
        if (length <= 0)
            return false;
        *count = descriptors_of(&message, descriptors);
        if (is_whole(&received, (size_t)length)) {
            if (message.msg_flags & MSG_CTRUNC) {
                close_all(descriptors, *count);
                *count = 0;
            }
            return received.count > 0;
        }
        close_all(descriptors, *count);
    }
}

/* With the turn. */
static void serve(void) {
    int descriptors[REMOTE_DESCRIPTORS];
    size_t count = 0;
    bool is_there = true;
    while (is_there && process_connection() >= 0 && send_text(NEXT, sizeof NEXT - 1)) {
        STEP(REMOTE_ASKED);
        is_there = receive(descriptors, &count) && carry_out(&received, (struct descriptors){descriptors, count});
        close_all(descriptors, count);
    }
}

void remote_look(void) {
    while (atomic_load(&is_wanted)) {
        if (process_is_thread_inside()) {
            process_delay_thread();
            return;
        }
        if (!take_turn())
            return; /* whoever has it looks when it is given back */
        const int reason = errno; /* of what the thread was at */
        atomic_store(&is_wanted, false);
        serve();
        atomic_store(&is_turn_taken, false);
        errno = reason;
    }
}

static void handle_wish(int signal_number, siginfo_t *info, void *context) {
    if (capshm_is_attached()) {
        atomic_store(&is_wanted, true);
        remote_look();
    }
    if (is_calling_previous)
        return; /* which was put in front of this handler, and calls it in turn */
    is_calling_previous = true;
    if (previous_urg.sa_flags & SA_SIGINFO)
        previous_urg.sa_sigaction(signal_number, info, context);
    else if (previous_urg.sa_handler != SIG_DFL && previous_urg.sa_handler != SIG_IGN)
        previous_urg.sa_handler(signal_number);
    is_calling_previous = false;
}

bool remote_install_handler(void) {
    struct sigaction action = {.sa_sigaction = handle_wish, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART};
    struct sigaction present;
    if (sigaction(SIGURG, NULL, &present) != 0)
        return false;
    if ((present.sa_flags & SA_SIGINFO) && present.sa_sigaction == handle_wish)
        return true;
    previous_urg = present;
    sigemptyset(&action.sa_mask);
    return sigaction(SIGURG, &action, NULL) == 0;
}

void capshm_remote_hold(void) {
    if (turn_depth++ > 0)
        return;
    while (!take_turn())
        sched_yield(); /* a handler in another thread has it, and waits for nobody but the broker */
}

void capshm_remote_release(void) {
    if (--turn_depth > 0)
        return;
    atomic_store(&is_turn_taken, false);
    remote_look();
}

void remote_start_child(void) {
    atomic_store(&is_wanted, false);
}

bool remote_came_amid_fork(void) {
    const bool has_come = has_come_amid_fork;
    has_come_amid_fork = false;
    return has_come;
}
