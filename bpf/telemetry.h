/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Copyright the meshnode authors. See bpf/LICENSE. */
/* Counters and events. Failing to count never changes what happens to a connection. */
#ifndef MN_TELEMETRY_H
#define MN_TELEMETRY_H

#include "maps.h"

MN_INLINE void mn_count(__u32 reason)
{
	__u64 *counter = bpf_map_lookup_elem(MAP(mn_reason), &reason);

	if (counter)
		*counter += 1;
}

/* Events of one (source, destination, service, port, path) per processor, in about a second. */
#define MN_TOLD_PER_PERIOD 32
#define MN_PERIOD_SHIFT 30

MN_INLINE int mn_same_addr(const struct mn_addr *a, const struct mn_addr *b)
{
	return a->word[0] == b->word[0] && a->word[1] == b->word[1] &&
	       a->word[2] == b->word[2] && a->word[3] == b->word[3];
}

/* Whether to make an event of a connection that mn_stats counts anyway. */
MN_INLINE int mn_may_tell(struct mn_stats *stats)
{
	__u64 period = bpf_ktime_get_ns() >> MN_PERIOD_SHIFT;

	if (stats->period != period) {
		stats->period = period;
		stats->told = 0;
	}
	if (stats->told >= MN_TOLD_PER_PERIOD) {
		stats->untold += 1;
		return 0;
	}
	stats->told += 1;
	return 1;
}

/* The statistics of a connection's (source, destination, service, port, path); NULL if the map is
 * full. */
MN_INLINE struct mn_stats *mn_get_stats(const struct mn_sock *sock)
{
	struct mn_stats_key key = {
		.src_workload = sock->src_workload,
		.dst_workload = sock->dst_workload,
		.port = sock->port,
		.path = sock->path,
	};
	struct mn_stats empty = {};
	struct mn_stats *stats;

	if (!mn_same_addr(&sock->orig, &sock->dst))
		key.vip = sock->orig;
	stats = bpf_map_lookup_elem(MAP(mn_stats), &key);
	if (stats)
		return stats;
	bpf_map_update_elem(MAP(mn_stats), &key, &empty, BPF_NOEXIST);
	stats = bpf_map_lookup_elem(MAP(mn_stats), &key);
	if (!stats)
		mn_count(MN_R_STATS_FULL);
	return stats;
}

MN_INLINE struct mn_event *mn_event_start(__u32 kind, __u32 reason)
{
	struct mn_event *event = bpf_ringbuf_reserve(MAP(mn_events), sizeof(*event), 0);

	if (!event) {
		mn_count(MN_R_EVENT_LOST);
		return 0;
	}
	__builtin_memset(event, 0, sizeof(*event));
	event->time_ns = bpf_ktime_get_ns();
	event->kind = kind;
	event->reason = reason;
	return event;
}

#endif
