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

/* Processes of the agent. The cgroup of a process cannot be changed from inside a pod. */
MN_INLINE int mn_is_agent(const struct mn_config *config)
{
	return config->agent_cgroup &&
	       bpf_get_current_ancestor_cgroup_id(config->agent_level) == config->agent_cgroup;
}

#endif
