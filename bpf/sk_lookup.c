/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Copyright the meshnode authors. See bpf/LICENSE. */
/*
 * sk_lookup of a pod's namespace: which listener a new inbound connection gets.
 *
 * Left to the ordinary lookup: traffic of the pod with itself, HBONE (its listener demands mTLS),
 * probe sources, excluded ports, and tuples that this kernel granted at connect(). Everything else
 * goes to ztunnel's plaintext listener. Fail-closed: no settings, no listener or no grant never
 * means the application; without a listener the SYN is dropped.
 */
#include "addr.h"
#include "config.h"
#include "telemetry.h"

MN_INLINE void mn_lookup_tuple(const struct bpf_sk_lookup *ctx, struct mn_tuple *tuple)
{
	if (ctx->family == MN_AF_INET6) {
		tuple->src.word[0] = ctx->remote_ip6[0];
		tuple->src.word[1] = ctx->remote_ip6[1];
		tuple->src.word[2] = ctx->remote_ip6[2];
		tuple->src.word[3] = ctx->remote_ip6[3];
		tuple->dst.word[0] = ctx->local_ip6[0];
		tuple->dst.word[1] = ctx->local_ip6[1];
		tuple->dst.word[2] = ctx->local_ip6[2];
		tuple->dst.word[3] = ctx->local_ip6[3];
		MN_KEEP_APART();
	} else {
		mn_addr_v4(&tuple->src, ctx->remote_ip4);
		mn_addr_v4(&tuple->dst, ctx->local_ip4);
		MN_KEEP_APART();
	}
	tuple->src_port = mn_ntohs(ctx->remote_port);
	tuple->dst_port = ctx->local_port;
}

/* The pod talking to itself. Its own address shows the route's interface instead of lo, hence the
 * comparison; a packet from the wire with our own source could never be answered. */
MN_INLINE int mn_is_local(const struct bpf_sk_lookup *ctx, const struct mn_tuple *tuple)
{
#if MN_HAVE_LOOKUP_IFINDEX
	if (ctx->ingress_ifindex == 1)
		return 1;
#else
	/* Before 5.17. A packet from the wire to 127.0.0.0/8 is dropped by routing. */
	if (mn_addr_is_loopback(&tuple->dst))
		return 1;
#endif
	return mn_addr_equal(&tuple->src, &tuple->dst);
}

MN_INLINE int mn_is_excluded_inbound(const struct mn_tuple *tuple)
{
	struct mn_workload *workload = bpf_map_lookup_elem(MAP(mn_workload), &tuple->dst);
	struct mn_exclude_key key = {.kind = MN_EXCLUDE_INBOUND, .value = tuple->dst_port};

	if (!workload || !(workload->flags & MN_WORKLOAD_EXCLUDES_INBOUND))
		return 0;
	key.netns_cookie = workload->netns_cookie;
	return bpf_map_lookup_elem(MAP(mn_exclude), &key) != 0;
}

/* Why a connection may go on to the application, or why it goes to ztunnel. */
MN_INLINE __u32 mn_admit(const struct mn_tuple *tuple, const struct mn_config *config)
{
	const struct mn_flow *flow;
	__u64 *expires_ns;

	if (tuple->dst_port == config->hbone_port)
		return MN_R_IN_HBONE;
	flow = bpf_map_lookup_elem(MAP(mn_flow), tuple);
	if (flow && bpf_ktime_get_ns() < flow->expires_ns)
		return MN_R_IN_GRANTED;
	if (bpf_map_lookup_elem(MAP(mn_probe), &tuple->src))
		return MN_R_IN_PROBE;
	if (mn_is_excluded_inbound(tuple))
		return MN_R_IN_EXCLUDED;
	expires_ns = bpf_map_lookup_elem(MAP(mn_grant), tuple);
	if (!expires_ns)
		return flow ? MN_R_IN_GRANT_EXPIRED : MN_R_IN_ZTUNNEL;
	return bpf_ktime_get_ns() < *expires_ns ? MN_R_IN_GRANTED : MN_R_IN_GRANT_EXPIRED;
}

MN_INLINE int mn_drop(__u32 reason)
{
	mn_count(reason);
	return SK_DROP;
}

MN_INLINE int mn_to_ztunnel(struct bpf_sk_lookup *ctx, struct mn_tuple *tuple, __u32 reason)
{
	struct bpf_sock *listener = bpf_map_lookup_elem(MAP(mn_listener), &tuple->dst);
	int error;

	if (!listener)
		return mn_drop(MN_R_DROP_NO_LISTENER);
	error = bpf_sk_assign(ctx, listener, 0);
	bpf_sk_release(listener);
	if (error)
		return mn_drop(MN_R_DROP_ASSIGN);
	mn_count(reason);
	return SK_PASS;
}

MN_PROG(mn_sk_lookup)(struct bpf_sk_lookup *ctx)
{
	const struct mn_config *config;
	struct mn_tuple tuple = {};
	__u32 reason;

	if (ctx->protocol != MN_IPPROTO_TCP)
		return SK_PASS;
	mn_lookup_tuple(ctx, &tuple);
	if (mn_is_local(ctx, &tuple)) {
		mn_count(MN_R_IN_LOCAL);
		return SK_PASS;
	}
	config = mn_get_config();
	if (!config)
		return mn_drop(MN_R_DROP_NO_CONFIG);
	/* The capture ports are for this pod alone. */
	if (tuple.dst_port == config->outbound_port || tuple.dst_port == config->plaintext_port)
		return mn_drop(MN_R_DROP_CAPTURE_PORT);
	reason = mn_admit(&tuple, config);
	if (reason == MN_R_IN_ZTUNNEL || reason == MN_R_IN_GRANT_EXPIRED)
		return mn_to_ztunnel(ctx, &tuple, reason);
	mn_count(reason);
	return SK_PASS;
}
