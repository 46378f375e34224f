/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Copyright the meshnode authors. See bpf/LICENSE. */
/*
 * cgroup/connect4 and connect6 of the pods' cgroup: where a new TCP connection goes.
 *
 * Fail-open: processes of the agent, namespaces that are not enrolled, exclusions, loopback, the
 * pod itself, destinations the mesh does not know. None of these is mesh traffic.
 * Fail-closed: everything else. A full map, missing settings or a service without endpoints refuse
 * the connection (ECONNREFUSED); a verdict that is not known goes to ztunnel, which decides.
 *
 * Only sockets of TCP; MPTCP comes here once for each subflow, as TCP.
 */
#include "addr.h"
#include "config.h"
#include "pacing.h"
#include "telemetry.h"
#include "verdict.h"

enum mn_step {
	MN_LEAVE_ALONE = 0,
	MN_REWRITE = 1,
	/* not a verdict: go on with the next question */
	MN_GO_ON = 2,
};

/* One connect() while it is being decided. */
struct mn_conn {
	__u64 netns_cookie;
	struct mn_addr orig;
	/* what will be dialled: the backend of a service, else orig */
	struct mn_addr dst;
	__u16 orig_port;
	__u16 port;
	__u32 is_service;
	__u32 service_flags;
	__u32 dst_workload;
	__u32 dst_class;
	__u32 has_storage;
};

MN_INLINE int mn_pass(__u32 reason)
{
	mn_count(reason);
	return MN_LEAVE_ALONE;
}

MN_INLINE int mn_deny(const struct mn_conn *conn, const struct mn_pod *pod, __u32 reason,
		      __u32 policy_reason)
{
	struct mn_event *event;

	mn_count(reason);
	event = mn_event_start(MN_EVENT_DENIED, reason);
	if (event) {
		event->netns_cookie = conn->netns_cookie;
		event->orig = conn->orig;
		event->orig_port = conn->orig_port;
		event->tuple.dst = conn->dst;
		event->tuple.dst_port = conn->port;
		event->src_workload = pod->workload;
		event->dst_workload = conn->dst_workload;
		event->policy_reason = policy_reason;
		bpf_ringbuf_submit(event, 0);
	}
	return -MN_ECONNREFUSED;
}

/* The hooks so far run on the subflow; getpeername() runs on the MPTCP socket above it, which the
 * application holds. Before 5.19 it shows the rewritten address. */
MN_INLINE void mn_tell_mptcp(struct bpf_sock_addr *ctx, const struct mn_sock *sock)
{
#if MN_HAVE_MPTCP
	void *owner = mn_to_mptcp(ctx->sk);
	struct mn_sock *told;

	if (!owner)
		return;
	told = bpf_sk_storage_get(MAP(mn_sock), owner, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!told)
		return;
	told->orig = sock->orig;
	told->orig_port = sock->orig_port;
	told->flags = sock->flags;
#else
	(void)ctx;
	(void)sock;
#endif
}

/* Keep for the later hooks what was decided; NULL if there is no memory for it. */
MN_INLINE struct mn_sock *mn_remember(struct bpf_sock_addr *ctx, const struct mn_conn *conn,
				      const struct mn_pod *pod, __u32 path)
{
	struct mn_sock *sock =
		bpf_sk_storage_get(MAP(mn_sock), ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);

	if (!sock)
		return 0;
	sock->netns_cookie = conn->netns_cookie;
	sock->start_ns = bpf_ktime_get_ns();
	sock->received_at_fin = 0;
	sock->orig = conn->orig;
	sock->dst = conn->dst;
	sock->src_workload = pod->workload;
	sock->dst_workload = conn->dst_workload;
	sock->src_class = pod->src_class;
	sock->dst_class = conn->dst_class;
	sock->orig_port = conn->orig_port;
	sock->port = conn->port;
	sock->path = path;
	sock->flags = path == MN_PATH_CAPTURED || conn->is_service ? MN_SOCK_REWRITTEN : 0;
	mn_tell_mptcp(ctx, sock);
	return sock;
}

MN_INLINE int mn_is_excluded(const struct mn_conn *conn, const struct mn_pod *pod)
{
	struct mn_exclude_key key = {.netns_cookie = conn->netns_cookie};
	struct mn_exclude_net net = {.prefix_bits = MN_LPM_COOKIE_BITS + 128};

	if (pod->flags & MN_POD_EXCLUDES_PORT) {
		key.kind = MN_EXCLUDE_PORT;
		key.value = conn->orig_port;
		if (bpf_map_lookup_elem(MAP(mn_exclude), &key))
			return MN_R_PASS_EXCLUDED_PORT;
	}
	if (pod->flags & MN_POD_EXCLUDES_UID) {
		key.kind = MN_EXCLUDE_UID;
		key.value = (__u32)bpf_get_current_uid_gid();
		if (bpf_map_lookup_elem(MAP(mn_exclude), &key))
			return MN_R_PASS_EXCLUDED_UID;
	}
	if (pod->flags & MN_POD_EXCLUDES_CIDR) {
		net.cookie_low = (__u32)conn->netns_cookie;
		net.cookie_high = (__u32)(conn->netns_cookie >> 32);
		net.addr = conn->orig;
		if (bpf_map_lookup_elem(MAP(mn_exclude_net), &net))
			return MN_R_PASS_EXCLUDED_CIDR;
	}
	return MN_R_NONE;
}

/* To ztunnel in the pod's own namespace. It learns the original destination, that is the virtual
 * address of a service and not a backend: policy and waypoints need the service. */
MN_INLINE int mn_capture(struct bpf_sock_addr *ctx, struct mn_conn *conn, const struct mn_pod *pod,
			 const struct mn_config *config)
{
	int zero = 0;

	/* A socket bound to a device cannot reach loopback: the SYN would time out. */
	if (ctx->sk->bound_dev_if &&
	    bpf_setsockopt(ctx, 1 /* SOL_SOCKET */, 62 /* SO_BINDTOIFINDEX */, &zero, sizeof(zero)))
		return mn_deny(conn, pod, MN_R_DENY_BOUND_DEVICE, 0);
	if (!mn_remember(ctx, conn, pod, MN_PATH_CAPTURED))
		return mn_deny(conn, pod, MN_R_DENY_STORAGE, 0);
	mn_count(conn->is_service ? MN_R_CAPTURED_SERVICE : MN_R_CAPTURED);
	conn->dst = conn->orig;
	mn_addr_to_loopback(&conn->dst);
	conn->port = config->outbound_port;
	return MN_REWRITE;
}

/* Resolve a service's virtual address to one of its backends. */
MN_INLINE int mn_pick_backend(struct mn_conn *conn, const struct mn_pod *pod)
{
	struct mn_service_key key = {.vip = conn->orig, .port = conn->orig_port};
	const struct mn_service *service = bpf_map_lookup_elem(MAP(mn_service), &key);
	struct mn_backend_key pick = {};
	const struct mn_backend *backend;

	if (!service)
		return MN_GO_ON;
	conn->is_service = 1;
	conn->service_flags = service->flags;
	if (service->flags & MN_SERVICE_WAYPOINT)
		return MN_GO_ON;
	if (!service->backends)
		return mn_deny(conn, pod, MN_R_DENY_NO_ENDPOINT, 0);
	pick.service = service->service;
	pick.index = bpf_get_prandom_u32() % service->backends;
	backend = bpf_map_lookup_elem(MAP(mn_backend), &pick);
	if (!backend)
		return mn_deny(conn, pod, MN_R_DENY_BACKEND_MISSING, 0);
	conn->dst = backend->addr;
	conn->port = backend->port;
	return MN_GO_ON;
}

/* Out of the mesh. Counted; a service still needs its address rewritten. */
MN_INLINE int mn_passthrough(struct bpf_sock_addr *ctx, const struct mn_conn *conn,
			     const struct mn_pod *pod, __u32 reason)
{
	mn_remember(ctx, conn, pod, MN_PATH_PASSTHROUGH);
	if (!conn->is_service)
		return mn_pass(reason);
	mn_count(MN_R_SERVICE_OUTSIDE);
	return MN_REWRITE;
}

/* Whether the later hooks need what connect() decided of a direct connection. Where they do not, they
 * ask again: making and freeing the storage costs more than all the look-ups together. They do where
 * the address was rewritten, where an exclusion may have been the reason that nothing was decided,
 * and where there is storage already. */
MN_INLINE int mn_must_remember(struct bpf_sock_addr *ctx, const struct mn_conn *conn,
			       const struct mn_pod *pod)
{
#if MN_HAVE_MPTCP
	if (mn_to_mptcp(ctx->sk))
		return 1;
#else
	(void)ctx;
#endif
	return conn->is_service || conn->has_storage || pod->flags;
}

MN_INLINE int mn_to_workload(struct bpf_sock_addr *ctx, struct mn_conn *conn,
			     const struct mn_pod *pod, const struct mn_config *config,
			     const struct mn_workload *to)
{
	__u32 policy_reason = 0;
	__u32 verdict = MN_VERDICT_PROXY;

	conn->dst_workload = to->workload;
	conn->dst_class = to->dst_class;
	if (to->workload == pod->workload) {
		mn_remember(ctx, conn, pod, MN_PATH_NONE);
		mn_count(MN_R_PASS_SELF);
		return conn->is_service ? MN_REWRITE : MN_LEAVE_ALONE;
	}
	if (!(to->flags & MN_WORKLOAD_ENROLLED))
		return mn_passthrough(ctx, conn, pod, MN_R_PASS_OUTSIDE);
	if (!(config->flags & MN_CONFIG_ENCRYPT))
		verdict = mn_local_verdict(pod, to, conn->port, &policy_reason);
	if (verdict == MN_VERDICT_DENY)
		return mn_deny(conn, pod, MN_R_DENY_POLICY, policy_reason);
	if (verdict != MN_VERDICT_ALLOW)
		return mn_capture(ctx, conn, pod, config);
	if (mn_must_remember(ctx, conn, pod) && !mn_remember(ctx, conn, pod, MN_PATH_DIRECT))
		return mn_deny(conn, pod, MN_R_DENY_STORAGE, 0);
	mn_count(conn->is_service ? MN_R_DIRECT_SERVICE : MN_R_DIRECT);
	return conn->is_service ? MN_REWRITE : MN_LEAVE_ALONE;
}

MN_INLINE int mn_decide_pod(struct bpf_sock_addr *ctx, struct mn_conn *conn,
			    const struct mn_pod *pod, const struct mn_config *config)
{
	struct mn_sock *stale = bpf_sk_storage_get(MAP(mn_sock), ctx->sk, 0, 0);
	const struct mn_workload *to;
	int step;

	/* The socket may have failed to connect before, to somewhere else. */
	if (stale) {
		conn->has_storage = 1;
		stale->path = MN_PATH_NONE;
		stale->flags = 0;
	}
	if (mn_addr_is_loopback(&conn->orig)) {
		/* Only this program sends connections there; others have no original destination. */
		if (conn->orig_port == config->outbound_port)
			return mn_deny(conn, pod, MN_R_DENY_CAPTURE_PORT, 0);
		return mn_pass(MN_R_PASS_LOOPBACK);
	}
	mn_pace(ctx, pod->pacing);
	step = mn_is_excluded(conn, pod);
	if (step)
		return mn_pass(step);
	step = mn_pick_backend(conn, pod);
	if (step != MN_GO_ON)
		return step;
	if (conn->service_flags & MN_SERVICE_WAYPOINT)
		return mn_capture(ctx, conn, pod, config);
	to = bpf_map_lookup_elem(MAP(mn_workload), &conn->dst);
	if (!to && config->flags & MN_CONFIG_INCOMPLETE)
		return mn_capture(ctx, conn, pod, config);
	if (!to)
		return mn_passthrough(ctx, conn, pod, MN_R_PASS_UNKNOWN);
	return mn_to_workload(ctx, conn, pod, config, to);
}

/* The new destination is in conn->dst and conn->port when MN_REWRITE is returned. */
MN_INLINE int mn_decide(struct bpf_sock_addr *ctx, struct mn_conn *conn)
{
	const struct mn_config *config;
	const struct mn_pod *pod;

	conn->netns_cookie = bpf_get_netns_cookie(ctx);
	pod = bpf_map_lookup_elem(MAP(mn_enrolled), &conn->netns_cookie);
	if (!pod)
		return mn_pass(MN_R_PASS_NOT_ENROLLED);
	conn->port = conn->orig_port;
	conn->dst = conn->orig;
	config = mn_get_config();
	if (!config)
		return mn_deny(conn, pod, MN_R_DENY_NO_CONFIG, 0);
	if (mn_is_agent(config))
		return mn_pass(MN_R_PASS_AGENT);
	return mn_decide_pod(ctx, conn, pod, config);
}

MN_INLINE int mn_is_tcp(const struct bpf_sock_addr *ctx)
{
	return ctx->type == MN_SOCK_STREAM && ctx->protocol == MN_IPPROTO_TCP;
}

/* Without bpf_set_retval (before 5.18) the application sees EPERM. */
MN_INLINE int mn_refuse(int error)
{
#if MN_HAVE_SET_RETVAL
	mn_set_retval(error);
#else
	(void)error;
#endif
	return 0;
}

MN_PROG(mn_connect4)(struct bpf_sock_addr *ctx)
{
	struct mn_conn conn = {};
	int step;

	if (!mn_is_tcp(ctx))
		return 1;
	mn_addr_v4(&conn.orig, ctx->user_ip4);
	conn.orig_port = mn_ntohs(ctx->user_port);
	step = mn_decide(ctx, &conn);
	if (step < 0)
		return mn_refuse(step);
	if (step == MN_REWRITE) {
		ctx->user_ip4 = conn.dst.word[3];
		ctx->user_port = mn_htons(conn.port);
	}
	return 1;
}

/* Also runs for ::ffff:a.b.c.d, which stays in that form through the rewrite. */
MN_PROG(mn_connect6)(struct bpf_sock_addr *ctx)
{
	struct mn_conn conn = {};
	int step;

	if (!mn_is_tcp(ctx))
		return 1;
	conn.orig.word[0] = ctx->user_ip6[0];
	conn.orig.word[1] = ctx->user_ip6[1];
	conn.orig.word[2] = ctx->user_ip6[2];
	conn.orig.word[3] = ctx->user_ip6[3];
	conn.orig_port = mn_ntohs(ctx->user_port);
	step = mn_decide(ctx, &conn);
	if (step < 0)
		return mn_refuse(step);
	if (step == MN_REWRITE) {
		ctx->user_ip6[0] = conn.dst.word[0];
		ctx->user_ip6[1] = conn.dst.word[1];
		ctx->user_ip6[2] = conn.dst.word[2];
		ctx->user_ip6[3] = conn.dst.word[3];
		ctx->user_port = mn_htons(conn.port);
	}
	return 1;
}
