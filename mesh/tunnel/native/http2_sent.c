/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the meshnode authors */

/*
 * What goes to the peer of a tunnel: nghttp2's callbacks.
 *
 * Who sends next is decided by http2_collect() and not by nghttp2, whose scheduler changed between
 * releases: a stream's data source answers "deferred" unless it is that stream's turn. In its turn
 * payload is read from the application right behind the room for the frame's head, in the engine's
 * output.
 */

#include "http2.h"

#include <stdio.h>
#include <string.h>

mt_ssize http2_on_read_length(nghttp2_session *h2, uint8_t frame_type, int32_t id,
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
    mt_stream *st = http2_find(t, id);
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

int http2_on_send_data(nghttp2_session *h2, nghttp2_frame *frame, const uint8_t *head, size_t len,
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

int http2_on_frame_send(nghttp2_session *h2, const nghttp2_frame *frame, void *user)
{
    mt_tunnel *t = user;
    mt_stream *st = http2_find(t, frame->hd.stream_id);
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

int http2_on_frame_not_send(nghttp2_session *h2, const nghttp2_frame *frame, int code, void *user)
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
