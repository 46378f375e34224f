/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Copyright the meshnode authors. See bpf/LICENSE. */
/* What policy says of two workloads of this node. */
#ifndef MN_VERDICT_H
#define MN_VERDICT_H

#include "maps.h"

/* Looked up by the classes of both; PROXY where the kernel does not know. */
MN_INLINE __u32 mn_local_verdict(const struct mn_pod *pod, const struct mn_workload *to, __u16 port,
				 __u32 *policy_reason)
{
	struct mn_verdict_key key = {
		.src_class = pod->src_class,
		.dst_class = to->dst_class,
		.port = port,
	};
	const struct mn_verdict_value *value;
	__u64 cookie = to->netns_cookie;

	if (!cookie || !key.src_class || !key.dst_class || to->flags & MN_WORKLOAD_WAYPOINT)
		return MN_VERDICT_PROXY;
	/* Only what demands grants at this moment may be reached directly. */
	if (!bpf_map_lookup_elem(MAP(mn_enrolled), &cookie))
		return MN_VERDICT_PROXY;
	value = bpf_map_lookup_elem(MAP(mn_verdict), &key);
	if (!value) {
		key.port = 0;
		value = bpf_map_lookup_elem(MAP(mn_verdict), &key);
	}
	if (!value)
		return MN_VERDICT_PROXY;
	*policy_reason = value->policy_reason;
	return value->verdict;
}

#endif
