/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the meshnode authors */

/*
 * Limits against hostile HTTP/2 peers: those of every session, and those of tunnels, for which
 * mesh/tunnel/guards.py gives the reasons.
 */

#ifndef MT_GUARDS_H
#define MT_GUARDS_H

#include "../../http2/flood.h"

#define RESET_BURST 1000.0
#define RESETS_PER_S 200.0
/* Answers (acknowledgements of PING and SETTINGS) that a peer lets pile up; nghttp2 counts. */
#define MAX_ANSWERS 1000u

#endif
