/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the meshnode authors */

/*
 * The lane: requests whose decision is known go from a client's session to a server's without
 * Python. shim.h says what Python does for it. One thread; a lane outlives nothing of its sessions:
 * whoever goes first leaves the other.
 */

#ifndef MN_HTTP2_LANE_H
#define MN_HTTP2_LANE_H

#include "internal.h"

enum {
    MAX_FIELDS = 128,
    MAX_KEY = 4096,
    MAX_KEY_FIELDS = 4,
    MAX_ENTRIES = 4096,                 /* of one caller; then they are forgotten together */
    MAX_KNOWN_BYTES = 32 * 1024 * 1024, /* of all entries; the same */
    ENTRY_BYTES = 512,  /* of one besides key and targets, Python's share included */
    CHAINS = 64,        /* of entries, per caller */
    NAMES = 1024,       /* room for names of fields that are not just passed on */
    BUCKETS = 24,
    DIRECT_BYTES = 256 * 1024, /* output up to this is made as payload comes */
};

typedef struct {
    const char *at;
    size_t len;
} slice;

enum field_kind {
    FIELD_KEPT,
    FIELD_HEAD_ONLY, /* passed on, but not in trailers */
    FIELD_CLAIM,     /* never passed on */
    FIELD_UNUSUAL,   /* a request with it is Python's */
    FIELD_FORWARDED_FOR,
    FIELD_REQUEST_ID,
    FIELD_CONTENT_TYPE,
    FIELD_CONTENT_LENGTH,
    FIELD_COOKIE,
    FIELD_HOST,
    FIELD_TE,
    FIELD_EXPECT,
    FIELD_GRPC_STATUS,
    FIELD_PARENT,
    FIELD_STATE,
};

typedef struct {
    slice name, value;
    uint8_t kind;
} field;

/* A head that is plain. */
typedef struct {
    slice method, path, authority, length;
    slice request_id; /* as it is sent on */
    field fields[MAX_FIELDS];
    size_t count, bytes;
    uint32_t status;
    int32_t grpc_status;
    bool te, is_grpc, end, parent, state;
} head;

typedef struct tally {
    struct tally *next;
    mn_count count;
} tally;

typedef struct entry {
    struct entry *next;  /* in its chain */
    struct entry *older; /* of all retired ones */
    uint64_t number;
    uint32_t hash;
    uint32_t users; /* requests under way */
    tally *tallies;
    size_t target_count, key_len;
    mn_target **targets;
    char key[];
} entry;

struct mn_caller {
    mn_lane *lane;
    mn_caller *next;
    buf address, identity;
    buf names[MAX_KEY_FIELDS];
    size_t name_count, entry_count;
    bool key_query;
    entry *chains[CHAINS];
};

struct mn_target {
    mn_lane *lane;
    mn_target *next;
    uint64_t number;
    uint32_t active, entries;
    uint32_t elsewhere; /* requests under way to it that are others' */
    bool reserved;
    mn_session *sessions; /* oldest first */
};

typedef struct {
    uint32_t hash;
    uint8_t kind, len;
    char text[62];
} known_name;

struct mn_lane {
    mn_lane_limits limits;
    double bounds[BUCKETS];
    size_t bound_count, known_bytes;
    uint64_t world, random[2], seed, taken;
    uint32_t alone, *crowd; /* requests under way, of everybody: `own` is ours */
    size_t crowd_count, own;
    uint32_t tell, failed_calls;
    mn_session *sessions, *touched, **touched_end;
    mn_caller *callers;
    mn_target *targets;
    entry *retired;
    known_name names[NAMES];
    size_t name_count;
    buf scratch; /* values that were put together */
    nghttp2_nv nv[MAX_FIELDS + 16];
    char key[MAX_KEY];
    head head;
};

/* A request under way from a client's stream to a server's. */
struct crossing {
    mn_session *from, *to; /* of the client; of the server */
    stream *down, *up;     /* down: none once the client's needs nothing more */
    entry *entry;
    mn_target *target;
    double began_at, answered_at;
    double silent_since; /* as mn_lane_silent() saw it; 0: not yet */
    uint64_t received, sent;
    char *head; /* as it came, and the request id behind it */
    size_t head_len, id_len;
    buf body; /* as far as it is kept, until the answer begins */
    uint32_t status;
    int32_t grpc_status;
    bool is_head, is_grpc, request_over, responded, whole;
    bool heard; /* something of the request's body, since mn_lane_silent() looked */
};

/* ---- heads.c and rendered.c ----------------------------------------------------------------------------- */

void lane_name(mn_lane *lane, const char *name, size_t len, uint8_t kind);
uint8_t lane_kind(const mn_lane *lane, const char *name, size_t len);
/* Whether a request is plain. */
bool lane_read_request(mn_lane *lane, const char *text, size_t len, bool end, head *h);
bool lane_read_response(mn_lane *lane, const char *text, size_t len, bool end, bool is_head,
                        head *h);
/* What is sent for it; the fields are in `lane->nv` until the next call. 0: no memory. */
size_t lane_request_fields(mn_lane *lane, const mn_caller *caller, head *h);
size_t lane_response_fields(mn_lane *lane, const head *h);
void lane_note_grpc(int32_t *status, const slice *value);
bool lane_next_field(const char **at, const char *end, slice *name, slice *value);

/* ---- known.c and tally.c ----------------------------------------------------------------- */

double lane_clock(void);
/* Whether there are as many requests as may be, with those of others. */
bool lane_is_full(const mn_lane *lane);
uint64_t lane_random(mn_lane *lane);
/* The key is in `lane->key`; 0: it would be too long. */
size_t lane_key(mn_lane *lane, const mn_caller *caller, const head *h);
entry *lane_find(const mn_caller *caller, const char *key, size_t len);
mn_target *lane_pick(mn_lane *lane, const entry *e);
/* Takes what is counted from `x`. */
void lane_count(mn_lane *lane, const crossing *x, uint32_t failure);
void lane_forget_callers(mn_lane *lane);
void lane_free_retired(mn_lane *lane);

/* ---- lane.c, answers.c, payload.c -------------------------------------------------------- */

/* Give back what was withheld of a stream's credit, to its peer. */
void lane_credit(mn_session *s, stream *st);
void lane_answer_over(crossing *x);
void lane_reset_stream(mn_session *s, stream *st, uint32_t code);
/* Python goes on, or says what has failed; for `reason` see enum mn_reason. */
void lane_give_back(crossing *x, uint32_t reason, uint32_t code);

enum lane_taken { LANE_TAKEN, LANE_UNKNOWN, LANE_NOT_PLAIN };

/* The head of a request is complete, in `s->block`. */
enum lane_taken lane_request(mn_session *s, stream *st, bool end);
/* The same of an answer's head or of trailers, on a stream that crosses. */
int lane_headers(mn_session *s, stream *st, bool end);
int lane_data(mn_session *s, stream *st, const char *data, size_t len);
int lane_data_over(mn_session *s, stream *st, bool end);
/* The stream was reset by its peer, or for a fault of its peer. */
void lane_reset(mn_session *s, stream *st, uint32_t code, bool by_peer);
void lane_closed(mn_session *s, stream *st);
/* Its connection was lost. */
void lane_lost(mn_session *s, stream *st, uint32_t reason);
/* Payload became a frame. */
void lane_sent(mn_session *s, stream *st);
void lane_touch(mn_session *s);
/* nghttp2 has had all that was read. */
void lane_input_over(mn_session *s);
void lane_received(mn_session *s);

#endif
