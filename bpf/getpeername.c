/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Copyright the meshnode authors. See bpf/LICENSE. */
/*
 * cgroup/getpeername4 and 6 of the pods' cgroup: an application that asks whom it talks to is told
 * the address it dialled, not ztunnel's or a backend's. Sockets that nobody rewrote are left alone.
 */
#include "addr.h"
#include "maps.h"

MN_INLINE struct mn_sock *mn_rewritten(struct bpf_sock_addr *ctx)
{
	struct mn_sock *sock = bpf_sk_storage_get(MAP(mn_sock), ctx->sk, 0, 0);

	return sock && sock->flags & MN_SOCK_REWRITTEN ? sock : 0;
}

MN_PROG(mn_peer4)(struct bpf_sock_addr *ctx)
{
	struct mn_sock *sock = mn_rewritten(ctx);

	if (sock) {
		ctx->user_ip4 = sock->orig.word[3];
		ctx->user_port = mn_htons(sock->orig_port);
	}
	return 1;
}

MN_PROG(mn_peer6)(struct bpf_sock_addr *ctx)
{
	struct mn_sock *sock = mn_rewritten(ctx);

	if (sock) {
		ctx->user_ip6[0] = sock->orig.word[0];
		ctx->user_ip6[1] = sock->orig.word[1];
		ctx->user_ip6[2] = sock->orig.word[2];
		ctx->user_ip6[3] = sock->orig.word[3];
		ctx->user_port = mn_htons(sock->orig_port);
	}
	return 1;
}
