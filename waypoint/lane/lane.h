/* SPDX-License-Identifier: Apache-2.0 */
/* Plain HTTP/1.1 requests whose decision is known, moved without the interpreter.
 *
 * Python judges and routes a request once; the lane repeats that for requests which agree in
 * everything that policy and routes of the service look at. Whatever is not plain goes to Python:
 * between requests the connection, in the midst of one both connections. One thread; every call
 * comes from it, and the calls of struct lane_calls go to it.
 */
#ifndef WAYPOINT_LANE_H
#define WAYPOINT_LANE_H

#include <stddef.h>
#include <stdint.h>

/* cffi: begin */
struct lane;
struct lane_caller;
struct lane_entry;
struct lane_target;
struct lane_line;

struct lane_limits {
	uint32_t fields;          /* of one head */
	uint32_t head_bytes;
	uint32_t line_bytes;
	uint32_t target_requests; /* at once to one endpoint */
	uint32_t requests;        /* at once, with those of others; more go to Python, which is fair */
	double client_idle_s;
	double server_idle_s;
	double write_s;  /* without a byte that a client takes of its answer */
	double linger_s; /* reading on after the last answer */
};

/* What ended: one line of the tally. */
struct lane_count {
	uint64_t entry;
	uint64_t target;
	uint32_t status;
	uint32_t failure; /* of enum lane_failure */
	uint64_t count;
	uint64_t received;
	uint64_t sent;
	double seconds;
	uint64_t buckets[24]; /* of durations */
	uint64_t received_buckets[24];
	uint64_t sent_buckets[24];
};

/* Which ended requests leave a record. */
enum lane_log {
	LANE_LOG_NONE,
	LANE_LOG_ERRORS, /* those that failed */
	LANE_LOG_ALL,
};

/* What is looked at besides the counts. */
struct lane_watch {
	uint32_t log;       /* of enum lane_log */
	uint32_t traces;    /* contexts of traces are followed; else they are Python's */
	uint32_t exports;   /* spans go somewhere */
	double log_share;   /* of requests that did not fail, with LANE_LOG_ALL */
	double sampling;    /* of new traces; < 0: none begins */
};

/* What one who watches wants to see at least; whether it does is Python's to say. */
struct lane_tap {
	const char *method; /* "": any */
	const char *path;   /* how it begins */
	uint32_t status_from, status_to;
};

/* Who wants a record. */
enum lane_wanted {
	LANE_LOGGED = 1,
	LANE_TAPPED = 2,
	LANE_TRACED = 4,
};

/* The strings of a record, in their order. The head is there only for taps. */
enum lane_string {
	LANE_METHOD,
	LANE_TARGET,
	LANE_HOST,
	LANE_REQUEST_ID,
	LANE_USER_AGENT,
	LANE_FORWARDED_FOR, /* without the caller's own address */
	LANE_TRACE,         /* id of the trace and of our span, then of the parent if there is one */
	LANE_STATE,
	LANE_HEAD,
	LANE_STRINGS,
};

/* What a line says about its own request, between what all lines like it have in common. */
enum lane_slot {
	LANE_SLOT_END,
	LANE_SLOT_START, /* an instant of ISO 8601, to milliseconds */
	LANE_SLOT_METHOD,
	LANE_SLOT_TARGET,
	LANE_SLOT_HOST,
	LANE_SLOT_REQUEST_ID,
	LANE_SLOT_USER_AGENT,
	LANE_SLOT_FORWARDED_FOR, /* as the client sent it, with a comma behind if there is any */
	LANE_SLOT_STATUS,
	LANE_SLOT_RECEIVED,
	LANE_SLOT_SENT,
	LANE_SLOT_SECONDS, /* in milliseconds */
	LANE_SLOT_ANSWERED,
};

/* How a line is written. */
struct lane_line_style {
	uint32_t dash;     /* for what is empty */
	uint32_t decimals; /* of milliseconds */
};

/* One request that ended; its strings follow. */
struct lane_record {
	uint64_t entry, target, origin;
	uint64_t received, sent;
	double started_at; /* seconds since the epoch */
	double seconds;
	double answered_s; /* < 0: it never was */
	uint32_t status;
	uint32_t failure; /* of enum lane_failure */
	uint32_t wanted;  /* of enum lane_wanted */
	uint32_t size;    /* strings included */
	uint32_t lengths[10];
};

/* Records that had no room, by who wanted them. */
struct lane_lost {
	uint64_t logged, tapped, traced;
};

enum lane_failure {
	LANE_FINE,
	LANE_CLIENT_GONE,
	LANE_SERVER_CUT, /* in the midst of a body */
	LANE_CLIENT_STUCK, /* it takes nothing of its answer */
};

/* Why both connections of a request are given to Python. */
enum lane_trouble {
	LANE_UNUSUAL_ANSWER,
	LANE_CLOSED_UNANSWERED, /* the server's is closed already */
};

/* What the lane is told by Python: the connection `id` belongs to `origin`. */
struct lane_calls {
	/* The caller of an origin, after the world has changed; 0: serve it in Python. */
	struct lane_caller *(*caller)(void *owner, uint64_t origin);
	/* Judge a request. `sent` is what would go to the server. */
	struct lane_entry *(*decide)(void *owner, uint64_t origin, struct lane_caller *caller,
				     const char *key, size_t key_length, const char *request,
				     size_t length, const char *sent, size_t sent_length);
	void (*dial)(void *owner, uint64_t target, struct lane_target *handle);
	/* The client's connection; the bytes were read of it. The descriptor is Python's. */
	void (*hand_over)(void *owner, uint64_t origin, int fd, const char *data,
			  size_t length);
	void (*adopt)(void *owner, uint64_t origin, int client, const char *request,
		      size_t length, int server, const char *answer, size_t answer_length,
		      uint64_t entry, uint64_t target, uint32_t uses, uint32_t trouble,
		      const char *unsent, size_t unsent_length); /* of the request */
	void (*closed)(void *owner, uint64_t origin);
	/* Nothing more is counted for an entry. */
	void (*gone)(void *owner, uint64_t entry);
	/* There are records where there were none. */
	void (*recorded)(void *owner);
};

/* `bounds` of the buckets are milliseconds, and bytes. */
struct lane *lane_new(const struct lane_limits *limits, const struct lane_calls *calls,
		      const double *bounds, size_t bound_count, void *owner);
void lane_free(struct lane *lane);
int lane_descriptor(const struct lane *lane);
void lane_poll(struct lane *lane);
void lane_tick(struct lane *lane);
void lane_drain(struct lane *lane);
/* From now on every request goes to Python, or no longer. */
void lane_pause(struct lane *lane, int paused);
size_t lane_clients(const struct lane *lane);
uint64_t lane_taken(const struct lane *lane);
size_t lane_known_bytes(const struct lane *lane);

/* Take a connected, non-blocking socket, and what was read of it. */
int lane_serve(struct lane *lane, int fd, uint64_t origin, const char *data, size_t length);

/* The world has changed: forget callers and entries. Targets stay until they are dropped. */
void lane_forget(struct lane *lane);
struct lane_caller *lane_add_caller(struct lane *lane, const char *address, size_t address_length,
				    const char *identity, size_t identity_length);
void lane_key_header(struct lane_caller *caller, const char *name, size_t length);
void lane_key_query(struct lane_caller *caller);
struct lane_entry *lane_add_entry(struct lane_caller *caller, const char *key, size_t key_length,
				  uint64_t id, struct lane_target **targets, size_t count);

struct lane_target *lane_add_target(struct lane *lane, uint64_t id);
void lane_drop_target(struct lane_target *target);
/* A dial has ended; fd < 0: in vain. */
void lane_connected(struct lane_target *target, int fd);
uint32_t lane_target_active(const struct lane_target *target);
/* What others have under way to an endpoint. Its limit holds for both together. */
void lane_target_elsewhere(struct lane_target *target, uint32_t active);
/* Count requests under way in `crowd[own]`; the limit holds for the sum of all `count`, which must
 * outlive the lane. */
void lane_join(struct lane *lane, uint32_t *crowd, size_t count, size_t own);
uint32_t lane_target_idle(const struct lane_target *target);
int lane_target_in_use(const struct lane_target *target);

/* Move up to `room` counts out; returns how many. Call it until it returns 0. */
size_t lane_take(struct lane *lane, struct lane_count *into, size_t room);

/* --- what is looked at --- */
void lane_watch_requests(struct lane *lane, const struct lane_watch *watch);
/* Replace the taps; none: nobody watches. */
int lane_tap_requests(struct lane *lane, const struct lane_tap *taps, size_t count);
/* So many lines may be recorded from now on; returns how many of the last ones were not. */
uint64_t lane_allow_lines(struct lane *lane, uint64_t lines);
/* Move up to `most` whole records out; returns their bytes. Call it until it returns 0. */
size_t lane_take_records(struct lane *lane, char *into, size_t room, size_t most);
void lane_take_lost(struct lane *lane, struct lane_lost *lost);
/* Lines are written here from now on, for requests to the target by the decision; `ends` are those
 * of the parts of `text` before each slot. NULL: there is no memory. */
struct lane_line *lane_add_line(struct lane *lane, const char *text, size_t length,
				const uint32_t *ends, const uint32_t *slots, size_t count);
void lane_use_line(struct lane_entry *entry, uint64_t target, const struct lane_line *line);
void lane_style_lines(struct lane *lane, const struct lane_line_style *style);
/* All lines that were written since the last call; they are the caller's until the next one. */
size_t lane_take_lines(struct lane *lane, const char **lines);
/* Cut everything that is under way. */
void lane_cut(struct lane *lane);

/* --- what policy has changed for --- */
struct lane_under_way {
	uint64_t origin, entry, target;
	uint64_t received, sent;
	double seconds;    /* so far */
	double answered_s; /* until the answer began */
	uint32_t status;   /* 0: it did not */
	uint32_t head_bytes;
	const char *head; /* of the request, as it came; until the next call */
};

/* Requests that a server has; how many there are, of which up to `room` are told. */
size_t lane_list_under_way(struct lane *lane, struct lane_under_way *into, size_t room);
/* End one of them, uncounted: what was answered is cut, else both connections are given away. */
void lane_take_back(struct lane *lane, uint64_t origin);

/* For tests: what the lane would make of a message; 0: it is for Python. */
size_t lane_render_request(struct lane *lane, struct lane_caller *caller, const char *data,
			   size_t length, char *into, size_t room);
size_t lane_render_line(struct lane *lane, const struct lane_line *line, const char *record,
			char *into, size_t room);
size_t lane_render_response(struct lane *lane, const char *data, size_t length, int is_head,
			    char *into, size_t room, uint64_t *body);
/* cffi: end */

#endif
