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
    MN_EVENT_HEADERS = 1,  /* a: bytes of `text` that belong to it, b: END_STREAM */
    MN_EVENT_DATA = 2,     /* a: offset in the input, b: length */
    MN_EVENT_END = 3,
    MN_EVENT_RESET = 4,    /* a: error code, b: 1 if the peer sent it */
    MN_EVENT_SETTINGS = 5,
    MN_EVENT_PONG = 6,     /* a: bytes of `text`, always 8 */
    MN_EVENT_GOAWAY = 7,   /* stream: last stream, a: error code */
    MN_EVENT_DRAINED = 8
};

typedef struct {
    int32_t client;                /* 0 or 1 */
    uint32_t stream_window;        /* bytes, like the following three */
    uint32_t connection_window;
    uint32_t max_frame;
    uint32_t max_header_list;
    uint32_t max_concurrent_streams;
    uint32_t extended_connect; /* a server takes RFC 8441 requests */
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
} mn_batch;

/* NULL: out of memory, or a setting that the protocol forbids. */
mn_session *mn_new(const mn_settings *settings);
void mn_free(mn_session *s);
const mn_batch *mn_batch_of(const mn_session *s);

/* 0, or -1: connection error; `out` then ends in a GOAWAY and only mn_take() is of use. */
int mn_receive(mn_session *s, const uint8_t *data, size_t len);
/* Fill `out` with about `limit` bytes at most. */
void mn_take(mn_session *s, size_t limit);
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
int mn_ping(mn_session *s, const char *payload);
void mn_goaway(mn_session *s, uint32_t code, int graceful);

uint32_t mn_open_streams(const mn_session *s);
uint32_t mn_remote_max_streams(const mn_session *s);
/* cffi: end */

#endif
