/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Numbers that the workers of one waypoint share: how much there is of something (counts), and how
 * fast it may come (buckets). One piece of memory, mapped by the supervisor and by every worker.
 *
 * Counts. An entry has one cell per worker, which only that worker writes; the count is their sum.
 * A worker adds to its cell first and sums up then: of two that meet, at least one sees the other,
 * so the limit is never exceeded. Whoever dies leaves its cells to `shared_forget`.
 *
 * Buckets. One number each, the instant at which the bucket will be full again (GCRA): taking a
 * token is one compare-and-swap, nothing is held, nothing has to be given back. A bucket that is
 * full again is like one that was never there, so its place may go to another key.
 *
 * No call blocks for long: finding a count takes a lock of few steps, which `shared_forget` opens
 * where its holder died; who does not get it is told -1 and limits alone.
 */
#ifndef WAYPOINT_SHARED_H
#define WAYPOINT_SHARED_H

#include <stddef.h>
#include <stdint.h>

/* cffi: begin */
/* Bytes needed for so many workers (1 to 64); 0 for any other number. */
size_t shared_bytes(uint32_t workers);
/* Lay out zeroed memory; the secret of 16 bytes lies in it. */
void shared_init(void *base, uint32_t workers, const char *secret);
const char *shared_secret(const void *base);
/* Workers that memory of this size was laid out for; 0 if it is none of ours. */
uint32_t shared_workers(const void *base, size_t bytes);

/* Place of the count of a key (not 0) for a worker; -1 if there is none left. */
int32_t shared_find(void *base, uint64_t key, uint32_t worker);
/* The worker counts no more there. */
void shared_drop(void *base, int32_t place, uint32_t worker);
/* Add one if there are at most `most` then; 1 if so. */
int shared_add(void *base, int32_t place, uint32_t worker, int64_t most);
/* Take away as many of those that this worker added. */
void shared_sub(void *base, int32_t place, uint32_t worker, int64_t many);
int64_t shared_sum(const void *base, int32_t place);
/* A worker has died: take away all it counted. Returns how many counts it held. */
uint32_t shared_forget(void *base, uint32_t worker);

/* Take `cost_ns` of a key's bucket `depth_ns` deep at an instant. What is left of it; less than 0:
 * nothing was taken, and so long it takes until that much is there. */
int64_t shared_take(void *base, uint64_t key, int64_t cost_ns, int64_t depth_ns, int64_t now_ns);
/* Take `cost_ns` whatever there is: how long ahead of the clock that is. */
int64_t shared_charge(void *base, uint64_t key, int64_t cost_ns, int64_t now_ns);
/* cffi: end */

#endif
