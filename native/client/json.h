/* json.h: reads what the broker answers, a packet of JSON.
 *
 * Strict, and no more than answers are made of: objects, arrays, strings, whole numbers, true, false, null. Fractions
 * and exponents are refused, and so is what is nested deeper than JSON_DEPTH. json_read looks at the whole text; a value
 * that has come from it is well-formed, and is looked into without further checks. Nothing is copied or allocated, and no
 * byte outside the text is read.
 */
#ifndef CAPSHM_CLIENT_JSON_H
#define CAPSHM_CLIENT_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { JSON_DEPTH = 16 };

/* A value: from its first byte to past its last. */
struct json {
    const char *begin;
    const char *end;
};

/* False: the text is not exactly one value. */
bool json_read(const char *text, size_t length, struct json *value);

/* The first member of an object with that name. False: there is none, or it is no object. */
bool json_member(struct json object, const char *name, struct json *value);

/* The first element of an array if element->begin is NULL, else the next. False: there is none, or it is no array. */
bool json_next(struct json array, struct json *element);

/* A number from 0 to 2^64 - 1; false: it is none, and *word is as before. */
bool json_word(struct json value, uint64_t *word);

bool json_boolean(struct json value, bool *is_true);

/* A string as UTF-8, with a zero at its end; what does not fit is left out, by whole characters. False: it is none. */
bool json_text(struct json value, char *text, size_t size);

#endif
