/* task.c: reading /proc without the C library's printing and scanning; the reason is in task.h. */
#define _GNU_SOURCE /* O_CLOEXEC */
#include "task.h"

#include <fcntl.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

enum { PATH_SIZE = 64, STAT_SIZE = 512, STATUS_SIZE = 4096, START_TIME_FIELD = 22, STATE_FIELD = 3 };

static char *add_text(char *to, const char *text) {
    const size_t length = strlen(text);
    memcpy(to, text, length + 1);
    return to + length;
}

static char *add_number(char *to, uint32_t number) {
    char digits[10];
    size_t count = 0;
    do {
        digits[count++] = (char)('0' + number % 10);
        number /= 10;
    } while (number > 0);
    while (count > 0)
        *to++ = digits[--count];
    *to = '\0';
    return to;
}

/* Reads a file of a thread, or of a process if thread is 0, as text. False: it is not there. */
static bool read_file(int32_t process, int32_t thread, const char *name, char *text, size_t size) {
    char path[PATH_SIZE];
    char *end = add_number(add_text(path, "/proc/"), (uint32_t)process);
    if (thread != 0)
        end = add_number(add_text(end, "/task/"), (uint32_t)thread);
    add_text(end, name);
    const int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return false;
    const ssize_t length = read(file, text, size - 1);
    close(file);
    if (length <= 0)
        return false;
    text[length] = '\0';
    return true;
}

/* A field of /proc/PID/stat, by its number there. The name in field 2 may hold spaces and parentheses, so the fields are
 * counted from the last parenthesis. */
static const char *find_field(const char *text, int number) {
    const char *field = strrchr(text, ')');
    for (int at = 2; field != NULL && at < number; at++)
        field = strchr(field + 1, ' ');
    return field == NULL ? NULL : field + 1;
}

uint64_t task_start_time(int32_t process) {
    char text[STAT_SIZE];
    if (!read_file(process, 0, "/stat", text, sizeof text))
        return 0;
    const char *field = find_field(text, START_TIME_FIELD);
    uint64_t time = 0;
    for (; field != NULL && *field >= '0' && *field <= '9'; field++)
        time = time * 10 + (uint64_t)(*field - '0');
    return time;
}

char task_state(int32_t process, int32_t thread) {
    char text[STAT_SIZE];
    if (!read_file(process, thread, "/stat", text, sizeof text))
        return 0;
    const char *const field = find_field(text, STATE_FIELD);
    return field == NULL ? 0 : *field;
}

/* A set of signals in /proc/PID/status: sixteen hexadecimal digits after its title. */
static uint64_t find_signals(const char *text, const char *title) {
    const char *field = strstr(text, title);
    uint64_t signals = 0;
    if (field == NULL)
        return 0;
    for (field += strlen(title); *field == '\t' || *field == ' '; field++)
        ;
    for (; (*field >= '0' && *field <= '9') || (*field >= 'a' && *field <= 'f'); field++)
        signals = signals << 4 | (uint64_t)(*field <= '9' ? *field - '0' : *field - 'a' + 10);
    return signals;
}

bool task_will_take(int32_t process, int32_t thread, int signal_number) {
    static const char STATE[] = "\nState:\t";
    char text[STATUS_SIZE];
    if (!read_file(process, thread, "/status", text, sizeof text))
        return false;
    const char *const state = strstr(text, STATE);
    if (state == NULL || task_is_stopped(state[sizeof STATE - 1]) || task_has_ended(state[sizeof STATE - 1]))
        return false;
    const uint64_t bit = UINT64_C(1) << (signal_number - 1);
    return (find_signals(text, "\nSigPnd:") & bit) != 0 && (find_signals(text, "\nSigBlk:") & bit) == 0;
}
