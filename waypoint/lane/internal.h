/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WAYPOINT_LANE_INTERNAL_H
#define WAYPOINT_LANE_INTERNAL_H

#include "lane.h"

#include <stdbool.h>
#include <string.h>

enum {
	READ_BYTES = 256 * 1024,
	MAX_FIELDS = 128,
	MAX_KEY = 4096,
	MAX_KEY_HEADERS = 4,
	MAX_ENTRIES = 4096, /* of one caller; then they are forgotten together */
	MAX_KNOWN_BYTES = 32 * 1024 * 1024, /* of all entries; the same */
	ENTRY_BYTES = 512, /* of one besides key and targets, Python's share included */
	JOIN_BYTES = 8 * 1024, /* shorter bodies are copied behind their head */
	BUCKETS = 24,
	MAX_TAPS = 32,
	MAX_RECORD_BYTES = 1024 * 1024, /* of all records that nobody took yet */
	MAX_LINE_BYTES = 2 * 1024 * 1024, /* the same of lines */
};

struct slice {
	const char *at;
	size_t length;
};

struct field {
	struct slice name, value;
	uint8_t kind; /* of enum field_kind */
};

enum field_kind {
	FIELD_KEPT,
	FIELD_DROPPED,
	FIELD_FORWARDED_FOR,
	FIELD_REQUEST_ID,
	FIELD_USER_AGENT, /* kept */
	FIELD_TRACE,      /* traceparent */
	FIELD_STATE,      /* tracestate */
};

/* A head that is plain. */
struct head {
	struct slice method, target, host;
	struct slice trace; /* the one traceparent, well formed */
	struct field fields[MAX_FIELDS];
	uint32_t field_count;
	uint32_t status;
	uint64_t length; /* of the body */
	size_t head_bytes; /* with the empty line */
	bool has_length, close, is_head, has_trace_fields;
};

/* What was made up for a request. */
struct made {
	char id[36], trace[32], span[16], parent[16];
	bool has_id, traced, has_parent;
};

enum scanned { SCAN_PLAIN, SCAN_PARTIAL, SCAN_UNUSUAL };

enum scanned lane_scan_request(const struct lane *lane, const char *data, size_t length,
			       struct head *head);
enum scanned lane_scan_response(const struct lane_limits *limits, const char *data, size_t length,
				bool is_head, struct head *head);
bool lane_name_is(const struct slice *name, const char *lower);

/* --- bytes to be sent ------------------------------------------------------------------------ */

struct bytes {
	char *at;
	size_t length, room;
};

bool lane_bytes_need(struct bytes *bytes, size_t more);
bool lane_bytes_add(struct bytes *bytes, const char *data, size_t length);
void lane_bytes_cut(struct bytes *bytes, size_t front);
void lane_bytes_free(struct bytes *bytes);

bool lane_write_request(struct lane *lane, const struct lane_caller *caller,
			const struct head *head, struct made *made, struct bytes *out);
bool lane_is_request_id(const struct slice *value);
bool lane_write_response(const struct head *head, bool close, struct bytes *out);

/* --- what is known --------------------------------------------------------------------------- */

struct tally {
	struct tally *next; /* of the entry */
	struct tally *same; /* of the same target */
	size_t index; /* of the target */
	struct lane_count count;
};

/* What all lines about requests of one entry to one target have in common. */
struct lane_line {
	struct lane_line *next; /* of all */
	size_t count;
	uint32_t *ends, *slots;
	char text[];
};

struct lane_entry {
	struct lane_entry *next; /* in its chain */
	struct lane_entry *older; /* of all retired ones */
	struct lane_entry *next_counted; /* of those that have tallies */
	uint64_t id;
	uint32_t hash;
	uint32_t users; /* requests under way */
	bool counted;
	struct tally *tallies, **by_target;
	size_t target_count; /* 0: it is retired */
	struct lane_target **targets;
	const struct lane_line **lines; /* by target; NULL until there is one */
	size_t key_length;
	char key[];
};

struct lane_caller {
	struct lane *lane;
	struct lane_caller *next;
	struct bytes address, identity;
	struct bytes names[MAX_KEY_HEADERS];
	size_t name_count;
	bool key_query;
	uint32_t entry_count;
	struct lane_entry *chains[256];
};

struct lane_target {
	struct lane *lane;
	struct lane_target *next;
	uint64_t id;
	uint32_t active, elsewhere, idle_count, dials, servers;
	uint32_t entries; /* that name it */
	bool dropped;
	struct server *idle; /* newest first */
	struct client *waiting, **waiting_end;
};

size_t lane_key(const struct lane_caller *caller, const struct head *head, char *key);
struct lane_entry *lane_find(struct lane_caller *caller, const char *key, size_t length);
struct lane_target *lane_pick(struct lane *lane, const struct lane_entry *entry, size_t *index);
void lane_count_end(struct lane *lane, struct lane_entry *entry, size_t index,
		    const struct lane_count *one);
void lane_entry_done(struct lane *lane, struct lane_entry *entry);
void lane_sweep(struct lane *lane);
void lane_target_settle(struct lane_target *target);

/* --- connections ----------------------------------------------------------------------------- */

enum kind { CLIENT, SERVER };

struct link { /* what both kinds begin with */
	enum kind kind;
	int fd;
	uint32_t watched;
	bool dead, queued;
	struct link *next_dead, *next_queued;
	struct bytes out;
	size_t sent; /* of it */
	double idle_since;
	double stuck_since; /* 0: nothing waits to be sent */
	struct link *previous, *next; /* of all */
};

struct client {
	struct link link;
	uint64_t origin;
	uint64_t world; /* in which `caller` was found */
	struct lane_caller *caller;
	struct server *server; /* that answers */
	struct lane_target *target;
	size_t target_index; /* in the entry */
	struct lane_entry *entry; /* a request is under way */
	struct client *next_waiting;
	struct bytes request; /* as it came; its head alone once the answer has begun */
	struct bytes shown; /* its head as it was sent on, while there are taps */
	struct made made;
	size_t request_head; /* how much of it that is */
	double started_at, answered_at;
	uint64_t received, sent;
	uint32_t status;
	bool keep_alive, is_head, closing, lingering;
};

struct server {
	struct link link;
	struct lane_target *target;
	struct client *client; /* being answered */
	struct server *next_idle;
	struct bytes in; /* of an answer's head */
	uint64_t left; /* of its body */
	uint32_t uses;
	bool in_body, keep_alive, broken; /* nothing can be sent any more */
};

struct tap {
	char method[32], path[256];
	uint32_t status_from, status_to;
};

struct lane {
	struct lane_limits limits;
	struct lane_calls calls;
	void *owner;
	int poller;
	double now;
	uint64_t world, random[2], seed, taken;
	size_t known_bytes; /* of entries that are not retired */
	size_t client_count;
	uint32_t alone, *crowd; /* requests under way, of everybody: `own` is ours */
	size_t crowd_count, own;
	bool draining, paused;
	double bounds[BUCKETS];
	size_t bound_count;
	struct link *links, *dead, *queued, **queued_end;
	struct lane_caller *callers;
	struct lane_target *targets;
	struct lane_entry *retired, *counted;
	struct bytes sent; /* the request that is being decided */
	struct head head, recorded;
	struct lane_watch watch;
	struct tap taps[MAX_TAPS];
	size_t tap_count;
	struct bytes records;
	size_t records_taken; /* of their bytes */
	struct bytes joined[2]; /* values of several fields of the request that is recorded */
	struct bytes lines, lines_taken;
	struct lane_line_style style;
	struct lane_line *known_lines;
	double second; /* whose text this is */
	char second_text[32];
	struct lane_lost lost;
	uint64_t lines_allowed;
	char buffer[READ_BYTES];
};

/* --- records --------------------------------------------------------------------------------- */

void lane_keep_head(struct client *client);
void lane_record(struct lane *lane, const struct client *client, const struct lane_count *one);
void lane_free_records(struct lane *lane);
/* Write a line about a request; false: there was no room. */
bool lane_write_line(struct lane *lane, const struct lane_line *line,
		     const struct lane_record *record, const struct slice *strings);
void lane_forget_lines(struct lane *lane);

double lane_clock(void);
uint64_t lane_random(struct lane *lane);
bool lane_is_full(const struct lane *lane);
bool lane_watch(struct lane *lane, struct link *link, uint32_t events);
void lane_link_open(struct lane *lane, struct link *link, enum kind kind, int fd);
int lane_link_release(struct lane *lane, struct link *link); /* gives the descriptor back */
void lane_queue(struct lane *lane, struct link *link);
bool lane_flush(struct lane *lane, struct link *link);
void lane_settle(struct lane *lane); /* flush and free: the end of every public call */

void lane_client_ready(struct lane *lane, struct client *client, uint32_t events);
void lane_client_read(struct lane *lane, struct client *client, const char *data, size_t length);
void lane_client_written(struct lane *lane, struct client *client);
void lane_client_close(struct lane *lane, struct client *client);
void lane_client_cut(struct lane *lane, struct client *client);
void lane_client_abandon(struct lane *lane, struct client *client, enum lane_failure failure);
void lane_answered(struct lane *lane, struct client *client);
void lane_hand_over(struct lane *lane, struct client *client, const char *data, size_t length);
void lane_start(struct lane *lane, struct client *client, struct server *server);

void lane_server_ready(struct lane *lane, struct server *server, uint32_t events);
void lane_server_close(struct lane *lane, struct server *server);
void lane_server_resume(struct lane *lane, struct server *server);
void lane_adopt(struct lane *lane, struct client *client, struct server *server,
		const char *answer, size_t length, enum lane_trouble trouble);

#endif
