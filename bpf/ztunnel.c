/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Copyright the meshnode authors. See bpf/LICENSE. */
/*
 * Hooks of the agent's own cgroup.
 *
 * mn_zt_sockops: ztunnel's connections to the application of a pod carry the client's address, so
 * sk_lookup would take them for new plaintext from outside. Sockets that the holder has marked get a
 * grant. The mark alone proves nothing (a pod with CAP_NET_ADMIN can set it); being in this cgroup
 * does.
 * mn_origdst: answers SO_ORIGINAL_DST as netfilter would, so that ztunnel needs one getsockopt().
 * Scoped to this cgroup because a getsockopt program taxes every getsockopt() below it.
 *
 * Fail-closed: no entry, no answer (ENOPROTOOPT or ENOENT from the kernel), no grant.
 */
#include "telemetry.h"
#include "tuple.h"

#define MN_SO_ORIGINAL_DST 80
#define MN_SOL_IP 0
#define MN_SOL_IPV6 41
#define MN_TCP_STATE_CLOSE 7

struct mn_sockaddr_in {
	__u16 family;
	__be16 port;
	__be32 addr;
	__u64 zero;
};

struct mn_sockaddr_in6 {
	__u16 family;
	__be16 port;
	__be32 flowinfo;
	__be32 addr[4];
	__u32 scope_id;
};

MN_PROG(mn_zt_sockops)(struct bpf_sock_ops *ctx)
{
	struct mn_tuple tuple = {};
	__u32 op = ctx->op;
	struct bpf_sock *sk = ctx->sk;

	if (op != BPF_SOCK_OPS_TCP_CONNECT_CB && op != BPF_SOCK_OPS_STATE_CB)
		return 1;
	if (!sk || sk->mark != MN_ZTUNNEL_MARK)
		return 1;
	if (op == BPF_SOCK_OPS_TCP_CONNECT_CB) {
		mn_tuple_of(ctx, &tuple);
		mn_count(mn_write_grant(&tuple) ? MN_R_ZT_GRANT_FAILED : MN_R_ZT_GRANTED);
		bpf_sock_ops_cb_flags_set(ctx,
					  ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
	} else if (ctx->args[1] == MN_TCP_STATE_CLOSE) {
		mn_tuple_of(ctx, &tuple);
		bpf_map_delete_elem(MAP(mn_grant), &tuple);
	}
	return 1;
}

MN_INLINE void mn_client_addr(const struct bpf_sock *sk, struct mn_addr *addr)
{
	if (sk->family == MN_AF_INET6) {
		addr->word[0] = sk->dst_ip6[0];
		addr->word[1] = sk->dst_ip6[1];
		addr->word[2] = sk->dst_ip6[2];
		addr->word[3] = sk->dst_ip6[3];
		MN_KEEP_APART();
	} else {
		mn_addr_v4(addr, sk->dst_ip4);
		MN_KEEP_APART();
	}
}

/* Original destination of an accepted socket. The map entry is consumed by the first question and
 * kept with the socket for the next ones. */
MN_INLINE int mn_find_orig_dst(struct bpf_sockopt *ctx, struct bpf_sock *sk,
			       struct mn_orig_dst *found)
{
	struct mn_sock *kept = bpf_sk_storage_get(MAP(mn_sock), sk, 0, 0);
	struct mn_client_key key = {};
	struct mn_orig_dst *value;

	if (kept && kept->path == MN_PATH_CAPTURED) {
		found->addr = kept->orig;
		found->port = kept->orig_port;
		return 1;
	}
	key.netns_cookie = bpf_get_netns_cookie(ctx);
	key.port = mn_ntohs(sk->dst_port);
	mn_client_addr(sk, &key.addr);
	value = bpf_map_lookup_elem(MAP(mn_orig_dst), &key);
	if (!value)
		return 0;
	*found = *value;
	kept = bpf_sk_storage_get(MAP(mn_sock), sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!kept)
		return 1;
	kept->orig = found->addr;
	kept->orig_port = found->port;
	kept->path = MN_PATH_CAPTURED;
	bpf_map_delete_elem(MAP(mn_orig_dst), &key);
	return 1;
}

MN_INLINE void mn_answered(struct bpf_sockopt *ctx, __u32 bytes)
{
	ctx->optlen = bytes;
	/* Merged into one 64-bit store the verifier would refuse both. */
	MN_KEEP_APART();
	ctx->retval = 0;
}

MN_INLINE void mn_answer4(struct bpf_sockopt *ctx, const struct mn_orig_dst *dst)
{
	struct mn_sockaddr_in *out = ctx->optval;

	if ((void *)(out + 1) > ctx->optval_end || !mn_addr_is_v4(&dst->addr))
		return;
	out->family = MN_AF_INET;
	out->port = mn_htons(dst->port);
	out->addr = dst->addr.word[3];
	out->zero = 0;
	mn_answered(ctx, sizeof(*out));
}

MN_INLINE void mn_answer6(struct bpf_sockopt *ctx, const struct mn_orig_dst *dst)
{
	struct mn_sockaddr_in6 *out = ctx->optval;

	if ((void *)(out + 1) > ctx->optval_end)
		return;
	out->family = MN_AF_INET6;
	out->port = mn_htons(dst->port);
	out->flowinfo = 0;
	out->addr[0] = dst->addr.word[0];
	out->addr[1] = dst->addr.word[1];
	out->addr[2] = dst->addr.word[2];
	out->addr[3] = dst->addr.word[3];
	out->scope_id = 0;
	mn_answered(ctx, sizeof(*out));
}

MN_PROG(mn_origdst)(struct bpf_sockopt *ctx)
{
	const struct mn_config *config;
	struct mn_orig_dst dst = {};
	struct bpf_sock *sk = ctx->sk;
	__u32 level = ctx->level;

	if (ctx->optname != MN_SO_ORIGINAL_DST || (level != MN_SOL_IP && level != MN_SOL_IPV6))
		return 1;
	config = mn_get_config();
	if (!config || !sk || sk->protocol != MN_IPPROTO_TCP ||
	    sk->src_port != config->outbound_port)
		return 1;
	if (!mn_find_orig_dst(ctx, sk, &dst)) {
		mn_count(MN_R_ORIG_DST_MISSING);
		return 1;
	}
	mn_count(MN_R_ORIG_DST_FOUND);
	if (level == MN_SOL_IP)
		mn_answer4(ctx, &dst);
	else
		mn_answer6(ctx, &dst);
	return 1;
}
