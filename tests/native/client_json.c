/* client_json.c: native/client/json.h with texts that mean harm.
 *
 *     client_json          mutations of what a broker answers, each at the very end of an allocation, so that a sanitizer
 *                          sees a byte too many; nothing but an end without a finding is expected
 *     client_json judge    reads texts from its input, each behind its length of four bytes, and prints for each
 *                          "no", or the value as json.h sees it, and a zero
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "client/json.h"

enum { ROUNDS = 200000, LONGEST = 4096, TEXT_SIZE = 64 };

static const char *const answers[] = {
    "{\"n\":7,\"address\":93458488360960,\"reserved\":[0,0],\"capability\":[1,2,3],\"rights\":\"rwRW\",\"is_shared\":"
    "true}",
    "{\"n\":8,\"refused\":{\"rule\":\"cheribsd:E2\",\"errno\":13,\"message\":\"a \\\"b\\\" \\u00e9 \\ud83d\\ude00 "
    "\\ud83d\"}}",
    "{\"n\":9,\"changes\":[[1,2,\"r\"],[3,4,\"\"],[]],\"x\":null,\"y\":{\"z\":[[[[-1]]]]}}",
};

/* All that json.h can be asked about a value and what is in it; its text form, if asked to print. */
static void look(struct json value, bool is_printed) {
    struct json found;
    uint64_t word;
    bool is_true;
    char text[TEXT_SIZE];
    if (json_text(value, text, sizeof text)) {
        if (is_printed)
            printf("\"%s\"", text);
    } else if (json_word(value, &word)) {
        if (is_printed)
            printf("%" PRIu64, word);
    } else if (json_boolean(value, &is_true)) {
        if (is_printed)
            printf(is_true ? "true" : "false");
    } else if (*value.begin == '[') {
        if (is_printed)
            printf("[");
        for (struct json element = {0}; json_next(value, &element);) {
            look(element, is_printed);
            if (is_printed)
                printf(",");
        }
        if (is_printed)
            printf("]");
    } else if (is_printed) {
        printf("?");
    }
    if (json_member(value, "message", &found) || json_member(value, "refused", &found) ||
        json_member(value, "n", &found))
        look(found, is_printed);
}

static uint64_t next_random(uint64_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static int mutate(uint64_t seed) {
    static const char likely[] = "{}[]\",:\\u0-9tfn\x80\xff ";
    uint64_t state = seed;
    uint64_t read = 0;
    printf("{\"seed\": %" PRIu64 "}\n", seed);
    for (unsigned round = 0; round < ROUNDS; round++) {
        const char *const answer = answers[next_random(&state) % (sizeof answers / sizeof *answers)];
        const size_t length = next_random(&state) % 2 ? strlen(answer) : next_random(&state) % (strlen(answer) + 1);
        char *const text = malloc(length + !length);
        if (text == NULL)
            return EXIT_FAILURE;
        memcpy(text, answer, length);
        for (uint64_t count = next_random(&state) % 4; count > 0 && length > 0; count--)
            text[next_random(&state) % length] = likely[next_random(&state) % (sizeof likely - 1)];
        struct json value;
        if (json_read(text, length, &value)) {
            look(value, false);
            read++;
        }
        free(text);
    }
    return read > 0 && read < ROUNDS ? EXIT_SUCCESS : EXIT_FAILURE;
}

static int judge(void) {
    static char text[LONGEST];
    uint32_t length;
    while (fread(&length, sizeof length, 1, stdin) == 1) {
        struct json value;
        if (length > sizeof text || fread(text, 1, length, stdin) != length)
            return EXIT_FAILURE;
        if (json_read(text, length, &value))
            look(value, true);
        else
            printf("no");
        putchar('\0');
    }
    return EXIT_SUCCESS;
}

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "judge") == 0)
        return judge();
    return mutate(argc > 1 ? strtoull(argv[1], NULL, 0) : (uint64_t)time(NULL) | 1);
}
