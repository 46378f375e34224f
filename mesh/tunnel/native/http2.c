/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the meshnode authors */

/* The HTTP/2 session of a tunnel: its life, and moving its bytes. */

#include "http2.h"

#include <string.h>

/* Distributions carry these back to older releases, so the version number does not tell. */
extern void nghttp2_option_set_stream_reset_rate_limit(nghttp2_option *, uint64_t, uint64_t)
    __attribute__((weak));
extern void nghttp2_option_set_max_continuations(nghttp2_option *, size_t) __attribute__((weak));

/* A frame that nghttp2 makes in one piece, with its head. */
#define CONTROL_ROOM (RECORD_BYTES + FRAME_HEAD)

const uint8_t http2_drain_ping[8] = "draining";

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
    nghttp2_session_callbacks_set_on_begin_frame_callback(cb, http2_on_begin_frame);
    nghttp2_session_callbacks_set_on_begin_headers_callback(cb, http2_on_begin_headers);
    nghttp2_session_callbacks_set_on_header_callback(cb, http2_on_header);
    nghttp2_session_callbacks_set_on_invalid_header_callback(cb, http2_on_invalid_header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(cb, http2_on_data_chunk);
    nghttp2_session_callbacks_set_on_frame_recv_callback(cb, http2_on_frame_recv);
    nghttp2_session_callbacks_set_on_stream_close_callback(cb, http2_on_stream_close);
    nghttp2_session_callbacks_set_on_frame_send_callback(cb, http2_on_frame_send);
    nghttp2_session_callbacks_set_on_frame_not_send_callback(cb, http2_on_frame_not_send);
    nghttp2_session_callbacks_set_send_data_callback(cb, http2_on_send_data);
    set_read_length(cb, http2_on_read_length);
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
