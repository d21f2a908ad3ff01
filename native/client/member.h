/* member.h: this process's part in a machine. With the turn in hand (exchange.h). */
#ifndef CAPSHM_CLIENT_MEMBER_H
#define CAPSHM_CLIENT_MEMBER_H

#include "client/exchange.h"

/* Begins a request of a process that is attached: else CAPSHM_NOT_ATTACHED. */
enum capshm_status member_request(const char *call, struct request **request);

/* A register for a new handle: CAPSHM_NOT_ATTACHED, CAPSHM_NO_MEMORY. Without the turn, too. */
enum capshm_status member_new_handle(const char *call, capshm_capability *handle);

#endif
