/* json.c: the grammar of RFC 8259, as far as json.h takes it. Every after_* returns the first byte past what it is about,
 * or NULL if that is not there. */
#include "json.h"

#include <string.h>

enum {
    FIRST_PRINTABLE = 0x20,
    ESCAPE_DIGITS = 4,
    SURROGATE_FIRST = 0xD800,
    SURROGATE_LOW = 0xDC00,
    SURROGATE_LAST = 0xDFFF,
    REPLACEMENT = 0xFFFD,
    LONGEST_CHARACTER = 4,
};

static const char *after_value(const char *at, const char *end, unsigned depth);

static const char *after_blanks(const char *at, const char *end) {
    while (at < end && (*at == ' ' || *at == '\t' || *at == '\n' || *at == '\r'))
        at++;
    return at;
}

static const char *after_word(const char *at, const char *end, const char *word) {
    const size_t length = strlen(word);
    return (size_t)(end - at) >= length && memcmp(at, word, length) == 0 ? at + length : NULL;
}

static bool is_digit(char character) {
    return character >= '0' && character <= '9';
}

static const char *after_number(const char *at, const char *end) {
    if (at < end && *at == '-')
        at++;
    if (at == end || !is_digit(*at))
        return NULL;
    if (*at == '0')
        return at + 1;
    while (at < end && is_digit(*at))
        at++;
    return at;
}

static int digit_of(char character) {
    if (is_digit(character))
        return character - '0';
    const char lower = (char)(character | 0x20);
    return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

/* Four hexadecimal digits; at is past the "\u". */
static const char *after_digits(const char *at, const char *end, uint32_t *number) {
    *number = 0;
    for (int place = 0; place < ESCAPE_DIGITS; place++, at++) {
        const int digit = at < end ? digit_of(*at) : -1;
        if (digit < 0)
            return NULL;
        *number = *number << 4 | (uint32_t)digit;
    }
    return at;
}

/* What stands behind a backslash. */
static const char *after_escape(const char *at, const char *end) {
    uint32_t number;
    if (at == end)
        return NULL;
    if (*at == 'u')
        return after_digits(at + 1, end, &number);
    return *at != '\0' && strchr("\"\\/bfnrt", *at) != NULL ? at + 1 : NULL;
}

static const char *after_string(const char *at, const char *end) {
    if (at == end || *at != '"')
        return NULL;
    for (at++; at != NULL && at < end;) {
        if (*at == '"')
            return at + 1;
        if ((unsigned char)*at < FIRST_PRINTABLE)
            return NULL;
        at = *at == '\\' ? after_escape(at + 1, end) : at + 1;
    }
    return NULL;
}

/* The name of a member, and the colon. */
static const char *after_name(const char *at, const char *end) {
    at = after_string(at, end);
    if (at == NULL)
        return NULL;
    at = after_blanks(at, end);
    return at < end && *at == ':' ? after_blanks(at + 1, end) : NULL;
}

/* Of an object or an array; at is past its first bracket. */
static const char *after_items(const char *at, const char *end, bool has_names, unsigned depth) {
    const char closing = has_names ? '}' : ']';
    at = after_blanks(at, end);
    if (at < end && *at == closing)
        return at + 1;
    while (at < end) {
        if (has_names && (at = after_name(at, end)) == NULL)
            return NULL;
        at = after_value(at, end, depth);
        if (at == NULL)
            return NULL;
        at = after_blanks(at, end);
        if (at < end && *at == closing)
            return at + 1;
        if (at == end || *at != ',')
            return NULL;
        at = after_blanks(at + 1, end);
    }
    return NULL;
}

static const char *after_value(const char *at, const char *end, unsigned depth) {
    if (at == end)
        return NULL;
    switch (*at) {
    case '{':
    case '[':
        return depth < JSON_DEPTH ? after_items(at + 1, end, *at == '{', depth + 1) : NULL;
    case '"':
        return after_string(at, end);
    case 't':
        return after_word(at, end, "true");
    case 'f':
        return after_word(at, end, "false");
    case 'n':
        return after_word(at, end, "null");
    default:
        return after_number(at, end);
    }
}

bool json_read(const char *text, size_t length, struct json *value) {
    const char *const end = text + length;
    value->begin = after_blanks(text, end);
    value->end = after_value(value->begin, end, 0);
    return value->end != NULL && after_blanks(value->end, end) == end;
}

bool json_member(struct json object, const char *name, struct json *value) {
    if (*object.begin != '{')
        return false;
    const size_t length = strlen(name);
    const char *at = after_blanks(object.begin + 1, object.end);
    while (*at == '"') {
        const bool is_it = after_string(at, object.end) == at + length + 2 && memcmp(at + 1, name, length) == 0;
        value->begin = after_name(at, object.end);
        value->end = after_value(value->begin, object.end, 0);
        if (is_it)
            return true;
        at = after_blanks(value->end, object.end);
        if (*at == ',')
            at = after_blanks(at + 1, object.end);
    }
    return false;
}

bool json_next(struct json array, struct json *element) {
    if (*array.begin != '[')
        return false;
    const char *at = after_blanks(element->begin == NULL ? array.begin + 1 : element->end, array.end);
    if (*at == ',')
        at = after_blanks(at + 1, array.end);
    if (*at == ']')
        return false;
    element->begin = at;
    element->end = after_value(at, array.end, 0);
    return true;
}

bool json_word(struct json value, uint64_t *word) {
    uint64_t number = 0;
    for (const char *at = value.begin; at < value.end; at++) {
        if (!is_digit(*at) || __builtin_mul_overflow(number, 10, &number) ||
            __builtin_add_overflow(number, (uint64_t)(*at - '0'), &number))
            return false;
    }
    *word = number;
    return true;
}

bool json_boolean(struct json value, bool *is_true) {
    if (*value.begin != 't' && *value.begin != 'f')
        return false;
    *is_true = *value.begin == 't';
    return true;
}

/* One character as UTF-8; its length. */
static size_t encode(uint32_t character, char *bytes) {
    static const unsigned char marks[] = {0x00, 0xC0, 0xE0, 0xF0};
    const size_t length = character < 0x80 ? 1 : character < 0x800 ? 2 : character < 0x10000 ? 3 : LONGEST_CHARACTER;
    for (size_t place = length; place-- > 1; character >>= 6)
        bytes[place] = (char)(0x80 | (character & 0x3F));
    bytes[0] = (char)(marks[length - 1] | character);
    return length;
}

/* The character of an escape "\u....", of two if it needs two; a half of a pair that stands alone is replaced. */
static const char *decode_number(const char *at, const char *end, uint32_t *character) {
    at = after_digits(at, end, character);
    if (*character < SURROGATE_FIRST || *character > SURROGATE_LAST)
        return at;
    const uint32_t high = *character;
    *character = REPLACEMENT;
    uint32_t low;
    if (high >= SURROGATE_LOW || after_word(at, end, "\\u") == NULL)
        return at;
    const char *const after_both = after_digits(at + 2, end, &low);
    if (low < SURROGATE_LOW || low > SURROGATE_LAST)
        return at;
    *character = 0x10000 + ((high - SURROGATE_FIRST) << 10) + (low - SURROGATE_LOW);
    return after_both;
}

static const char *decode_escape(const char *at, const char *end, uint32_t *character) {
    static const char names[] = "bfnrt";
    static const char meanings[] = "\b\f\n\r\t";
    if (*at == 'u')
        return decode_number(at + 1, end, character);
    const char *const name = strchr(names, *at);
    *character = (unsigned char)(name != NULL ? meanings[name - names] : *at);
    return at + 1;
}

/* The bytes of the character at `at`; *length of them. */
static const char *decode(const char *at, const char *end, char *bytes, size_t *length) {
    if (*at == '\\') {
        uint32_t character;
        at = decode_escape(at + 1, end, &character);
        *length = encode(character, bytes);
        return at;
    }
    *length = 0;
    do
        bytes[(*length)++] = *at++;
    while (*length < LONGEST_CHARACTER && ((unsigned char)*at & 0xC0) == 0x80);
    return at;
}

bool json_text(struct json value, char *text, size_t size) {
    if (*value.begin != '"')
        return false;
    const char *at = value.begin + 1;
    size_t used = 0;
    while (at < value.end - 1) {
        char bytes[LONGEST_CHARACTER];
        size_t length;
        at = decode(at, value.end, bytes, &length);
        if (used + length >= size)
            break;
        memcpy(text + used, bytes, length);
        used += length;
    }
    text[used] = '\0';
    return true;
}
