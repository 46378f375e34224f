/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the meshnode authors */

/* What the peer of a tunnel sends: nghttp2's callbacks. */

#include "http2.h"

#include <stdio.h>
#include <string.h>

int http2_on_begin_frame(nghttp2_session *h2, const nghttp2_frame_hd *head, void *user)
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

int http2_on_begin_headers(nghttp2_session *h2, const nghttp2_frame *frame, void *user)
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

int http2_on_header(nghttp2_session *h2, const nghttp2_frame *frame, const uint8_t *name,
                    size_t name_len, const uint8_t *value, size_t value_len, uint8_t flags,
                    void *user)
{
    mt_tunnel *t = user;
    const mt_settings *settings = &t->engine->settings;
    size_t limit = t->client ? settings->client_max_header_list : settings->max_header_list;
    mt_stream *st = http2_find(t, frame->hd.stream_id);
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
int http2_on_invalid_header(nghttp2_session *h2, const nghttp2_frame *frame, const uint8_t *name,
                            size_t name_len, const uint8_t *value, size_t value_len, uint8_t flags,
                            void *user)
{
    (void)h2, (void)frame, (void)name, (void)name_len, (void)value, (void)value_len;
    (void)flags, (void)user;
    return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
}

int http2_on_data_chunk(nghttp2_session *h2, uint8_t flags, int32_t id, const uint8_t *data,
                        size_t len, void *user)
{
    mt_tunnel *t = user;
    mt_stream *st = http2_find(t, id);
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
    if (t->drain_begun && !t->draining && !memcmp(payload, http2_drain_ping, sizeof http2_drain_ping)) {
        t->draining = t->goaway_ours = true;
        nghttp2_submit_goaway(t->h2, NGHTTP2_FLAG_NONE,
                              nghttp2_session_get_last_proc_stream_id(t->h2), NGHTTP2_NO_ERROR,
                              NULL, 0);
    }
    return 0;
}

static int goaway_received(mt_tunnel *t, const nghttp2_goaway *goaway)
{
    const char *code = nghttp2_http2_strerror(goaway->error_code);
    char detail[DETAIL_SIZE];
    mt_link *next;

    /* Applications that are gone end their streams here, and not while the list is walked. */
    batch_flush(t->engine);
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
        return guard_idle_frame(t);
    snprintf(detail, sizeof detail, "peer sent GOAWAY %s", code);
    tunnel_drain_for(t, MT_LOSS_PEER_CLOSED, detail);
    return 0;
}

/* A change now and then is good; each costs Python an event (CVE-2019-9515). */
static int settings_received(mt_tunnel *t)
{
    uint32_t limit =
        nghttp2_session_get_remote_settings(t->h2, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS);

    if (t->up && guard_idle_frame(t))
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    if (limit > MAX_STREAMS)
        limit = MAX_STREAMS;
    event_post(t->engine, MT_PEER_LIMIT, (int)limit, &t->o, NULL, NULL, 0, 0);
    if (t->up)
        return 0;
    /* A TLS 1.3 client is done before the server looked at its certificate: only the server's
     * first frame says that both sides accept each other. */
    t->up = true;
    t->handshake_at = 0;
    event_post(t->engine, MT_UP, 0, &t->o, NULL, NULL, 0, 0);
    return 0;
}

int http2_on_frame_recv(nghttp2_session *h2, const nghttp2_frame *frame, void *user)
{
    mt_tunnel *t = user;
    mt_stream *st = http2_find(t, frame->hd.stream_id);

    (void)h2;
    switch (frame->hd.type) {
    case NGHTTP2_DATA:
        return data_received(t, st, frame);
    case NGHTTP2_HEADERS:
        return st ? headers_received(t, st, frame) : 0;
    case NGHTTP2_RST_STREAM:
        return reset_received(t, st, frame->rst_stream.error_code);
    case NGHTTP2_SETTINGS:
        return frame->hd.flags & NGHTTP2_FLAG_ACK ? 0 : settings_received(t);
    case NGHTTP2_PING:
        return frame->hd.flags & NGHTTP2_FLAG_ACK ? pong_received(t, frame->ping.opaque_data) : 0;
    case NGHTTP2_GOAWAY:
        return goaway_received(t, &frame->goaway);
    default:
        return 0;
    }
}

int http2_on_stream_close(nghttp2_session *h2, int32_t id, uint32_t code, void *user)
{
    mt_tunnel *t = user;
    mt_stream *st = http2_find(t, id);

    (void)h2;
    if (!st)
        return 0;
    if (st->answered && t->bad_ends)
        t->bad_ends--;
    if (code != NGHTTP2_NO_ERROR)
        stream_reset_received(st, code, true); /* refused by a GOAWAY */
    return 0;
}
