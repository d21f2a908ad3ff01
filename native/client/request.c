/* request.c: the writer of request.h. */
#include "client/request.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { SHOWN = 1024, FIRST_PRINTABLE = 0x20, LAST_PRINTABLE = 0x7E };

void request_add(struct request *request, const char *format, ...) {
    const size_t left = sizeof request->text - request->length;
    va_list arguments;
    va_start(arguments, format);
    const int length = vsnprintf(request->text + request->length, left, format, arguments);
    va_end(arguments);
    if (length < 0 || (size_t)length >= left)
        request->is_too_long = true;
    else
        request->length += (size_t)length;
}

void request_begin(struct request *request, const char *call) {
    request->call = call;
    request->length = 0;
    request->is_too_long = false;
    request_add(request, "{\"do\":\"%s\"", call);
}

void request_word(struct request *request, const char *name, uint64_t word) {
    request_add(request, ",\"%s\":%" PRIu64, name, word);
}

void request_integer(struct request *request, const char *name, int64_t number) {
    request_add(request, ",\"%s\":%" PRId64, name, number);
}

void request_boolean(struct request *request, const char *name, bool is_true) {
    request_add(request, ",\"%s\":%s", name, is_true ? "true" : "false");
}

void request_text(struct request *request, const char *name, const char *text) {
    if (text == NULL) {
        request_add(request, ",\"%s\":null", name);
        return;
    }
    request_add(request, ",\"%s\":\"", name);
    for (; *text != '\0' && !request->is_too_long; text++) {
        if ((unsigned char)*text < FIRST_PRINTABLE)
            request_add(request, "\\u%04x", (unsigned)*text);
        else
            request_add(request, *text == '"' || *text == '\\' ? "\\%c" : "%c", *text);
    }
    request_add(request, "\"");
}

void request_shown(struct request *request, const char *text) {
    const size_t length = strlen(text);
    request_add(request, "\"");
    for (text += length > SHOWN ? length - SHOWN : 0; *text != '\0'; text++) {
        const bool is_plain = *text >= FIRST_PRINTABLE && *text <= LAST_PRINTABLE && *text != '"' && *text != '\\';
        request_add(request, "%c", is_plain ? *text : '?');
    }
    request_add(request, "\"");
}
