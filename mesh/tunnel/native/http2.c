/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the meshnode authors */

/*
 * The HTTP/2 session of a tunnel: nghttp2's callbacks, what is sent next, and limits.
 *
 * Who sends next is decided here and not by nghttp2, whose scheduler changed between releases: a
 * stream's data source answers "deferred" unless it is that stream's turn. In its turn payload is
 * read from the application right behind the room for the frame's head, in the engine's output.
 */

#include "internal.h"
#include "guards.h"

#include <stdio.h>
#include <string.h>

/* Distributions carry these back to older releases, so the version number does not tell. */
extern void nghttp2_option_set_stream_reset_rate_limit(nghttp2_option *, uint64_t, uint64_t)
    __attribute__((weak));
extern void nghttp2_option_set_max_continuations(nghttp2_option *, size_t) __attribute__((weak));

#define DEFAULT_WINDOW 65535u
#define MAX_STREAMS 0x7fffffffu
/* A frame that nghttp2 makes in one piece, with its head. */
#define CONTROL_ROOM (RECORD_BYTES + FRAME_HEAD)

static const uint8_t drain_ping[8] = "draining";

static mt_stream *find(const mt_tunnel *t, int32_t id)
{
    return id > 0 ? nghttp2_session_get_stream_user_data(t->h2, id) : NULL;
}

/* ---- callbacks: what the peer sends ------------------------------------------------------- */

static int on_begin_frame(nghttp2_session *h2, const nghttp2_frame_hd *head, void *user)
{
    mt_tunnel *t = user;

    (void)h2;
    if (head->type == NGHTTP2_CONTINUATION) {
        if (++t->continuations > MAX_CONTINUATIONS)
            return guard_fatal(t, NGHTTP2_ENHANCE_YOUR_CALM, "too many CONTINUATION frames");
        return 0;
    }
    t->continuations = 0;
    if (head->type == NGHTTP2_PRIORITY || head->type > NGHTTP2_CONTINUATION)
        return guard_idle_frame(t);
    return 0;
}

static int on_begin_headers(nghttp2_session *h2, const nghttp2_frame *frame, void *user)
{
    mt_tunnel *t = user;
    mt_stream *st;

    t->block.len = 0;
    t->block_fields = 0;
    t->block_list_bytes = 0;
    if (frame->headers.cat != NGHTTP2_HCAT_REQUEST)
        return 0;
    st = stream_new(t, frame->hd.stream_id, false);
    if (!st)
        return guard_no_memory(t);
    st->o.refs = 1; /* nobody asked for it yet */
    stream_adopt(t, st);
    t->last_peer_stream = st->id;
    nghttp2_session_set_stream_user_data(h2, st->id, st);
    return 0;
}

static int on_header(nghttp2_session *h2, const nghttp2_frame *frame, const uint8_t *name,
                     size_t name_len, const uint8_t *value, size_t value_len, uint8_t flags,
                     void *user)
{
    mt_tunnel *t = user;
    const mt_settings *settings = &t->engine->settings;
    size_t limit = t->client ? settings->client_max_header_list : settings->max_header_list;
    mt_stream *st = find(t, frame->hd.stream_id);
    char *p;

    (void)flags;
    t->block_list_bytes += name_len + value_len + 32; /* RFC 9113 6.5.2 */
    if (t->block_list_bytes > limit * HEADER_LIST_FACTOR)
        return guard_fatal(t, NGHTTP2_ENHANCE_YOUR_CALM, "header list too large");
    if (!st || st->condemned)
        return 0;
    if (t->block_list_bytes > limit) {
        st->condemned = true;
        nghttp2_submit_rst_stream(h2, NGHTTP2_FLAG_NONE, st->id, NGHTTP2_ENHANCE_YOUR_CALM);
        return 0;
    }
    p = buf_grow(&t->block, name_len + value_len + 2);
    if (!p)
        return guard_no_memory(t);
    memcpy(p, name, name_len);
    p[name_len] = '\0';
    memcpy(p + name_len + 1, value, value_len);
    p[name_len + 1 + value_len] = '\0';
    t->block_fields++;
    return 0;
}

/* nghttp2 would skip the field; RFC 9113 8.1.1 wants the whole message refused. */
static int on_invalid_header(nghttp2_session *h2, const nghttp2_frame *frame, const uint8_t *name,
                             size_t name_len, const uint8_t *value, size_t value_len,
                             uint8_t flags, void *user)
{
    (void)h2, (void)frame, (void)name, (void)name_len, (void)value, (void)value_len;
    (void)flags, (void)user;
    return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
}

static int on_data_chunk(nghttp2_session *h2, uint8_t flags, int32_t id, const uint8_t *data,
                         size_t len, void *user)
{
    mt_tunnel *t = user;
    mt_stream *st = find(t, id);
    (void)flags;
    /* Until the peer has our SETTINGS it may rightly send the protocol's default. nghttp2 resets
     * a stream that overruns its window, but hands on what is too much. */
    if (st && st->in.size + len > (st->window > DEFAULT_WINDOW ? st->window : DEFAULT_WINDOW))
        st->condemned = true;
    if (!st || st->condemned || st->refusing) {
        nghttp2_session_consume(h2, id, len);
        return 0;
    }
    return stream_data(st, data, len) ? guard_no_memory(t) : 0;
}

static int status_of(const mt_tunnel *t)
{
    const char *p = t->block.p;

    if (t->block.len < 12 || memcmp(p, ":status", 8))
        return 0;
    return (p[8] - '0') * 100 + (p[9] - '0') * 10 + (p[10] - '0'); /* nghttp2 checked digits */
}

static void answer_received(mt_tunnel *t, mt_stream *st, int status)
{
    int fd = st->fd;

    st->answered = true;
    if (status != 200) {
        stream_refused(st, status, t->block.p, t->block.len, t->block_fields);
        return;
    }
    st->fd = -1;
    if (st->lane)
        lane_opened(st);
    else
        event_post(t->engine, MT_OPENED, 0, &st->o, NULL, t->block.p, t->block.len,
                   t->block_fields);
    stream_join(st, fd);
}

static int headers_received(mt_tunnel *t, mt_stream *st, const nghttp2_frame *frame)
{
    bool end = frame->hd.flags & NGHTTP2_FLAG_END_STREAM;

    if (st->condemned)
        return 0;
    st->remote_ended |= end && !st->joined;
    if (!t->client) {
        guard_credit(t);
        if (frame->headers.cat == NGHTTP2_HCAT_REQUEST) {
            if (t->draining) {
                stream_decline(st);
                return 0;
            }
            if (far_take(t, st))
                return 0;
            __atomic_add_fetch(&st->o.refs, 1, __ATOMIC_RELAXED); /* the receiver's */
            event_post(t->engine, MT_REQUEST, 0, &t->o, &st->o, t->block.p, t->block.len,
                       t->block_fields);
            return 0;
        }
    } else if (st->fd >= 0) {
        int status = status_of(t);

        if (status < 200)
            return guard_idle_frame(t) ? NGHTTP2_ERR_CALLBACK_FAILURE : 0;
        guard_credit(t);
        answer_received(t, st, status);
    }
    if (end && !st->o.done)
        stream_end_received(st);
    return 0;
}

static int data_received(mt_tunnel *t, mt_stream *st, const nghttp2_frame *frame)
{
    bool end = frame->hd.flags & NGHTTP2_FLAG_END_STREAM;

    if (frame->hd.length > frame->data.padlen)
        guard_credit(t);
    else if (!end && guard_idle_frame(t))
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    if (st && end && !st->condemned)
        stream_end_received(st);
    return 0;
}

static int reset_received(mt_tunnel *t, mt_stream *st, uint32_t code)
{
    if (guard_reset(t))
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    if (!st)
        return 0;
    if (!t->client && !st->answered && guard_bad_end(t))
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    stream_reset_received(st, code, true);
    return 0;
}

static int pong_received(mt_tunnel *t, const uint8_t *payload)
{
    if (!t->pings)
        return guard_idle_frame(t);
    t->pings--;
    if (t->drain_begun && !t->draining && !memcmp(payload, drain_ping, sizeof drain_ping)) {
        t->draining = t->goaway_ours = true;
        nghttp2_submit_goaway(t->h2, NGHTTP2_FLAG_NONE,
                              nghttp2_session_get_last_proc_stream_id(t->h2), NGHTTP2_NO_ERROR,
                              NULL, 0);
    }
    return 0;
}

static void goaway_received(mt_tunnel *t, const nghttp2_goaway *goaway)
{
    const char *code = nghttp2_http2_strerror(goaway->error_code);
    char detail[DETAIL_SIZE];
    mt_link *next;

    /* Before the streams that are lost by it: who opens them again must choose another tunnel. */
    if (!t->draining && t->up)
        event_post(t->engine, MT_DRAINING, 0, &t->o, NULL, NULL, 0, 0);
    for (mt_link *l = t->streams.next; t->client && l != &t->streams; l = next) {
        mt_stream *st = CONTAINER(l, mt_stream, o.all);

        next = l->next;
        if (st->id > goaway->last_stream_id) {
            snprintf(detail, sizeof detail, "GOAWAY %s: not processed", code);
            stream_lost(st, detail);
        }
    }
    if (t->draining)
        return;
    snprintf(detail, sizeof detail, "peer sent GOAWAY %s", code);
    tunnel_drain_for(t, MT_LOSS_PEER_CLOSED, detail);
}

static void settings_received(mt_tunnel *t)
{
    uint32_t limit =
        nghttp2_session_get_remote_settings(t->h2, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS);

    if (limit > MAX_STREAMS)
        limit = MAX_STREAMS;
    event_post(t->engine, MT_PEER_LIMIT, (int)limit, &t->o, NULL, NULL, 0, 0);
    if (t->up)
        return;
    /* A TLS 1.3 client is done before the server looked at its certificate: only the server's
     * first frame says that both sides accept each other. */
    t->up = true;
    t->handshake_at = 0;
    event_post(t->engine, MT_UP, 0, &t->o, NULL, NULL, 0, 0);
}

static int on_frame_recv(nghttp2_session *h2, const nghttp2_frame *frame, void *user)
{
    mt_tunnel *t = user;
    mt_stream *st = find(t, frame->hd.stream_id);

    (void)h2;
    switch (frame->hd.type) {
    case NGHTTP2_DATA:
        return data_received(t, st, frame);
    case NGHTTP2_HEADERS:
        return st ? headers_received(t, st, frame) : 0;
    case NGHTTP2_RST_STREAM:
        return reset_received(t, st, frame->rst_stream.error_code);
    case NGHTTP2_SETTINGS:
        if (!(frame->hd.flags & NGHTTP2_FLAG_ACK))
            settings_received(t);
        return 0;
    case NGHTTP2_PING:
        return frame->hd.flags & NGHTTP2_FLAG_ACK ? pong_received(t, frame->ping.opaque_data) : 0;
    case NGHTTP2_GOAWAY:
        goaway_received(t, &frame->goaway);
        return 0;
    default:
        return 0;
    }
}

static int on_stream_close(nghttp2_session *h2, int32_t id, uint32_t code, void *user)
{
    mt_tunnel *t = user;
    mt_stream *st = find(t, id);

    (void)h2;
    if (!st)
        return 0;
    if (st->answered && t->bad_ends)
        t->bad_ends--;
    if (code != NGHTTP2_NO_ERROR)
        stream_reset_received(st, code, true); /* refused by a GOAWAY */
    return 0;
}

/* ---- callbacks: what we send -------------------------------------------------------------- */

static mt_ssize on_read_length(nghttp2_session *h2, uint8_t frame_type, int32_t id,
                               int32_t session_window, int32_t stream_window, uint32_t max_frame,
                               void *user)
{
    const mt_tunnel *t = user;
    size_t n = t->turn ? t->quantum : STREAM_TURN; /* zero is an error, also without a turn */

    (void)h2, (void)frame_type, (void)id;
    if (n > max_frame)
        n = max_frame;
    if (n > (size_t)session_window)
        n = (size_t)session_window;
    if (n > (size_t)stream_window)
        n = (size_t)stream_window;
    return (mt_ssize)n;
}

mt_ssize http2_read_payload(nghttp2_session *h2, int32_t id, uint8_t *out, size_t len,
                            uint32_t *flags, nghttp2_data_source *source, void *user)
{
    mt_tunnel *t = user;
    mt_engine *e = t->engine;
    mt_stream *st = find(t, id);
    ssize_t n;

    (void)h2, (void)out, (void)source;
    if (!st)
        return NGHTTP2_ERR_DEFERRED;
    if (t->turn != st) {
        stream_want_turn(st);
        return NGHTTP2_ERR_DEFERRED;
    }
    t->turn = NULL;
    n = stream_read(st, e->output + e->output_len + FRAME_HEAD, len);
    if (n == IO_FAILED)
        stream_fail(st, st->port.error);
    if (n < 0)
        return NGHTTP2_ERR_DEFERRED;
    *flags |= NGHTTP2_DATA_FLAG_NO_COPY;
    if (n == 0)
        *flags |= NGHTTP2_DATA_FLAG_EOF;
    return n;
}

static int on_send_data(nghttp2_session *h2, nghttp2_frame *frame, const uint8_t *head, size_t len,
                        nghttp2_data_source *source, void *user)
{
    mt_tunnel *t = user;
    mt_engine *e = t->engine;

    (void)h2, (void)frame, (void)source;
    memcpy(e->output + e->output_len, head, FRAME_HEAD);
    e->output_len += FRAME_HEAD + len;
    guard_credit(t);
    return 0;
}

static int reset_sent(mt_tunnel *t, mt_stream *st, uint32_t code)
{
    if (!st && t->own_resets) {
        t->own_resets--;
        return 0;
    }
    /* Nobody asked for it: nghttp2 answers a fault of the peer. */
    if (guard_bad_end(t))
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    if (st)
        stream_reset_received(st, code, false);
    return 0;
}

/* nghttp2 found a fault and has said so to the peer. */
static void blame(mt_tunnel *t, const nghttp2_goaway *goaway)
{
    const char *code = nghttp2_http2_strerror(goaway->error_code);

    snprintf(t->drain_detail, sizeof t->drain_detail, "%s%s%.*s", code,
             goaway->opaque_data_len ? ": " : "", (int)goaway->opaque_data_len,
             goaway->opaque_data_len ? (const char *)goaway->opaque_data : "");
    t->goaway_ours = true;
    t->fatal = t->drain_detail;
}

static int on_frame_send(nghttp2_session *h2, const nghttp2_frame *frame, void *user)
{
    mt_tunnel *t = user;
    mt_stream *st = find(t, frame->hd.stream_id);
    bool end = frame->hd.flags & NGHTTP2_FLAG_END_STREAM;

    (void)h2;
    switch (frame->hd.type) {
    case NGHTTP2_RST_STREAM:
        return reset_sent(t, st, frame->rst_stream.error_code);
    case NGHTTP2_GOAWAY:
        if (!t->goaway_ours)
            blame(t, &frame->goaway);
        return 0;
    case NGHTTP2_DATA:
        if (st && end)
            stream_check_done(st);
        return 0;
    case NGHTTP2_HEADERS:
        if (st && st->refusing && end) {
            /* The peer need not say END_STREAM any more (RFC 9113 8.1). */
            if (!st->remote_ended)
                http2_reset(t, st->id, NGHTTP2_NO_ERROR);
            stream_finish(st, MT_END_DONE, "");
        }
        return 0;
    default:
        return 0;
    }
}

static int on_frame_not_send(nghttp2_session *h2, const nghttp2_frame *frame, int code, void *user)
{
    mt_tunnel *t = user;

    (void)h2;
    if (frame->hd.type != NGHTTP2_HEADERS)
        return 0;
    for (mt_link *l = t->streams.next; l != &t->streams; l = l->next) {
        mt_stream *st = CONTAINER(l, mt_stream, o.all);

        if (st->id != frame->hd.stream_id)
            continue;
        if (st->fd >= 0)
            stream_lost(st, nghttp2_strerror(code));
        else
            stream_abort(st, nghttp2_strerror(code));
        break;
    }
    return 0;
}

/* ---- moving bytes ------------------------------------------------------------------------- */

int http2_receive(mt_tunnel *t, const uint8_t *data, size_t len)
{
    mt_ssize n = mem_recv(t->h2, data, len);

    batch_flush(t->engine);
    if (n < 0 && !t->fatal)
        guard_fatal(t, n == NGHTTP2_ERR_FLOODED ? NGHTTP2_ENHANCE_YOUR_CALM : NGHTTP2_PROTOCOL_ERROR,
              nghttp2_strerror((int)n));
    return t->fatal ? -1 : 0;
}

/* Append every frame that waits for nothing. */
static int collect_control(mt_tunnel *t)
{
    mt_engine *e = t->engine;
    const uint8_t *p;
    mt_ssize n;

    while (OUTPUT_SIZE - e->output_len >= CONTROL_ROOM + STREAM_TURN + FRAME_HEAD) {
        n = mem_send(t->h2, &p);
        if (n < 0)
            return guard_fatal(t, NGHTTP2_INTERNAL_ERROR, nghttp2_strerror((int)n));
        if (n == 0)
            break;
        if ((size_t)n > OUTPUT_SIZE - e->output_len)
            return guard_fatal(t, NGHTTP2_INTERNAL_ERROR, "a frame larger than expected");
        memcpy(e->output + e->output_len, p, (size_t)n);
        e->output_len += (size_t)n;
    }
    return 0;
}

int http2_collect(mt_tunnel *t, bool payload)
{
    mt_engine *e = t->engine;

    e->output_len = 0;
    if (collect_control(t))
        return -1;
    while (payload && e->output_len < OUTPUT_BYTES && !list_empty(&t->ready) &&
           nghttp2_session_get_remote_window_size(t->h2) > 0) {
        mt_stream *st = CONTAINER(t->ready.next, mt_stream, ready);

        list_remove(&st->ready);
        /* Up to the end of a record: a scrap of one costs as much as half of it. */
        t->quantum = (list_empty(&t->ready) ? STREAM_TURN : SHARED_TURN) -
                     e->output_len % RECORD_BYTES;
        t->turn = st;
        nghttp2_session_resume_data(t->h2, st->id);
        if (collect_control(t))
            return -1;
        t->turn = NULL;
    }
    return t->fatal ? -1 : 0;
}

uint32_t http2_first_window(const mt_engine *e)
{
    uint32_t window = e->settings.stream_window;

    return window < DEFAULT_WINDOW ? window : DEFAULT_WINDOW;
}

void http2_widen(mt_tunnel *t, const mt_stream *st, uint32_t more)
{
    int32_t now = nghttp2_session_get_stream_effective_local_window_size(t->h2, st->id);

    if (now >= 0)
        nghttp2_session_set_local_window_size(t->h2, NGHTTP2_FLAG_NONE, st->id,
                                              now + (int32_t)more);
}

void http2_reset(mt_tunnel *t, int32_t id, uint32_t code)
{
    if (!t->h2 || t->lost || id <= 0)
        return;
    if (!nghttp2_submit_rst_stream(t->h2, NGHTTP2_FLAG_NONE, id, code))
        t->own_resets++;
    engine_schedule(t->engine, &t->o);
}

void http2_detach(mt_stream *st)
{
    mt_tunnel *t = st->tunnel;

    if (t->turn == st)
        t->turn = NULL;
    if (t->h2 && st->id > 0)
        nghttp2_session_set_stream_user_data(t->h2, st->id, NULL);
}

/* ---- life of a session -------------------------------------------------------------------- */

int http2_prepare(mt_engine *e)
{
    nghttp2_session_callbacks *cb;

    if (nghttp2_option_new(&e->options) || nghttp2_session_callbacks_new(&e->callbacks))
        return -1;
    nghttp2_option_set_no_auto_window_update(e->options, 1);
    /* Closed streams are kept for RFC 7540 priorities only, which are not used here. */
    nghttp2_option_set_no_closed_streams(e->options, 1);
    nghttp2_option_set_peer_max_concurrent_streams(e->options, MAX_STREAMS);
    nghttp2_option_set_max_outbound_ack(e->options, MAX_ANSWERS);
    /* nghttp2 counts all resets; an application that ends with one would trip it. */
    if (nghttp2_option_set_stream_reset_rate_limit)
        nghttp2_option_set_stream_reset_rate_limit(e->options, UINT64_MAX, UINT64_MAX);
    if (nghttp2_option_set_max_continuations)
        nghttp2_option_set_max_continuations(e->options, MAX_CONTINUATIONS);
    cb = e->callbacks;
    nghttp2_session_callbacks_set_on_begin_frame_callback(cb, on_begin_frame);
    nghttp2_session_callbacks_set_on_begin_headers_callback(cb, on_begin_headers);
    nghttp2_session_callbacks_set_on_header_callback(cb, on_header);
    nghttp2_session_callbacks_set_on_invalid_header_callback(cb, on_invalid_header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(cb, on_data_chunk);
    nghttp2_session_callbacks_set_on_frame_recv_callback(cb, on_frame_recv);
    nghttp2_session_callbacks_set_on_stream_close_callback(cb, on_stream_close);
    nghttp2_session_callbacks_set_on_frame_send_callback(cb, on_frame_send);
    nghttp2_session_callbacks_set_on_frame_not_send_callback(cb, on_frame_not_send);
    nghttp2_session_callbacks_set_send_data_callback(cb, on_send_data);
    set_read_length(cb, on_read_length);
    return 0;
}

int http2_start(mt_tunnel *t)
{
    const mt_settings *x = &t->engine->settings;
    nghttp2_settings_entry entries[5] = {
        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, http2_first_window(t->engine)},
        {NGHTTP2_SETTINGS_MAX_FRAME_SIZE, x->max_frame},
        {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE,
         t->client ? x->client_max_header_list : x->max_header_list},
        {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, x->max_concurrent_streams},
        {NGHTTP2_SETTINGS_ENABLE_PUSH, 0},
    };
    mt_engine *e = t->engine;
    uint64_t reserved = (uint64_t)x->max_concurrent_streams * http2_first_window(e);

    t->spare_window = x->connection_window > reserved ? x->connection_window - reserved : 0;
    if (t->client ? nghttp2_session_client_new2(&t->h2, e->callbacks, t, e->options)
                  : nghttp2_session_server_new2(&t->h2, e->callbacks, t, e->options))
        return -1;
    if (nghttp2_submit_settings(t->h2, NGHTTP2_FLAG_NONE, entries, t->client ? 5 : 4))
        return -1;
    /* Credit is given back by halves: the other half has to suffice for all streams. */
    return nghttp2_session_set_local_window_size(
        t->h2, NGHTTP2_FLAG_NONE, 0,
        x->connection_window < INT32_MAX / 2 ? 2 * (int32_t)x->connection_window : INT32_MAX);
}
