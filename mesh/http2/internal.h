/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the meshnode authors */

/*
 * libnghttp2 with its callbacks turned into batches (see shim.h).
 *
 * Who sends next is decided here and not by nghttp2, whose scheduler changed between releases
 * (RFC 7540 weights until 1.6x, then RFC 9218, which serves equal streams one after another): a
 * stream's data source answers "deferred" unless it is that stream's turn, and turns go round.
 * Control frames need no turn, so they can be written out at once ("pumped"), which shows errors
 * in the call that caused them and keeps nghttp2's own queues empty.
 */

#ifndef MN_HTTP2_INTERNAL_H
#define MN_HTTP2_INTERNAL_H

#include "flood.h"
#include "shim.h"

#include <nghttp2/nghttp2.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

/* 1.60 renamed what returns ssize_t; the old names can be compiled out. */
#if NGHTTP2_VERSION_NUM >= 0x013c00
typedef nghttp2_ssize mn_ssize;
typedef nghttp2_data_provider2 mn_provider;
#define mem_recv nghttp2_session_mem_recv2
#define mem_send nghttp2_session_mem_send2
#define submit_request nghttp2_submit_request2
#define submit_response nghttp2_submit_response2
#define set_read_length nghttp2_session_callbacks_set_data_source_read_length_callback2
#else
typedef ssize_t mn_ssize;
typedef nghttp2_data_provider mn_provider;
#define mem_recv nghttp2_session_mem_recv
#define mem_send nghttp2_session_mem_send
#define submit_request nghttp2_submit_request
#define submit_response nghttp2_submit_response
#define set_read_length nghttp2_session_callbacks_set_data_source_read_length_callback
#endif

#define FRAME_HEAD 9u
#define DEFAULT_WINDOW 65535u
#define MAX_STREAMS 0x7fffffffu
/* Payload up to this is copied into the queue: cheaper than a reference and its release. */
#define COPY_BELOW 1024u
/* A stream alone sends frames as large as the peer takes; next to others, no more per turn. */
#define SHARED_TURN 65536u
#define MIN_TURN 4096u
/* Buffers above this are given back once they have not been needed for a while. */
#define KEEP_BYTES 16384u
#define CALM_CALLS 16
/* After so much at once more will follow, and room for it is made at once. */
#define LONG_BYTES 4096u
#define ROOM_BYTES 163840u

typedef struct {
    char *p;
    size_t len, cap;
    int calm;
} buf;

typedef struct chunk {
    struct chunk *next;
    const char *p;
    size_t len;
    uint64_t token; /* 0: the bytes follow this struct */
} chunk;

typedef struct crossing crossing;

typedef struct stream {
    struct stream *next, *prev;         /* in the ring of those ready to send */
    struct stream *all_next, *all_prev; /* in the list of all: nghttp2 drops them without a word */
    chunk *head, *tail;
    const char *direct; /* payload of the very call, sent before what is queued */
    size_t direct_len;
    crossing *x;    /* carried by the lane, and Python does not know of it */
    char *trailers; /* the parsed form of mn_headers(), kept until the data is out */
    size_t unsent;
    size_t unconsumed; /* handed to Python, not given back by mn_consume() */
    size_t owed;       /* credit that the lane has not given back */
    size_t widened;    /* by mn_widen(), on top of the session's stream window */
    double waits_since; /* as mn_stuck() saw it; 0: nothing waits to be sent, or it moves */
    uint32_t trailers_len, trailers_n;
    int32_t id;
    unsigned ready : 1, end : 1, end_sent : 1, answered : 1, announced : 1, resetting : 1,
        reset_told : 1,
        condemned : 1, /* nghttp2 is about to reset it: say nothing more of it */
        quiet : 1,     /* the lane's: its queue is nothing that Python waits for */
        over : 1,      /* a frame with END_STREAM has gone out */
        stop : 1,      /* the rest of the request is not wanted, once the answer is out */
        moved : 1;     /* payload became a frame since mn_stuck() looked */
} stream;

struct mn_session {
    nghttp2_session *ng;
    mn_batch batch;
    buf events, text, out, released, block;
    stream ready; /* head of the ring */
    stream *all;
    stream *turn;
    stream *opening; /* not to be freed when nghttp2 gives it up: open_stream() does it */
    const uint8_t *input;
    size_t quantum;
    size_t block_list_bytes; /* RFC 9113 §6.5.2: name + value + 32 for each field */
    size_t answer_bytes;
    const char *fatal;
    char reason[160];
    size_t stream_window;
    /* Payload that is held somewhere on our side, and how much of it the connection's window
     * has no credit for yet: none, as long as no more than `ahead` is held. */
    size_t ahead, held, withheld;
    uint32_t fatal_code, max_header_list, max_streams, open;
    uint32_t continuations, bad_ends, idle_frames, pings;
    int32_t last_peer_stream;
    /* Of the last 64 ids of the peer, the newest in bit 0: opened at all; reset by us. */
    uint64_t opened, cut;
    unsigned client : 1, dead : 1, receiving : 1, collected : 1, taken : 1, goaway_seen : 1,
        goaway_sent : 1, settings_told : 1, not_sent : 1,
        busy : 1,     /* nghttp2 is at work in it: frames go out when that call returns */
        settled : 1,      /* the peer's SETTINGS have come */
        has_answered : 1; /* a server: not for the first time */
    /* The lane's part; see lane.h. */
    struct mn_lane *lane;
    struct mn_caller *caller;
    struct mn_target *target;
    struct mn_session *lane_next, *lane_prev, *target_next, *touched_next;
    uint64_t number, world;
    stream *pending; /* whose payload is `pending_data`, until its frame is known to be whole */
    const char *pending_data;
    size_t pending_len;
    bool touched;
};

/* ---- streams.c --------------------------------------------------------------------------- */

void *grow(buf *b, size_t more);
int append(buf *b, const void *data, size_t len);
void clear(buf *b);
int fatal(mn_session *s, uint32_t code, const char *why);
int no_memory(mn_session *s);
int event(mn_session *s, int32_t kind, int32_t id, uint32_t a, uint32_t b);
/* Forget what the caller has collected. */
void begin(mn_session *s);
void publish(mn_session *s);

stream *find(const mn_session *s, int32_t id);
stream *stream_new(mn_session *s);
void stream_free(mn_session *s, stream *st);
void unready(stream *st);
void make_ready(mn_session *s, stream *st);
int queue(stream *st, const char *data, size_t len, uint64_t token);
void drop_chunk(mn_session *s, stream *st);
void drop_queue(mn_session *s, stream *st);
int count_bad_end(mn_session *s);
int count_idle_frame(mn_session *s);
void credit_idle_frames(mn_session *s);
int tell_reset(mn_session *s, stream *st, uint32_t code, int remote);
/* Ask for no more of a request, if its answer is out. */
void stop_if_sent(mn_session *s, stream *st);

/* ---- credit.c ---------------------------------------------------------------------------- */

/* Payload has come that is held until it is given back: its stream's window by give_back(), the
 * connection's by either. */
void hold(mn_session *s, size_t len);
void give_back(mn_session *s, int32_t id, size_t len);
void release(mn_session *s, size_t len);

/* ---- received.c: callbacks --------------------------------------------------------------- */

uint64_t past_bit(const mn_session *s, int32_t id);
int on_begin_frame(nghttp2_session *ng, const nghttp2_frame_hd *hd, void *user);
int on_begin_headers(nghttp2_session *ng, const nghttp2_frame *frame, void *user);
int on_header(nghttp2_session *ng, const nghttp2_frame *frame, const uint8_t *name,
              size_t name_len, const uint8_t *value, size_t value_len, uint8_t flags, void *user);
int on_invalid_header(nghttp2_session *ng, const nghttp2_frame *frame, const uint8_t *name,
                      size_t name_len, const uint8_t *value, size_t value_len, uint8_t flags,
                      void *user);
int on_data_chunk(nghttp2_session *ng, uint8_t flags, int32_t id, const uint8_t *data, size_t len,
                  void *user);
int on_frame_recv(nghttp2_session *ng, const nghttp2_frame *frame, void *user);
int on_stream_close(nghttp2_session *ng, int32_t id, uint32_t code, void *user);

/* ---- framing.c: callbacks ---------------------------------------------------------------- */

mn_ssize on_read_length(nghttp2_session *ng, uint8_t frame_type, int32_t id,
                        int32_t session_window, int32_t stream_window, uint32_t max_frame,
                        void *user);
mn_ssize on_read(nghttp2_session *ng, int32_t id, uint8_t *out, size_t len, uint32_t *flags,
                 nghttp2_data_source *source, void *user);
int on_send_data(nghttp2_session *ng, nghttp2_frame *frame, const uint8_t *head, size_t len,
                 nghttp2_data_source *source, void *user);
int on_frame_send(nghttp2_session *ng, const nghttp2_frame *frame, void *user);
int on_frame_not_send(nghttp2_session *ng, const nghttp2_frame *frame, int code, void *user);

/* ---- sending.c --------------------------------------------------------------------------- */

int refuse(mn_session *s, const char *why);
int parse_headers(mn_session *s, const char *text, size_t len, size_t n, nghttp2_nv *nv);
/* 0, or a code of nghttp2 or 1: not sent, and there is no such stream. */
int open_stream(mn_session *s, stream *st, const nghttp2_nv *nv, size_t n, int end_stream);
int respond(mn_session *s, stream *st, nghttp2_nv *nv, size_t n, int end_stream);
int keep_trailers(mn_session *s, stream *st, const char *text, size_t len, size_t n);

/* ---- session.c --------------------------------------------------------------------------- */

/* Write out every frame that waits for nothing. */
void pump(mn_session *s);

#endif
