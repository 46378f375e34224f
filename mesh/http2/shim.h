/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the meshnode authors */

/*
 * What Python sees of libnghttp2: one call in, one batch out.
 *
 * A Python callback per frame costs more than nghttp2 itself, so the callbacks stay in C and leave
 * packed records behind. build_nghttp2.py hands the part between the marks to cffi as it stands.
 * No function is thread-safe on one session; sessions do not share anything.
 */

#ifndef MN_HTTP2_SHIM_H
#define MN_HTTP2_SHIM_H

#include <stddef.h>
#include <stdint.h>

/* cffi: begin */
typedef struct mn_session mn_session;

enum mn_event_kind {
    MN_EVENT_HEADERS = 1,  /* a: bytes of `text` that belong to it, b: of enum mn_headers_flag */
    MN_EVENT_DATA = 2,     /* a: offset in the input, b: length */
    MN_EVENT_END = 3,
    MN_EVENT_RESET = 4,    /* a: error code, b: 1 if the peer sent it */
    MN_EVENT_SETTINGS = 5,
    MN_EVENT_PONG = 6,     /* a: bytes of `text`, always 8 */
    MN_EVENT_GOAWAY = 7,   /* stream: last stream, a: error code */
    MN_EVENT_DRAINED = 8,
    MN_EVENT_RETURNED = 9, /* a: bytes of `text`: mn_told and what it says */
    MN_EVENT_TOLD = 10     /* the same of a request that has ended and was not counted */
};

enum mn_headers_flag {
    MN_HEADERS_END = 1,    /* END_STREAM */
    MN_HEADERS_UNKNOWN = 2 /* the lane would take such requests if it knew their decision */
};

typedef struct {
    int32_t client;                /* 0 or 1 */
    uint32_t stream_window;        /* bytes, like the following three */
    uint32_t connection_window;
    uint32_t max_frame;
    uint32_t max_header_list;
    uint32_t max_concurrent_streams;
    uint32_t extended_connect; /* a server takes RFC 8441 requests */
    uint32_t ahead;            /* bytes not consumed that take nothing of the connection's window */
} mn_settings;

/*
 * Filled by every call that returns; valid until the next call on the session. mn_receive() and
 * mn_take() count as the collection of everything in it.
 */
typedef struct {
    const int32_t *events;         /* four numbers each: kind, stream, a, b */
    size_t events_len;             /* numbers, not events */
    const char *text;              /* headers as name NUL value NUL ..., PONG payloads; in order */
    size_t text_len;
    const char *out;
    size_t out_len;
    const uint64_t *released;      /* tokens of mn_send_data() whose bytes are needed no more */
    size_t released_len;
    const char *error;             /* why the last call failed */
    int32_t touched;               /* mn_lane_touched() has sessions to tell of */
} mn_batch;

/* NULL: out of memory, or a setting that the protocol forbids. */
mn_session *mn_new(const mn_settings *settings);
void mn_free(mn_session *s);
const mn_batch *mn_batch_of(const mn_session *s);

/* 0, or -1: connection error; `out` then ends in a GOAWAY and only mn_take() is of use. */
int mn_receive(mn_session *s, const uint8_t *data, size_t len);
/* Fill `out` with about `limit` bytes at most. */
void mn_take(mn_session *s, size_t limit);
/* Take what mn_take() has put in `out`, to be given to mn_free_output(). */
char *mn_detach(mn_session *s);
void mn_free_output(char *output);
int mn_wants_output(const mn_session *s);

/* Headers come as `n` names and `n` values, joined by NUL. Stream id, or -1. */
int32_t mn_request(mn_session *s, const char *text, size_t len, size_t n, int end_stream);
/* 0, or -1. */
int mn_headers(mn_session *s, int32_t stream, const char *text, size_t len, size_t n,
               int end_stream);
/*
 * 1: `data` is kept by reference, until `token` is released. 0: copied, or not needed.
 * -1: not allowed.
 */
int mn_send_data(mn_session *s, int32_t stream, const char *data, size_t len, uint64_t token,
                 int end_stream);
size_t mn_unsent(const mn_session *s, int32_t stream);
void mn_consume(mn_session *s, int32_t stream, size_t len);
/* Let the peer send `more` bytes ahead on this stream from now on. */
void mn_widen(mn_session *s, int32_t stream, size_t more);
void mn_reset(mn_session *s, int32_t stream, uint32_t code);
/* The rest of a request is not wanted, once what was said of its answer is out. */
void mn_stop(mn_session *s, int32_t stream);
/* Streams of which nothing became a frame for so many seconds although something waits: its peer
 * gives no credit. How many were written to `into`. Call it some times in `limit_s`. */
size_t mn_stuck(mn_session *s, double now, double limit_s, int32_t *into, size_t room);
int mn_ping(mn_session *s, const char *payload);
void mn_goaway(mn_session *s, uint32_t code, int graceful);

uint32_t mn_open_streams(const mn_session *s);
uint32_t mn_remote_max_streams(const mn_session *s);
uint32_t mn_remote_extended_connect(const mn_session *s); /* the peer takes RFC 8441 requests */

/*
 * The lane: requests whose decision is known go from a client's session to a server's without
 * Python, and their answers back. Python lets sessions enter, says what it decided
 * (mn_lane_learn) and flushes the sessions that were touched; what goes wrong before an answer
 * comes back to it (MN_EVENT_RETURNED), with all that came of the request.
 */
typedef struct mn_lane mn_lane;
typedef struct mn_caller mn_caller;
typedef struct mn_target mn_target;

typedef struct {
    uint32_t fields;            /* of one head */
    uint32_t replay_bytes;      /* of a request's body kept until the answer begins */
    uint32_t high_water_bytes;  /* queued towards a peer before its source gets no more credit */
    uint32_t target_requests;   /* at once to one endpoint */
    uint32_t requests;          /* at once, with those of others; more are Python's, which is fair */
    uint32_t max_streams;       /* of one connection to a server */
} mn_lane_limits;

/* What became of requests: one line of the tally. */
typedef struct {
    uint64_t entry;
    uint64_t target;
    uint32_t status;
    int32_t grpc_status;     /* -1: none */
    uint32_t failure;        /* of enum mn_failure */
    uint64_t count;
    uint64_t received;
    uint64_t sent;
    double seconds;
    uint64_t buckets[24];    /* of durations */
    uint64_t received_buckets[24];
    uint64_t sent_buckets[24];
} mn_count;

enum mn_failure {
    MN_FINE,
    MN_CLIENT_GONE,
    MN_SERVER_CUT,   /* in the midst of an answer */
    MN_SERVER_WRONG, /* the same, by a fault against the protocol */
    MN_CLIENT_STUCK  /* it takes nothing of its answer */
};

/* Why a request comes back. */
enum mn_reason {
    MN_REFUSED,       /* never looked at */
    MN_CLOSED_REUSED, /* by a connection that has answered others */
    MN_CLOSED,
    MN_RESET,
    MN_UNUSUAL,       /* the answer's head is against the protocol */
    MN_RECALLED       /* by mn_lane_recall() */
};

/* One request; its head as it came, its request id and its body follow. */
typedef struct {
    uint64_t entry;
    uint64_t target;
    uint64_t received;   /* of the body in all */
    uint64_t sent;       /* of the answer's */
    double seconds;      /* since it came */
    double answered_s;   /* the same until the answer began; < 0: it did not */
    uint32_t head_len;
    uint32_t id_len;
    uint32_t body_len;   /* 0 for one that has ended */
    uint32_t status;     /* 0: none */
    int32_t grpc_status; /* -1: none */
    uint32_t why;        /* of enum mn_failure if it has ended, else of enum mn_reason */
    uint32_t code;       /* of a reset */
    uint32_t over;       /* the request is complete */
    uint32_t whole;      /* its body is, as far as it came; else it was above the limit */
} mn_told;

/* Which ends Python is told of, instead of counting them. */
enum mn_tell { MN_TELL_NONE, MN_TELL_FAILURES, MN_TELL_ALL };

/* What becomes of a field of a request. */
enum mn_field {
    MN_FIELD_HEAD_ONLY = 1, /* it is passed on, but not in trailers */
    MN_FIELD_CLAIM = 2,     /* it is left out */
    MN_FIELD_UNUSUAL = 3,   /* the request is Python's; left out of trailers */
    MN_FIELD_PARENT = 4,    /* traceparent: it is moved behind, if it is right */
    MN_FIELD_STATE = 5      /* tracestate: the same, behind that */
};

/* `bounds` of the buckets are milliseconds, and bytes. NULL: no memory. */
mn_lane *mn_lane_new(const mn_lane_limits *limits, const double *bounds, size_t count);
void mn_lane_free(mn_lane *lane);
/* Count requests under way in `crowd[own]`; the limit holds for the sum of all `count`, which must
 * outlive the lane. */
void mn_lane_join(mn_lane *lane, uint32_t *crowd, size_t count, size_t own);
int mn_lane_field(mn_lane *lane, const char *name, size_t len, int what);
/* Failures are those of enum mn_failure, 5xx, and the statuses of gRPC whose bit is set. */
void mn_lane_tell(mn_lane *lane, int what, uint32_t failed_calls);
/* The world has changed: callers and entries are gone. */
void mn_lane_forget(mn_lane *lane);
uint64_t mn_lane_taken(const mn_lane *lane);
size_t mn_lane_known_bytes(const mn_lane *lane);

/* NULL: no memory. */
mn_caller *mn_lane_caller(mn_lane *lane, const char *address, size_t address_len,
                          const char *identity, size_t identity_len);
int mn_caller_key_field(mn_caller *caller, const char *name, size_t len);
void mn_caller_key_query(mn_caller *caller);

mn_target *mn_lane_target(mn_lane *lane, uint64_t number);
uint32_t mn_target_active(const mn_target *target);
/* So many requests are others'. */
void mn_target_tell(mn_target *target, uint32_t active);
/* Others wait for its streams: take none, or again. */
void mn_target_reserve(mn_target *target, int reserved);
/* 0, or -1: it is still in use. */
int mn_target_drop(mn_target *target);

/* A client's session, or with a target a server's. `number` names it in mn_lane_touched(). */
void mn_lane_enter(mn_lane *lane, mn_session *s, uint64_t number, mn_target *target);
/* Whose requests a client's session brings, in this world; NULL: nobody's that the lane takes. */
void mn_lane_caller_is(mn_session *s, mn_caller *caller);
/* No new requests. */
void mn_lane_retire(mn_session *s);
/* The connection is lost. */
void mn_lane_leave(mn_session *s);
/* Streams that the lane has of a client's session; how many were written to `into`. */
size_t mn_lane_streams(const mn_session *s, int32_t *into, size_t room);
/* The head of a request as it came, each part ended by NUL; NULL: the lane does not have it. */
const char *mn_lane_head(const mn_session *s, int32_t stream, size_t *len);
/* Give a request back, wherever it stands. */
void mn_lane_recall(mn_session *s, int32_t stream);
/* Streams of a client's session whose request stands still, as mn_stuck(). */
size_t mn_lane_silent(mn_session *s, double now, double limit_s, int32_t *into, size_t room);
/* End a request whose client takes nothing of its answer; 0: the lane does not have it. */
int mn_lane_cut(mn_session *s, int32_t stream);
/* What would be sent for a request, joined by NUL; 0: it is not plain, or there is no room. */
size_t mn_lane_render(mn_session *s, const char *text, size_t len, int end_stream, char *into,
                      size_t room);
/* Requests like this one go to one of the targets. 0, or -1: it is not plain. */
int mn_lane_learn(mn_session *s, const char *text, size_t len, int end_stream, uint64_t entry,
                  mn_target **targets, size_t count);

/* Sessions that may have output since the last call; how many were written to `into`. */
size_t mn_lane_touched(mn_lane *lane, uint64_t *into, size_t room);
/* Move counts out; how many. Call it until it returns 0. */
size_t mn_lane_take(mn_lane *lane, mn_count *into, size_t room);
/* Numbers of entries for which nothing more is counted, once each; how many. */
size_t mn_lane_gone(mn_lane *lane, uint64_t *into, size_t room);
/* cffi: end */

#endif
