/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the meshnode authors */

/*
 * Limits against hostile HTTP/2 peers; the same ones as in mesh/http2/limits.py and
 * mesh/tunnel/guards.py, which give the reasons.
 */

#ifndef MT_GUARDS_H
#define MT_GUARDS_H

#define MAX_CONTINUATIONS 16u
#define MAX_BAD_ENDS 100u
#define MAX_IDLE_FRAMES 1000u
#define IDLE_CREDIT 16u
#define RESET_BURST 1000.0
#define RESETS_PER_S 200.0
/* Answers (acknowledgements of PING and SETTINGS) that a peer lets pile up; nghttp2 counts. */
#define MAX_ANSWERS 1000u
/* Above the limit a header list costs its stream; this many times above, the connection. */
#define HEADER_LIST_FACTOR 4u

#endif
