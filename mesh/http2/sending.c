/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the meshnode authors */

/* What Python wants to be sent. */

#include "internal.h"

int refuse(mn_session *s, const char *why)
{
    s->batch.error = why;
    return -1;
}

/* Split at NUL; `nv` points into `text`. Values are checked, because nghttp2 sends anything. */
int parse_headers(mn_session *s, const char *text, size_t len, size_t n, nghttp2_nv *nv)
{
    const char *end = text + len, *stop;
    size_t i;

    for (i = 0; i < 2 * n; i++) {
        if (i == 2 * n - 1)
            stop = end;
        else if (!(stop = memchr(text, '\0', (size_t)(end - text))))
            return refuse(s, "header with NUL");
        if (i % 2 == 0) {
            nv[i / 2] = (nghttp2_nv){.name = (uint8_t *)text, .namelen = (size_t)(stop - text)};
            if (!nghttp2_check_header_name(nv[i / 2].name, nv[i / 2].namelen))
                return refuse(s, "bad header name");
        } else {
            nv[i / 2].value = (uint8_t *)text;
            nv[i / 2].valuelen = (size_t)(stop - text);
            if (!nghttp2_check_header_value(nv[i / 2].value, nv[i / 2].valuelen))
                return refuse(s, "bad header value");
        }
        text = stop + 1;
    }
    return 0;
}

int open_stream(mn_session *s, stream *st, const nghttp2_nv *nv, size_t n, int end_stream)
{
    mn_provider provider = {.source = {.ptr = st}, .read_callback = on_read};
    int32_t id;

    st->announced = 1;
    st->end = st->end_sent = !!end_stream;
    s->not_sent = 0;
    s->opening = st;
    id = submit_request(s->ng, NULL, nv, n, end_stream ? NULL : &provider, st);
    st->id = id;
    if (id > 0)
        pump(s);
    s->opening = NULL;
    if (id > 0 && !s->not_sent)
        return 0;
    stream_free(s, st);
    return id < 0 ? id : 1;
}

int32_t mn_request(mn_session *s, const char *text, size_t len, size_t n, int end_stream)
{
    nghttp2_nv *nv;
    stream *st;
    int rv;

    begin(s);
    if (s->dead || s->goaway_seen || s->goaway_sent)
        return refuse(s, "the connection is ending");
    if (s->open >= mn_remote_max_streams(s))
        return refuse(s, "the peer takes no more streams now");
    nv = malloc((n + 1) * sizeof *nv);
    st = nv ? stream_new(s) : NULL;
    if (!st || parse_headers(s, text, len, n, nv)) {
        free(nv);
        if (st)
            stream_free(s, st);
        return st ? -1 : refuse(s, "out of memory");
    }
    rv = open_stream(s, st, nv, n, end_stream);
    free(nv);
    if (rv)
        return refuse(s, rv < 0 ? nghttp2_strerror(rv) : "headers too large");
    return st->id;
}

int keep_trailers(mn_session *s, stream *st, const char *text, size_t len, size_t n)
{
    if (!st->head) {
        nghttp2_nv *nv = malloc((n + 1) * sizeof *nv);
        int rv = nv ? parse_headers(s, text, len, n, nv) : refuse(s, "out of memory");

        if (!rv)
            rv = nghttp2_submit_trailer(s->ng, st->id, nv, n);
        free(nv);
        if (rv)
            return refuse(s, "trailers not accepted");
        st->end = st->end_sent = 1;
        if (!st->quiet && event(s, MN_EVENT_DRAINED, st->id, 0, 0))
            return refuse(s, "out of memory");
        pump(s);
        return 0;
    }
    st->trailers = malloc(len + 1);
    if (!st->trailers)
        return refuse(s, "out of memory");
    memcpy(st->trailers, text, len);
    st->trailers_len = (uint32_t)len;
    st->trailers_n = (uint32_t)n;
    st->end = 1;
    make_ready(s, st);
    return 0;
}

int respond(mn_session *s, stream *st, nghttp2_nv *nv, size_t n, int end_stream)
{
    mn_provider provider = {.source = {.ptr = st}, .read_callback = on_read};
    int32_t id = st->id;
    int rv;

    s->not_sent = 0;
    if (n && nv[0].valuelen == 3 && nv[0].value[0] == '1') {
        rv = nghttp2_submit_headers(s->ng, NGHTTP2_FLAG_NONE, id, NULL, nv, n, NULL);
    } else {
        st->answered = 1;
        st->end = st->end_sent = !!end_stream;
        rv = submit_response(s->ng, id, nv, n, end_stream ? NULL : &provider);
    }
    if (rv)
        return refuse(s, nghttp2_strerror(rv));
    pump(s);
    return s->not_sent ? refuse(s, "headers too large") : 0;
}

int mn_headers(mn_session *s, int32_t id, const char *text, size_t len, size_t n, int end_stream)
{
    stream *st;
    nghttp2_nv *nv;
    int rv;

    begin(s);
    st = s->dead ? NULL : find(s, id);
    if (!st)
        return 0;
    if (st->end)
        return refuse(s, "headers after END_STREAM");
    if (st->answered && !s->client && !end_stream)
        return refuse(s, "trailers must end the stream");
    if (s->client && !end_stream)
        return refuse(s, "trailers must end the stream");
    nv = malloc((n + 1) * sizeof *nv);
    rv = nv ? parse_headers(s, text, len, n, nv) : refuse(s, "out of memory");
    if (!rv)
        rv = s->client || st->answered ? keep_trailers(s, st, text, len, n)
                                       : respond(s, st, nv, n, end_stream);
    free(nv);
    return rv;
}

int mn_send_data(mn_session *s, int32_t id, const char *data, size_t len, uint64_t token,
                 int end_stream)
{
    bool by_reference = len > COPY_BELOW;
    stream *st;

    begin(s);
    st = s->dead ? NULL : find(s, id);
    if (!st)
        return 0;
    if (st->end)
        return refuse(s, "data after END_STREAM");
    if (!s->client && !st->answered)
        return refuse(s, "data before the response");
    if (queue(st, data, len, by_reference ? token : 0))
        return refuse(s, "out of memory");
    st->end = !!end_stream;
    make_ready(s, st);
    return by_reference;
}

size_t mn_unsent(const mn_session *s, int32_t id)
{
    stream *st = s->dead ? NULL : find(s, id);

    return st ? st->unsent : 0;
}

void mn_stop(mn_session *s, int32_t id)
{
    stream *st;

    begin(s);
    st = s->dead ? NULL : find(s, id);
    if (!st)
        return;
    st->stop = 1;
    stop_if_sent(s, st);
    pump(s);
}

void mn_reset(mn_session *s, int32_t id, uint32_t code)
{
    stream *st;

    begin(s);
    st = s->dead ? NULL : find(s, id);
    if (!st || st->resetting)
        return;
    st->resetting = 1;
    drop_queue(s, st);
    nghttp2_submit_rst_stream(s->ng, NGHTTP2_FLAG_NONE, id, code);
    pump(s);
}

int mn_ping(mn_session *s, const char *payload)
{
    begin(s);
    if (s->dead)
        return 0;
    s->pings++;
    return nghttp2_submit_ping(s->ng, NGHTTP2_FLAG_NONE, (const uint8_t *)payload) ? -1 : 0;
}

void mn_goaway(mn_session *s, uint32_t code, int graceful)
{
    int32_t last = nghttp2_session_get_last_proc_stream_id(s->ng);

    begin(s);
    if (s->dead)
        return;
    /* A client takes no streams of the peer, so it has nothing to announce. */
    if (graceful && !s->client) {
        nghttp2_submit_shutdown_notice(s->ng);
    } else {
        s->goaway_sent = 1;
        nghttp2_submit_goaway(s->ng, NGHTTP2_FLAG_NONE, last, code, NULL, 0);
    }
    pump(s);
}

uint32_t mn_open_streams(const mn_session *s)
{
    return s->open;
}

uint32_t mn_remote_max_streams(const mn_session *s)
{
    uint32_t n =
        nghttp2_session_get_remote_settings(s->ng, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS);

    return n > MAX_STREAMS ? MAX_STREAMS : n;
}

uint32_t mn_remote_extended_connect(const mn_session *s)
{
    return nghttp2_session_get_remote_settings(s->ng, NGHTTP2_SETTINGS_ENABLE_CONNECT_PROTOCOL);
}
