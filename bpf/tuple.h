/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Copyright the meshnode authors. See bpf/LICENSE. */
/* The 4-tuple of a socket, and the permission that its SYN may reach an application. */
#ifndef MN_TUPLE_H
#define MN_TUPLE_H

#include "addr.h"
#include "config.h"

/* From the connecting side. For a v4-mapped socket the kernel keeps the mapped form in the IPv6
 * fields from the moment the addresses are chosen, so no case of its own is needed. */
MN_INLINE void mn_tuple_of(struct bpf_sock_ops *ctx, struct mn_tuple *tuple)
{
	if (ctx->family == MN_AF_INET6) {
		tuple->src.word[0] = MN_ONCE(ctx->local_ip6[0]);
		tuple->src.word[1] = MN_ONCE(ctx->local_ip6[1]);
		tuple->src.word[2] = MN_ONCE(ctx->local_ip6[2]);
		tuple->src.word[3] = MN_ONCE(ctx->local_ip6[3]);
		tuple->dst.word[0] = MN_ONCE(ctx->remote_ip6[0]);
		tuple->dst.word[1] = MN_ONCE(ctx->remote_ip6[1]);
		tuple->dst.word[2] = MN_ONCE(ctx->remote_ip6[2]);
		tuple->dst.word[3] = MN_ONCE(ctx->remote_ip6[3]);
		MN_KEEP_APART();
	} else {
		mn_addr_v4(&tuple->src, ctx->local_ip4);
		mn_addr_v4(&tuple->dst, ctx->remote_ip4);
		MN_KEEP_APART();
	}
	/* local_port is in host order; remote_port holds 16 big-endian bits in a 32-bit field. */
	tuple->src_port = ctx->local_port;
	tuple->dst_port = mn_ntohl(ctx->remote_port);
}

MN_INLINE int mn_write_grant(const struct mn_tuple *tuple)
{
	const struct mn_config *config = mn_get_config();
	__u64 expires_ns;

	if (!config)
		return -1;
	expires_ns = bpf_ktime_get_ns() + config->grant_ttl_ns;
	return bpf_map_update_elem(MAP(mn_grant), tuple, &expires_ns, BPF_ANY);
}

#endif
