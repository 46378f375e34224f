/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Copyright the meshnode authors. See bpf/LICENSE. */
/*
 * All that the kernel programs and user space share: keys, values, numbers.
 *
 * bpf/layout.py mirrors this file; a test compiles it on the host and compares every size, offset
 * and enum value. A change of any struct raises SCHEMA_VERSION in agent/paths.py, because pinned
 * maps outlive the programs. Widest field first, padding explicit and always zero (keys are
 * compared byte by byte). Ports are in host order unless the type says __be16.
 */
#ifndef MN_LAYOUT_H
#define MN_LAYOUT_H

#include <linux/types.h>

#define MN_SOURCE_HASH_BYTES 32
#define MN_LPM_COOKIE_BITS 64
/* SO_MARK of sockets that ztunnel opens towards the application of a pod. */
#define MN_ZTUNNEL_MARK 0x539
/* SO_MARK of sockets with which ztunnel dials away from a pod. */
#define MN_OUTBOUND_MARK 0x53a

/* An address of either family; IPv4 as ::ffff:a.b.c.d (RFC 4291, 2.5.5.2). */
struct mn_addr {
	__be32 word[4];
};

/* Why a hook did what it did: index into mn_reason, and a metric label. Numbers never change. */
enum mn_reason {
	MN_R_NONE = 0,
	/* connect: left alone */
	MN_R_PASS_AGENT = 1,
	MN_R_PASS_NOT_ENROLLED = 2,
	MN_R_PASS_EXCLUDED_UID = 3,
	MN_R_PASS_EXCLUDED_PORT = 4,
	MN_R_PASS_EXCLUDED_CIDR = 5,
	MN_R_PASS_LOOPBACK = 6,
	MN_R_PASS_SELF = 7,
	MN_R_PASS_UNKNOWN = 8,
	MN_R_PASS_OUTSIDE = 9,
	MN_R_SERVICE_OUTSIDE = 10,
	/* connect: same node */
	MN_R_DIRECT = 11,
	MN_R_DIRECT_SERVICE = 12,
	/* connect: to ztunnel */
	MN_R_CAPTURED = 13,
	MN_R_CAPTURED_SERVICE = 14,
	/* connect: refused */
	MN_R_DENY_POLICY = 15,
	MN_R_DENY_NO_ENDPOINT = 16,
	MN_R_DENY_BACKEND_MISSING = 17,
	MN_R_DENY_NO_CONFIG = 18,
	MN_R_DENY_STORAGE = 19,
	MN_R_DENY_BOUND_DEVICE = 20,
	MN_R_DENY_CAPTURE_PORT = 21,
	/* sockops */
	MN_R_GRANTED = 22,
	MN_R_GRANT_FAILED = 23,
	MN_R_ORIG_DST_FAILED = 24,
	MN_R_FLOW_FULL = 25,
	MN_R_STATS_FULL = 26,
	MN_R_EVENT_LOST = 27,
	/* getsockopt on the agent's cgroup */
	MN_R_ORIG_DST_FOUND = 28,
	MN_R_ORIG_DST_MISSING = 29,
	/* sk_lookup: let through */
	MN_R_IN_LOCAL = 30,
	MN_R_IN_HBONE = 31,
	MN_R_IN_PROBE = 32,
	MN_R_IN_EXCLUDED = 33,
	MN_R_IN_GRANTED = 34,
	/* sk_lookup: to ztunnel's plaintext listener */
	MN_R_IN_ZTUNNEL = 35,
	MN_R_IN_GRANT_EXPIRED = 36,
	/* sk_lookup: dropped */
	MN_R_DROP_CAPTURE_PORT = 37,
	MN_R_DROP_NO_LISTENER = 38,
	MN_R_DROP_ASSIGN = 39,
	MN_R_DROP_NO_CONFIG = 40,
	/* sockops on the agent's cgroup */
	MN_R_ZT_GRANTED = 41,
	MN_R_ZT_GRANT_FAILED = 42,
	MN_R_COUNT = 43,
};

enum mn_verdict {
	MN_VERDICT_PROXY = 0,
	MN_VERDICT_ALLOW = 1,
	MN_VERDICT_DENY = 2,
};

/* How a connection's bytes travel. */
enum mn_path {
	MN_PATH_NONE = 0,
	MN_PATH_DIRECT = 1,
	MN_PATH_PASSTHROUGH = 2,
	MN_PATH_CAPTURED = 3,
};

enum mn_event_kind {
	MN_EVENT_DENIED = 1,
	MN_EVENT_CLOSED = 2,
};

enum mn_exclusion {
	MN_EXCLUDE_PORT = 1,
	MN_EXCLUDE_UID = 2,
	MN_EXCLUDE_INBOUND = 3,
};

enum mn_config_flag {
	/* sameNode: encrypt; no direct path, every local pair goes through ztunnel. */
	MN_CONFIG_ENCRYPT = 1,
	/* A map was too small for the mesh: what is not found may still be in the mesh, so it goes to
	 * ztunnel, which knows everything. */
	MN_CONFIG_INCOMPLETE = 2,
};

/* What exclusions a pod has at all: saves three lookups for those that have none. */
enum mn_pod_flag {
	MN_POD_EXCLUDES_PORT = 1,
	MN_POD_EXCLUDES_UID = 2,
	MN_POD_EXCLUDES_CIDR = 4,
};

enum mn_workload_flag {
	/* In the mesh, on whatever node. */
	MN_WORKLOAD_ENROLLED = 1,
	/* Traffic to it must pass a waypoint: never direct. */
	MN_WORKLOAD_WAYPOINT = 2,
	/* Has inbound ports that are left alone. */
	MN_WORKLOAD_EXCLUDES_INBOUND = 4,
};

enum mn_service_flag {
	/* Behind a waypoint: the virtual address always goes to ztunnel. */
	MN_SERVICE_WAYPOINT = 1,
};

enum mn_sock_flag {
	MN_SOCK_REWRITTEN = 1,
	MN_SOCK_ESTABLISHED = 2,
};

/* mn_config[0]. A zero outbound_port means "not configured yet": enrolled pods are refused. */
struct mn_config {
	__u64 agent_cgroup;
	__u64 grant_ttl_ns;
	__u32 agent_level;
	__u32 flags;
	__u16 outbound_port;
	__u16 plaintext_port;
	__u16 hbone_port;
	__u16 pad;
};

/* mn_meta[0]. Written last by the loader: a matching hash means everything is in place. */
struct mn_meta {
	__u32 schema_version;
	__u32 pad;
	__u8 source_hash[MN_SOURCE_HASH_BYTES];
};

/* mn_enrolled: netns cookie (__u64) -> pod of this node whose sockets are captured. */
struct mn_pod {
	__u32 workload;
	__u32 src_class;
	__u32 flags;
	__u32 pacing; /* bytes per second of each connection; 0 = no limit */
};

/* mn_workload: address -> workload. netns_cookie is 0 unless it is enrolled on this node. */
struct mn_workload {
	__u64 netns_cookie;
	__u32 workload;
	__u32 dst_class;
	__u32 flags;
	__u32 pad;
};

struct mn_service_key {
	struct mn_addr vip;
	__u16 port;
	__u16 pad;
};

struct mn_service {
	__u32 service;
	__u32 backends;
	__u32 flags;
	__u32 pad;
};

/* Index runs from 0 to mn_service.backends - 1. */
struct mn_backend_key {
	__u32 service;
	__u32 index;
};

struct mn_backend {
	struct mn_addr addr;
	__u16 port;
	__u16 pad;
};

struct mn_verdict_key {
	__u32 src_class;
	__u32 dst_class;
	__u32 port;
};

struct mn_verdict_value {
	__u32 verdict;
	__u32 policy_reason;
};

/* mn_exclude: one set for ports and user ids; the value is a __u32 without meaning. */
struct mn_exclude_key {
	__u64 netns_cookie;
	__u32 kind;
	__u32 value;
};

/* mn_exclude_net (LPM trie). The cookie is split so that nothing needs padding after prefix_bits;
 * prefix_bits counts the cookie's 64 bits too. */
struct mn_exclude_net {
	__u32 prefix_bits;
	__u32 cookie_low;
	__u32 cookie_high;
	struct mn_addr addr;
};

/* mn_orig_dst: who dialled what, from TCP_CONNECT_CB until ztunnel has asked for it. */
/* The source address is part of the key: a port alone may be in use by one socket of each family,
 * and by sockets bound to different addresses. */
struct mn_client_key {
	__u64 netns_cookie;
	struct mn_addr addr;
	__u32 port;
	__u32 pad;
};

struct mn_orig_dst {
	struct mn_addr addr;
	__u16 port;
	__u16 pad;
};

/* mn_grant: a SYN of exactly this tuple, from ztunnel, may reach the application. Value: expiry,
 * __u64, in nanoseconds of CLOCK_MONOTONIC. */
struct mn_tuple {
	struct mn_addr src;
	struct mn_addr dst;
	__u16 src_port;
	__u16 dst_port;
};

/* mn_sock (socket storage): what connect() decided, for the hooks that run later. */
struct mn_sock {
	__u64 netns_cookie;
	__u64 start_ns;
	__u64 received_at_fin;
	struct mn_addr orig;
	struct mn_addr dst;
	__u32 src_workload;
	__u32 dst_workload;
	__u32 src_class;
	__u32 dst_class;
	__u16 orig_port;
	__u16 port;
	__u8 path;
	__u8 flags;
	__u16 pad;
};

/* mn_flow: tuple -> open direct connection. Until expires_ns its SYN may reach the application: what
 * is not listed is not granted. */
struct mn_flow {
	__u64 netns_cookie;
	__u64 socket_cookie;
	__u64 start_ns;
	__u64 expires_ns;
	__u32 src_workload;
	__u32 dst_workload;
	__u32 src_class;
	__u32 dst_class;
	__u32 cut;  /* user space is about to end it */
	__u32 seen; /* enum mn_seen; of connections without socket storage */
};

/* Above MN_SEEN_SHIFT: the low bits of bytes_received when our FIN was acknowledged. */
enum mn_seen {
	MN_SEEN_ESTABLISHED = 1,
	MN_SEEN_SHIFT = 1,
};

/* vip: what was dialled, where that was a service; else zero. */
struct mn_stats_key {
	__u32 src_workload;
	__u32 dst_workload;
	struct mn_addr vip;
	__u16 port;
	__u8 path;
	__u8 pad;
};

/* mn_stats, per CPU. Bytes are payload; rtt_us_sum / rtt_samples is the mean smoothed RTT. */
struct mn_stats {
	__u64 opened;
	__u64 closed;
	__u64 failed;
	__u64 bytes_sent;
	__u64 bytes_received;
	__u64 retransmits;
	__u64 rtt_us_sum;
	__u64 rtt_samples;
	__u64 untold; /* closed ones without an event */
	__u64 told;   /* events in this period */
	__u64 period;
};

/* mn_events (ring buffer). For MN_EVENT_DENIED the source address is unknown and zero. */
struct mn_event {
	__u64 time_ns;
	__u64 netns_cookie;
	__u64 duration_ns;
	__u64 bytes_sent;
	__u64 bytes_received;
	struct mn_addr orig;
	struct mn_tuple tuple;
	__u32 src_workload;
	__u32 dst_workload;
	__u32 reason;
	__u32 policy_reason;
	__u16 orig_port;
	__u8 kind;
	__u8 path;
	__u32 established;
	__u32 counted; /* enum mn_counted */
};

/* What of a connection mn_stats has: user space counts the rest by the event. */
enum mn_counted {
	MN_COUNTED_OPEN = 1,
	MN_COUNTED_CLOSE = 2,
};

#endif
