/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Copyright the meshnode authors. See bpf/LICENSE. */
/* The settings of this node. */
#ifndef MN_CONFIG_H
#define MN_CONFIG_H

#include "maps.h"

/* NULL until user space has written it: enrolled pods are refused then. */
MN_INLINE const struct mn_config *mn_get_config(void)
{
	__u32 zero = 0;
	const struct mn_config *config = bpf_map_lookup_elem(MAP(mn_config), &zero);

	if (!config || !config->outbound_port)
		return 0;
	return config;
}

/* How many levels of cgroups a node may have above the root of its own cgroup namespace. */
#define MN_NESTING 8

/*
 * Processes of the agent. The cgroup of a process cannot be changed from inside a pod.
 *
 * The kernel counts levels from the machine's root. User space sees no further up than the root of
 * its cgroup namespace, as on a node that is a container itself (kind), so its level is the least
 * that it can be. A level beyond the process's own has the id 0.
 */
MN_INLINE int mn_is_agent(const struct mn_config *config)
{
	__u64 wanted = config->agent_cgroup;
	__u32 level = config->agent_level;

	if (!wanted)
		return 0;
#pragma unroll
	for (int i = 0; i < MN_NESTING; i++) {
		__u64 id = bpf_get_current_ancestor_cgroup_id(level + i);

		if (id == wanted)
			return 1;
		if (!id)
			return 0;
	}
	return 0;
}

#endif
