/* objects.c: shared memory by its name. The descriptors are real ones. */
#define _GNU_SOURCE /* O_PATH, O_CLOEXEC */
#include "capshm/client.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "client/member.h"

/* So that nothing is made for a process that could not take it (cheribsd:1.D/7). */
static bool has_room_for_descriptor(void) {
    const int descriptor = open("/", O_PATH | O_CLOEXEC);
    if (descriptor < 0)
        return errno != EMFILE && errno != ENFILE;
    close(descriptor);
    return true;
}

static enum capshm_status shm_open_at(const char *path, int flags, unsigned mode, int *descriptor) {
    struct request *request;
    struct answer answer;
    enum capshm_status status = member_request("shm_open", &request);
    if (status != CAPSHM_OK)
        return status;
    request_text(request, "path", path);
    request_integer(request, "flags", flags & ~(CAPSHM_O_SHARECAP | O_CLOEXEC));
    request_word(request, "mode", mode);
    request_boolean(request, "is_share_cap", flags & CAPSHM_O_SHARECAP);
    request_boolean(request, "has_room", has_room_for_descriptor());
    status = exchange_ask(request, -1, &answer);
    if (status != CAPSHM_OK)
        return status;
    if (answer.descriptor_count == 0)
        status = answer_is_strange("shm_open");
    else
        *descriptor = answer.descriptors[--answer.descriptor_count];
    answer_close(&answer);
    return status;
}

enum capshm_status capshm_shm_open(const char *path, int flags, unsigned mode, int *descriptor) {
    const uint64_t signals = exchange_begin();
    const enum capshm_status status = shm_open_at(path, flags, mode, descriptor);
    exchange_end(signals);
    return status;
}

enum capshm_status capshm_shm_unlink(const char *path) {
    struct request *request;
    struct answer answer;
    if (path == NULL)
        return refuse_call(CAPSHM_INVALID, "shm_unlink: a path is needed");
    const uint64_t signals = exchange_begin();
    enum capshm_status status = member_request("shm_unlink", &request);
    if (status == CAPSHM_OK) {
        request_text(request, "path", path);
        status = exchange_ask(request, -1, &answer);
    }
    if (status == CAPSHM_OK)
        answer_close(&answer);
    exchange_end(signals);
    return status;
}
