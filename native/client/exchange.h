/* exchange.h: this process's connection to the broker of its machine: one request, one answer.
 *
 * The same as capshm/connection.py, and for the same reasons. A thread has the turn (exchange_begin) from before it asks
 * until it has carried out what was answered, so that the broker's model and the kernel change in the same order. While
 * it has it
 *     no other thread asks, nor forks;
 *     its signals are blocked: a handler can neither fork between an answer and its carrying out, nor leave the call;
 *     what other processes ask of this one's mappings waits, but for what comes before the answer (native/remote.h).
 * So whoever waits here waits for the broker alone, and ends with it.
 *
 * A death at any instruction leaves a connection that the kernel closes, and the broker forgets the process.
 */
#ifndef CAPSHM_CLIENT_EXCHANGE_H
#define CAPSHM_CLIENT_EXCHANGE_H

#include "client/refusal.h"
#include "client/request.h"

enum { ANSWER_DESCRIPTORS = 8 };

/* To be closed. */
struct answer {
    struct json body;
    int descriptors[ANSWER_DESCRIPTORS];
    size_t descriptor_count;
    char *long_text; /* of an answer that did not fit into a packet */
};

/* Takes the turn; what it returns is for exchange_end. */
uint64_t exchange_begin(void);
void exchange_end(uint64_t signals_before);

/* The rest with the turn in hand. */

/* The one request at a time. */
struct request *exchange_request(const char *call);

/* CAPSHM_FAILED: there is no machine of that name. */
enum capshm_status exchange_connect(const char *machine);
bool exchange_is_connected(void);
/* From now on it is closed in children of forks; and no fork falls between a request and its answer. */
enum capshm_status exchange_keep_from_children(void);
/* why: what later requests are told. */
void exchange_close(const char *why);

/* Sends the request, with a descriptor if it is not -1, and waits for the answer; there is nothing to close unless it is
 * CAPSHM_OK. If no descriptor was free for those of an answer the broker has been told to take the change back. */
enum capshm_status exchange_ask(struct request *request, int descriptor, struct answer *answer);

/* Members of the answer; false: it has none such. */
bool answer_word(const struct answer *answer, const char *name, uint64_t *word);
bool answer_boolean(const struct answer *answer, const char *name, bool *is_true);
bool answer_text(const struct answer *answer, const char *name, char *text, size_t size);
/* The first count elements of an array of numbers. */
bool answer_words(struct json array, uint64_t *words, size_t count);
/* What a call returns if it cannot make out what was decided: nobody knows it then, and the connection is closed. */
enum capshm_status answer_is_strange(const char *call);

void answer_close(struct answer *answer);

#endif
