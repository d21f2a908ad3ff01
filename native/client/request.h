/* request.h: writes a request to the broker, one object of JSON (capshm/broker/messages.py).
 *
 * Begun by its name, filled with its arguments, and sent by exchange_ask, which adds what every request has. Text is
 * written as it is but for what JSON wants escaped; whether it is UTF-8 is for the broker to judge.
 */
#ifndef CAPSHM_CLIENT_REQUEST_H
#define CAPSHM_CLIENT_REQUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { REQUEST_SIZE = 32 << 10 };

struct request {
    const char *call;
    size_t length;
    bool is_too_long; /* and cut off: not to be sent */
    char text[REQUEST_SIZE];
};

void request_begin(struct request *request, const char *call);
void request_word(struct request *request, const char *name, uint64_t word);
void request_integer(struct request *request, const char *name, int64_t number);
void request_boolean(struct request *request, const char *name, bool is_true);
/* NULL: null. */
void request_text(struct request *request, const char *name, const char *text);
/* As printf does; JSON already. */
void request_add(struct request *request, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* A string that is only to be shown: the end of it, whatever is no printable ASCII replaced. */
void request_shown(struct request *request, const char *text);

#endif
