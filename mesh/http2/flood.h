/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the meshnode authors */

/*
 * Limits against hostile peers. Counts instead of rates, because there is no clock here: what a
 * peer may do for nothing is bounded, and useful work earns more of it. limits.py has the same
 * ones for the portable engine.
 */

#ifndef MN_HTTP2_FLOOD_H
#define MN_HTTP2_FLOOD_H

/* A header list of 64 KiB needs five frames of the smallest kind. RFC 9113 §10.5 names the flood. */
#define MAX_CONTINUATIONS 16u
/* "Rapid reset" (CVE-2023-44487), and streams that we must reset (CVE-2025-8671): streams that
 * ended badly before an answer, less those that were answered. A peer may cancel all its pending
 * streams at once, so its allowance of concurrent streams comes on top. */
#define MAX_BAD_ENDS 100u
/* Empty DATA, PRIORITY, unknown frames, 1xx, SETTINGS and GOAWAY again: cost us more than the peer
 * (CVE-2019-9515, CVE-2019-9518). */
#define MAX_IDLE_FRAMES 1000u
#define IDLE_CREDIT 16u
/* Answers to PING, SETTINGS and bad frames that a peer lets pile up unread (CVE-2019-9512). */
#define MAX_ANSWER_BYTES 65536u
/* Above the limit a header list costs its stream; this many times above, the connection. */
#define HEADER_LIST_FACTOR 4u

#endif
