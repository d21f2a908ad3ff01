/* exchange.c: packets; the reasons are in exchange.h. */
#define _GNU_SOURCE /* struct ucred, program_invocation_name */
#include "client/exchange.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "capshm.h"
#include "remote.h"
#include "requests.h"

enum { PACKET_LIMIT = 64 << 10, WHY_SIZE = 96 };

static const off_t LONGEST_ANSWER = 1 << 30;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

/* With the turn. */
static int connection = -1;
static ino_t connection_inode;
static char why_closed[WHY_SIZE];
static uint64_t last_number;
static uint64_t signals_before_fork;
static struct request request_at_hand;
static char packet[PACKET_LIMIT];

uint64_t exchange_begin(void) {
    const uint64_t signals_before = capshm_blocked_signals();
    capshm_block_signals();
    pthread_mutex_lock(&mutex);
    capshm_remote_hold();
    return signals_before;
}

void exchange_end(uint64_t signals_before) {
    capshm_remote_release();
    pthread_mutex_unlock(&mutex);
    capshm_restore_signals(signals_before);
}

/* Around every fork: no other thread has the turn, so that the child does not begin with one that nobody gives back. */
static void fork_before(void) {
    const uint64_t signals_before = exchange_begin();
    signals_before_fork = signals_before;
}

static void fork_after(void) {
    exchange_end(signals_before_fork);
}

struct request *exchange_request(const char *call) {
    request_begin(&request_at_hand, call);
    return &request_at_hand;
}

/* Of this user alone: names in the abstract space belong to nobody. */
static bool is_own_peer(int descriptor) {
    struct ucred peer;
    socklen_t size = sizeof peer;
    return getsockopt(descriptor, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && peer.uid == getuid();
}

enum capshm_status exchange_connect(const char *machine) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct stat status;
    const int length = snprintf(address.sun_path + 1, sizeof address.sun_path - 1, "capshm/%u/%s", getuid(), machine);
    if (length < 0 || (size_t)length >= sizeof address.sun_path - 1)
        return refuse_call(CAPSHM_INVALID, "attach: no machine has a name as long as '%.32s...'", machine);
    const int descriptor = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (descriptor < 0)
        return refuse_by_host(errno, "attach: no socket: %s", strerror(errno));
    const socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)length);
    if (connect(descriptor, (const struct sockaddr *)&address, size) != 0 || !is_own_peer(descriptor) ||
        fstat(descriptor, &status) != 0) {
        close(descriptor);
        return refuse_call(CAPSHM_FAILED, "attach: there is no machine '%s' of this user", machine);
    }
    connection = descriptor;
    connection_inode = status.st_ino;
    return CAPSHM_OK;
}

bool exchange_is_connected(void) {
    return connection >= 0;
}

enum capshm_status exchange_keep_from_children(void) {
    static bool has_hooks; /* after the core's own, which closes the descriptor first */
    has_hooks = has_hooks || pthread_atfork(fork_before, fork_after, fork_after) == 0;
    if (!has_hooks)
        return refuse_call(CAPSHM_NO_MEMORY, "attach: no memory for the hooks of fork");
    capshm_keep_from_children(connection);
    return CAPSHM_OK;
}

void exchange_close(const char *why) {
    if (connection < 0)
        return;
    capshm_keep_from_children(-1);
    /* A program may have closed it, and so has the core in a child: the number may be somebody else's. */
    if (capshm_is_descriptor_of(connection, connection_inode))
        close(connection);
    connection = -1;
    snprintf(why_closed, sizeof why_closed, "%s", why);
}

static enum capshm_status refuse_closed(const char *call) {
    return refuse_call(CAPSHM_BROKER_GONE, "%s: %s", call, why_closed);
}

/* 0, or errno. */
static int send_packet(const struct request *request, int descriptor) {
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof descriptor)] = {0};
    struct iovec data = {(void *)request->text, request->length};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1};
    if (descriptor >= 0) {
        message.msg_control = control;
        message.msg_controllen = sizeof control;
        struct cmsghdr *const head = CMSG_FIRSTHDR(&message);
        head->cmsg_level = SOL_SOCKET;
        head->cmsg_type = SCM_RIGHTS;
        head->cmsg_len = CMSG_LEN(sizeof descriptor);
        memcpy(CMSG_DATA(head), &descriptor, sizeof descriptor);
    }
    ssize_t sent;
    do
        sent = sendmsg(connection, &message, MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    return sent < 0 ? errno : 0;
}

/* The next packet, and its descriptors; its length, 0 if the broker has closed. *is_cut: there was no room for them. */
static size_t receive_packet(struct answer *answer, bool *is_cut) {
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof answer->descriptors)];
    struct iovec data = {packet, sizeof packet};
    struct msghdr message = {
        .msg_iov = &data, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    ssize_t length;
    do
        length = recvmsg(connection, &message, MSG_CMSG_CLOEXEC);
    while (length < 0 && errno == EINTR);
    *answer = (struct answer){0};
    *is_cut = (message.msg_flags & MSG_CTRUNC) != 0;
    const struct cmsghdr *const head = length > 0 ? CMSG_FIRSTHDR(&message) : NULL;
    if (head != NULL && head->cmsg_level == SOL_SOCKET && head->cmsg_type == SCM_RIGHTS) {
        const size_t size = head->cmsg_len - CMSG_LEN(0);
        memcpy(answer->descriptors, CMSG_DATA(head), size);
        answer->descriptor_count = size / sizeof *answer->descriptors;
    }
    return length > 0 ? (size_t)length : 0;
}

void answer_close(struct answer *answer) {
    while (answer->descriptor_count > 0)
        close(answer->descriptors[--answer->descriptor_count]);
    free(answer->long_text);
    answer->long_text = NULL;
}

/* The text of an answer that travels in a file, its last descriptor; *length of it. NULL: there is none to be had. */
static char *read_long_text(const struct answer *answer, size_t *length) {
    struct stat status;
    if (answer->descriptor_count == 0)
        return NULL;
    const int file = answer->descriptors[answer->descriptor_count - 1];
    if (fstat(file, &status) != 0 || status.st_size <= 0 || status.st_size > LONGEST_ANSWER)
        return NULL;
    *length = (size_t)status.st_size;
    char *const text = malloc(*length);
    if (text != NULL && pread(file, text, *length, 0) == (ssize_t)*length)
        return text;
    free(text);
    return NULL;
}

/* Whether what came can be read; a long answer is fetched. */
static bool open_answer(struct answer *answer, size_t length, bool is_cut) {
    bool is_long = false;
    struct json member;
    if (!json_read(packet, length, &answer->body))
        return false;
    if (is_cut || !json_member(answer->body, "long", &member) || !json_boolean(member, &is_long) || !is_long)
        return true;
    size_t long_length;
    answer->long_text = read_long_text(answer, &long_length);
    return answer->long_text != NULL && json_read(answer->long_text, long_length, &answer->body);
}

/* Waits for the answer to the last request; orders that come before it are carried out. Whatever else comes was for
 * nobody. False: there is none, or none that can be read, and the connection is closed. */
static bool receive_answer(struct answer *answer, bool *is_cut) {
    for (;;) {
        const size_t length = receive_packet(answer, is_cut);
        if (length == 0) {
            exchange_close("the broker has ended, or has closed the connection");
            return false;
        }
        if (packet[0] == REMOTE_MARK) {
            capshm_remote_take(packet, length, answer->descriptors, answer->descriptor_count, *is_cut);
        } else {
            struct json number;
            uint64_t answered = UINT64_MAX;
            if (!open_answer(answer, length, *is_cut) || !json_member(answer->body, "n", &number) ||
                !json_word(number, &answered)) {
                answer_close(answer);
                exchange_close("the broker has sent what is no answer");
                return false;
            }
            /* 0: the broker could not even read the number. */
            if (answered == last_number || answered == 0)
                return true;
        }
        answer_close(answer);
    }
}

static enum capshm_status ask(struct request *request, int descriptor, struct answer *answer, bool *is_cut) {
    const char *const call = request->call;
    if (connection >= 0 && !capshm_is_descriptor_of(connection, connection_inode))
        exchange_close("somebody has closed the descriptor of the connection to the broker");
    if (connection < 0)
        return refuse_closed(call);
    request_word(request, "n", ++last_number);
    request_add(request, ",\"at\":[");
    request_shown(request, program_invocation_name);
    request_add(request, ",0]}");
    if (request->is_too_long)
        return refuse_call(CAPSHM_INVALID, "%s: the arguments are too long for a packet", call);
    const int reason = send_packet(request, descriptor);
    if (reason == EPIPE || reason == ECONNRESET)
        exchange_close("the broker has ended, or has closed the connection");
    else if (reason == EBADF)
        return refuse_by_host(reason, "%s: descriptor %d is not open", call, descriptor);
    else if (reason != 0)
        return refuse_by_host(reason, "%s: the request cannot be sent: %s", call, strerror(reason));
    if (connection < 0 || !receive_answer(answer, is_cut))
        return refuse_closed(call);
    const enum capshm_status status = refuse_by_broker(answer->body, call);
    if (status != CAPSHM_OK)
        answer_close(answer);
    return status;
}

/* The broker has decided a change that cannot be carried out here. */
static void take_back(const struct answer *answer) {
    struct json member;
    uint64_t start = 0;
    struct answer taken_back;
    bool is_cut;
    if (json_member(answer->body, "address", &member))
        json_word(member, &start);
    struct request *const request = exchange_request("revert");
    request_word(request, "start", start);
    if (ask(request, -1, &taken_back, &is_cut) == CAPSHM_OK)
        answer_close(&taken_back);
}

enum capshm_status exchange_ask(struct request *request, int descriptor, struct answer *answer) {
    const char *const call = request->call;
    bool is_cut = false;
    const enum capshm_status status = ask(request, descriptor, answer, &is_cut);
    if (status != CAPSHM_OK || !is_cut)
        return status;
    take_back(answer);
    answer_close(answer);
    return refuse_by_host(EMFILE, "%s: no descriptor is free for those that the broker's answer came with", call);
}

bool answer_word(const struct answer *answer, const char *name, uint64_t *word) {
    struct json member;
    return json_member(answer->body, name, &member) && json_word(member, word);
}

bool answer_boolean(const struct answer *answer, const char *name, bool *is_true) {
    struct json member;
    return json_member(answer->body, name, &member) && json_boolean(member, is_true);
}

bool answer_text(const struct answer *answer, const char *name, char *text, size_t size) {
    struct json member;
    return json_member(answer->body, name, &member) && json_text(member, text, size);
}

bool answer_words(struct json array, uint64_t *words, size_t count) {
    struct json element = {0};
    for (size_t i = 0; i < count; i++) {
        if (!json_next(array, &element) || !json_word(element, &words[i]))
            return false;
    }
    return true;
}

enum capshm_status answer_is_strange(const char *call) {
    exchange_close("the broker's answer could not be understood");
    return refuse_closed(call);
}
