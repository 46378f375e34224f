/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the meshnode authors */

/* How what is queued becomes frames, and what nghttp2 says of its own accord. */

#include "lane.h"

mn_ssize on_read_length(nghttp2_session *ng, uint8_t frame_type, int32_t id,
                               int32_t session_window, int32_t stream_window, uint32_t max_frame,
                               void *user)
{
    mn_session *s = user;
    size_t n = s->turn ? s->quantum : SHARED_TURN; /* zero is an error, also without a turn */

    (void)ng, (void)frame_type, (void)id;
    if (n > max_frame)
        n = max_frame;
    if (n > (size_t)session_window)
        n = (size_t)session_window;
    if (n > (size_t)stream_window)
        n = (size_t)stream_window;
    return (mn_ssize)n;
}

static int submit_trailers(mn_session *s, stream *st)
{
    nghttp2_nv *nv = malloc((st->trailers_n + 1) * sizeof *nv);
    int rv;

    if (!nv)
        return no_memory(s);
    parse_headers(s, st->trailers, st->trailers_len, st->trailers_n, nv);
    rv = nghttp2_submit_trailer(s->ng, st->id, nv, st->trailers_n);
    free(nv);
    free(st->trailers);
    st->trailers = NULL;
    return rv ? no_memory(s) : 0;
}

mn_ssize on_read(nghttp2_session *ng, int32_t id, uint8_t *out, size_t len, uint32_t *flags,
                        nghttp2_data_source *source, void *user)
{
    mn_session *s = user;
    stream *st = source->ptr;

    (void)ng, (void)id, (void)out;
    if (s->turn != st) {
        make_ready(s, st);
        return NGHTTP2_ERR_DEFERRED;
    }
    s->turn = NULL;
    if (len > st->unsent)
        len = st->unsent;
    if (len == st->unsent && st->end && !st->end_sent) {
        st->end_sent = 1;
        *flags |= NGHTTP2_DATA_FLAG_EOF;
        if (st->trailers) {
            *flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
            if (submit_trailers(s, st))
                return NGHTTP2_ERR_CALLBACK_FAILURE;
        }
    } else if (!len) {
        return NGHTTP2_ERR_DEFERRED;
    }
    *flags |= NGHTTP2_DATA_FLAG_NO_COPY;
    return (mn_ssize)len;
}

int on_send_data(nghttp2_session *ng, nghttp2_frame *frame, const uint8_t *head, size_t len,
                        nghttp2_data_source *source, void *user)
{
    mn_session *s = user;
    stream *st = source->ptr;
    char *p = grow(&s->out, FRAME_HEAD + len);

    (void)ng, (void)frame;
    if (!p)
        return no_memory(s);
    memcpy(p, head, FRAME_HEAD);
    p += FRAME_HEAD;
    st->unsent -= len;
    if (st->direct_len) {
        size_t n = st->direct_len < len ? st->direct_len : len;

        memcpy(p, st->direct, n);
        p += n;
        len -= n;
        st->direct += n;
        st->direct_len -= n;
    }
    while (len) {
        chunk *c = st->head;
        size_t n = c->len < len ? c->len : len;

        memcpy(p, c->p, n);
        p += n;
        len -= n;
        c->p += n;
        c->len -= n;
        if (!c->len)
            drop_chunk(s, st);
    }
    credit_idle_frames(s);
    st->moved = 1;
    if (st->quiet) {
        lane_sent(s, st);
        return 0;
    }
    if (!st->unsent && event(s, MN_EVENT_DRAINED, st->id, 0, 0))
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    return 0;
}

int on_frame_send(nghttp2_session *ng, const nghttp2_frame *frame, void *user)
{
    mn_session *s = user;
    stream *st;
    size_t n;

    (void)ng;
    if (frame->hd.type == NGHTTP2_RST_STREAM)
        s->cut |= past_bit(s, frame->hd.stream_id);
    if (frame->hd.type <= NGHTTP2_HEADERS && frame->hd.flags & NGHTTP2_FLAG_END_STREAM &&
        (st = find(s, frame->hd.stream_id))) {
        st->over = 1;
        stop_if_sent(s, st);
    }
    if (!s->receiving)
        return 0;
    /* Nobody asked for these: nghttp2 answers a fault of the peer. */
    if (frame->hd.type == NGHTTP2_RST_STREAM) {
        st = find(s, frame->hd.stream_id);
        if (st && st->resetting)
            return 0; /* the lane did */
        if (count_bad_end(s))
            return NGHTTP2_ERR_CALLBACK_FAILURE;
        return st ? tell_reset(s, st, frame->rst_stream.error_code, 0) : 0;
    }
    if (frame->hd.type == NGHTTP2_GOAWAY) {
        n = frame->goaway.opaque_data_len;
        if (n >= sizeof s->reason)
            n = sizeof s->reason - 1;
        if (n)
            memcpy(s->reason, frame->goaway.opaque_data, n);
        s->reason[n] = '\0';
        s->dead = 1;
    }
    return 0;
}

int on_frame_not_send(nghttp2_session *ng, const nghttp2_frame *frame, int code, void *user)
{
    (void)ng, (void)code;
    if (frame->hd.type == NGHTTP2_HEADERS)
        ((mn_session *)user)->not_sent = 1;
    return 0;
}
