/* refusal.h: how the library says why a call failed. */
#ifndef CAPSHM_CLIENT_REFUSAL_H
#define CAPSHM_CLIENT_REFUSAL_H

#include "capshm/client.h"
#include "client/json.h"
#include "fault.h"

/* Each notes why in the thread's refusal, and returns the status. Messages begin with the process's number. */

enum capshm_status refuse_call(enum capshm_status status, const char *format, ...)
    __attribute__((cold, format(printf, 2, 3)));

/* By the kernel: rule "host". */
enum capshm_status refuse_by_host(int error_number, const char *format, ...)
    __attribute__((cold, format(printf, 2, 3)));

/* What the core has answered, if that is not STATUS_OK; errno tells more about STATUS_NO_MEMORY and
 * STATUS_UNSUPPORTED. call: what was asked. */
enum capshm_status refuse_by_core(enum status status, const char *call);

/* What an answer of the broker refuses, if anything. */
enum capshm_status refuse_by_broker(struct json answer, const char *call);

#endif
