/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Copyright the meshnode authors. See bpf/LICENSE. */
/*
 * sockops of the pods' cgroup: follow the connections that connect() decided on.
 *
 * At TCP_CONNECT_CB the source port is known and the SYN has not left yet: the original destination
 * is filed for ztunnel, a direct connection is listed and by that granted. Of most direct ones
 * connect() keeps nothing; what is to be known of them is asked again. Fail-closed: without its
 * entry in mn_flow a connection could not be found again when policy changes; it is not granted
 * either and ends at ztunnel's plaintext listener. Without an original destination ztunnel refuses.
 *
 * The kernel calls a dozen times per connection. What does not matter returns before any lookup.
 */
#include "pacing.h"
#include "telemetry.h"
#include "tuple.h"
#include "verdict.h"

/* Numbers of enum tcp_state (net/tcp_states.h), which is no part of the user space API. */
enum mn_tcp_state {
	MN_TCP_FIN_WAIT1 = 4,
	MN_TCP_FIN_WAIT2 = 5,
	MN_TCP_CLOSE = 7,
	MN_TCP_CLOSE_WAIT = 8,
	MN_TCP_LAST_ACK = 9,
	MN_TCP_CLOSING = 11,
};

MN_INLINE int mn_has_sent_fin(__u32 state)
{
	return state == MN_TCP_FIN_WAIT1 || state == MN_TCP_FIN_WAIT2 || state == MN_TCP_CLOSING ||
	       state == MN_TCP_LAST_ACK;
}

MN_INLINE int mn_has_peer_fin(__u32 state)
{
	return state == MN_TCP_CLOSE_WAIT || state == MN_TCP_CLOSING || state == MN_TCP_LAST_ACK;
}

MN_INLINE void mn_file_orig_dst(struct bpf_sock_ops *ctx, const struct mn_sock *sock)
{
	struct mn_client_key key = {.netns_cookie = sock->netns_cookie, .port = ctx->local_port};
	struct mn_orig_dst value = {.addr = sock->orig, .port = sock->orig_port};
	struct mn_tuple tuple = {};

	mn_tuple_of(ctx, &tuple);
	key.addr = tuple.src;
	if (bpf_map_update_elem(MAP(mn_orig_dst), &key, &value, BPF_ANY))
		mn_count(MN_R_ORIG_DST_FAILED);
}

/* 0 if the connection is listed, and by that granted. */
MN_INLINE int mn_list_flow(struct bpf_sock_ops *ctx, const struct mn_tuple *tuple,
			   struct mn_flow *flow)
{
	const struct mn_config *config = mn_get_config();
	int error;

	if (!config) {
		mn_count(MN_R_GRANT_FAILED);
		return -1;
	}
	flow->socket_cookie = mn_socket_cookie(ctx);
	/* Not from connect(): with TCP_FASTOPEN_CONNECT the SYN waits for the first bytes. */
	flow->expires_ns = bpf_ktime_get_ns() + config->grant_ttl_ns;
	error = bpf_map_update_elem(MAP(mn_flow), tuple, flow, BPF_ANY);
	mn_count(error ? MN_R_FLOW_FULL : MN_R_GRANTED);
	return error;
}

MN_INLINE void mn_grant_direct(struct bpf_sock_ops *ctx, const struct mn_sock *sock)
{
	struct mn_tuple tuple = {};
	struct mn_flow flow = {
		.netns_cookie = sock->netns_cookie,
		.start_ns = sock->start_ns,
		.src_workload = sock->src_workload,
		.dst_workload = sock->dst_workload,
		.src_class = sock->src_class,
		.dst_class = sock->dst_class,
	};

	mn_tuple_of(ctx, &tuple);
	mn_list_flow(ctx, &tuple, &flow);
}

MN_INLINE void mn_follow(struct bpf_sock_ops *ctx)
{
	bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
}

MN_INLINE void mn_on_connect(struct bpf_sock_ops *ctx, struct mn_sock *sock)
{
	if (sock->path == MN_PATH_CAPTURED) {
		mn_file_orig_dst(ctx, sock);
		return;
	}
	mn_follow(ctx);
	if (sock->path == MN_PATH_DIRECT)
		mn_grant_direct(ctx, sock);
}

MN_INLINE void mn_on_established(struct bpf_sock_ops *ctx, struct mn_sock *sock)
{
	struct mn_stats *stats;

	if (sock->path == MN_PATH_CAPTURED)
		return;
	sock->flags |= MN_SOCK_ESTABLISHED;
	stats = mn_get_stats(sock);
	if (stats)
		stats->opened += 1;
}

/* bytes_acked counts our SYN and FIN, bytes_received the peer's FIN: no payload. */
MN_INLINE __u64 mn_payload_sent(struct bpf_sock_ops *ctx, const struct mn_sock *sock)
{
	__u64 acked = ctx->bytes_acked;

	if (acked && sock->flags & MN_SOCK_ESTABLISHED)
		acked -= 1;
	if (acked && mn_has_sent_fin(ctx->args[0]) && ctx->snd_una == ctx->snd_nxt)
		acked -= 1;
	return acked;
}

MN_INLINE __u64 mn_payload_received(struct bpf_sock_ops *ctx, const struct mn_sock *sock)
{
	__u64 received = ctx->bytes_received;
	/* From FIN_WAIT2 there is no further state to see: what came last was the FIN. */
	int fin = mn_has_peer_fin(ctx->args[0]) ||
		  (ctx->args[0] == MN_TCP_FIN_WAIT2 && received > sock->received_at_fin);

	return received && fin ? received - 1 : received;
}

/* What was never established, or is cut, is always told and counted by its event: the statistics do
 * not say why a connection ended. Of the others only some are told. */
MN_INLINE void mn_report_close(struct bpf_sock_ops *ctx, struct mn_sock *sock,
			       const struct mn_tuple *tuple, int cut)
{
	__u64 sent = mn_payload_sent(ctx, sock);
	__u64 received = mn_payload_received(ctx, sock);
	struct mn_stats *stats = mn_get_stats(sock);
	struct mn_event *event;
	__u32 counted = 0;

	if (stats && sock->flags & MN_SOCK_ESTABLISHED) {
		counted = MN_COUNTED_OPEN;
		if (!cut) {
			counted |= MN_COUNTED_CLOSE;
			stats->closed += 1;
			stats->bytes_sent += sent;
			stats->bytes_received += received;
		}
		stats->retransmits += ctx->total_retrans;
		stats->rtt_us_sum += ctx->srtt_us >> 3;
		stats->rtt_samples += 1;
	} else if (stats) {
		stats->failed += 1;
	}
	if (stats && counted & MN_COUNTED_CLOSE && !mn_may_tell(stats))
		return;
	event = mn_event_start(MN_EVENT_CLOSED, MN_R_NONE);
	if (!event)
		return;
	event->netns_cookie = sock->netns_cookie;
	event->duration_ns = event->time_ns - sock->start_ns;
	event->bytes_sent = sent;
	event->bytes_received = received;
	event->orig = sock->orig;
	event->tuple = *tuple;
	event->src_workload = sock->src_workload;
	event->dst_workload = sock->dst_workload;
	event->orig_port = sock->orig_port;
	event->path = sock->path;
	event->established = !!(sock->flags & MN_SOCK_ESTABLISHED);
	event->counted = counted;
	bpf_ringbuf_submit(event, 0);
}

MN_INLINE void mn_on_close(struct bpf_sock_ops *ctx, struct mn_sock *sock)
{
	struct mn_tuple tuple = {};
	struct mn_flow *flow;
	int cut = 0;

	mn_tuple_of(ctx, &tuple);
	if (sock->path == MN_PATH_DIRECT) {
		flow = bpf_map_lookup_elem(MAP(mn_flow), &tuple);
		cut = flow && flow->cut;
		bpf_map_delete_elem(MAP(mn_flow), &tuple);
	}
	mn_report_close(ctx, sock, &tuple, cut);
	sock->path = MN_PATH_NONE;
}

MN_INLINE void mn_on_state(struct bpf_sock_ops *ctx, struct mn_sock *sock)
{
	/* The socket dialled something else before, and is followed from then on: ztunnel tells. */
	if (sock->path == MN_PATH_CAPTURED)
		return;
	if (ctx->args[1] == MN_TCP_CLOSE)
		mn_on_close(ctx, sock);
	else
		sock->received_at_fin = ctx->bytes_received;
}

/* connect() kept nothing: the connection is none of ours, or it is direct and all of it can be asked
 * again. What policy says by now counts: without a grant the SYN ends at ztunnel, which judges. */
MN_INLINE void mn_on_plain_connect(struct bpf_sock_ops *ctx, const struct bpf_sock *sk)
{
	const struct mn_config *config;
	const struct mn_workload *to;
	const struct mn_pod *pod;
	struct mn_tuple tuple = {};
	struct mn_flow flow = {};
	__u32 policy_reason = 0;

	/* ztunnel's own. Its sockets to applications stay within their pod. */
	if (sk->mark == MN_OUTBOUND_MARK)
		return;
	flow.netns_cookie = bpf_get_netns_cookie(ctx);
	pod = bpf_map_lookup_elem(MAP(mn_enrolled), &flow.netns_cookie);
	if (!pod || pod->flags)
		return;
	mn_tuple_of(ctx, &tuple);
	to = bpf_map_lookup_elem(MAP(mn_workload), &tuple.dst);
	if (!to || !(to->flags & MN_WORKLOAD_ENROLLED) || to->workload == pod->workload)
		return;
	config = mn_get_config();
	if (!config || config->flags & MN_CONFIG_ENCRYPT)
		return;
	if (mn_local_verdict(pod, to, tuple.dst_port, &policy_reason) != MN_VERDICT_ALLOW)
		return;
	flow.start_ns = bpf_ktime_get_ns();
	flow.src_workload = pod->workload;
	flow.dst_workload = to->workload;
	flow.src_class = pod->src_class;
	flow.dst_class = to->dst_class;
	if (!mn_list_flow(ctx, &tuple, &flow))
		mn_follow(ctx);
}

/* What socket storage would say of a direct connection. */
MN_INLINE void mn_sock_of(struct bpf_sock_ops *ctx, const struct mn_tuple *tuple,
			  const struct mn_flow *flow, struct mn_sock *sock)
{
	__u32 received = (__u32)(ctx->bytes_received << MN_SEEN_SHIFT);

	sock->netns_cookie = flow->netns_cookie;
	sock->start_ns = flow->start_ns;
	/* Equal or not is all that is asked. */
	if (received == (flow->seen & ~(__u32)MN_SEEN_ESTABLISHED))
		sock->received_at_fin = ctx->bytes_received;
	sock->orig = tuple->dst;
	sock->dst = tuple->dst;
	sock->src_workload = flow->src_workload;
	sock->dst_workload = flow->dst_workload;
	sock->orig_port = tuple->dst_port;
	sock->port = tuple->dst_port;
	sock->path = MN_PATH_DIRECT;
	sock->flags = flow->seen & MN_SEEN_ESTABLISHED ? MN_SOCK_ESTABLISHED : 0;
}

/* A connection without storage that mn_on_plain_connect() has listed. */
MN_INLINE void mn_on_flow(struct bpf_sock_ops *ctx, __u32 op)
{
	struct mn_tuple tuple = {};
	struct mn_sock sock = {};
	struct mn_stats *stats;
	struct mn_flow *flow;
	int cut;

	mn_tuple_of(ctx, &tuple);
	flow = bpf_map_lookup_elem(MAP(mn_flow), &tuple);
	if (!flow)
		return;
	if (op == BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB)
		flow->seen |= MN_SEEN_ESTABLISHED;
	else if (ctx->args[1] != MN_TCP_CLOSE) {
		flow->seen = (__u32)(ctx->bytes_received << MN_SEEN_SHIFT) |
			     (flow->seen & MN_SEEN_ESTABLISHED);
		return;
	}
	mn_sock_of(ctx, &tuple, flow, &sock);
	if (op == BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB) {
		stats = mn_get_stats(&sock);
		if (stats)
			stats->opened += 1;
		return;
	}
	cut = flow->cut;
	bpf_map_delete_elem(MAP(mn_flow), &tuple);
	mn_report_close(ctx, &sock, &tuple, cut);
}

/* What the pod answers is paced like what it asks. Its own loopback is left alone. */
MN_INLINE void mn_on_accept(struct bpf_sock_ops *ctx)
{
	struct mn_tuple tuple = {};
	const struct mn_pod *pod;
	__u64 cookie = bpf_get_netns_cookie(ctx);

	pod = bpf_map_lookup_elem(MAP(mn_enrolled), &cookie);
	if (!pod || !pod->pacing)
		return;
	mn_tuple_of(ctx, &tuple);
	if (!mn_addr_is_loopback(&tuple.dst))
		mn_pace(ctx, pod->pacing);
}

MN_PROG(mn_sockops)(struct bpf_sock_ops *ctx)
{
	__u32 op = ctx->op;
	struct bpf_sock *sk;
	struct mn_sock *sock;

	if (op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB) {
		mn_on_accept(ctx);
		return 1;
	}

	if (op != BPF_SOCK_OPS_TCP_CONNECT_CB && op != BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB &&
	    op != BPF_SOCK_OPS_STATE_CB)
		return 1;
	if (op == BPF_SOCK_OPS_STATE_CB && ctx->args[1] != MN_TCP_CLOSE &&
	    ctx->args[1] != MN_TCP_FIN_WAIT2)
		return 1;
	sk = ctx->sk;
	if (!sk)
		return 1;
	sock = bpf_sk_storage_get(MAP(mn_sock), sk, 0, 0);
	if (!sock) {
		if (op == BPF_SOCK_OPS_TCP_CONNECT_CB)
			mn_on_plain_connect(ctx, sk);
		else if (ctx->bpf_sock_ops_cb_flags & BPF_SOCK_OPS_STATE_CB_FLAG)
			mn_on_flow(ctx, op);
		return 1;
	}
	if (sock->path == MN_PATH_NONE)
		return 1;
	if (op == BPF_SOCK_OPS_TCP_CONNECT_CB)
		mn_on_connect(ctx, sock);
	else if (op == BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB)
		mn_on_established(ctx, sock);
	else
		mn_on_state(ctx, sock);
	return 1;
}
