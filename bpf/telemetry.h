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

/* The statistics of a connection's (source, destination, port, path); NULL if the map is full. */
MN_INLINE struct mn_stats *mn_get_stats(const struct mn_sock *sock)
{
	struct mn_stats_key key = {
		.src_workload = sock->src_workload,
		.dst_workload = sock->dst_workload,
		.port = sock->port,
		.path = sock->path,
	};
	struct mn_stats *stats = bpf_map_lookup_elem(MAP(mn_stats), &key);
	struct mn_stats empty = {};

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
