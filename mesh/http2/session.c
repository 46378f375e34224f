/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the meshnode authors */

/* Life of a session, and its bytes. */

#include "lane.h"

/* Distributions carry these back to older releases, so the version number does not tell. */
extern void nghttp2_option_set_stream_reset_rate_limit(nghttp2_option *, uint64_t, uint64_t)
    __attribute__((weak));
extern void nghttp2_option_set_max_continuations(nghttp2_option *, size_t) __attribute__((weak));

/* End the connection ourselves: nghttp2 takes nothing any more after a failed callback. */
static void die(mn_session *s)
{
    uint32_t id = (uint32_t)s->last_peer_stream, code = s->fatal_code;
    uint8_t goaway[FRAME_HEAD + 8] = {0, 0, 8, NGHTTP2_GOAWAY};
    int i;

    for (i = 0; i < 4; i++) {
        goaway[FRAME_HEAD + i] = (uint8_t)(id >> (24 - 8 * i));
        goaway[FRAME_HEAD + 4 + i] = (uint8_t)(code >> (24 - 8 * i));
    }
    if (!append(&s->out, goaway, sizeof goaway))
        strncpy(s->reason, s->fatal, sizeof s->reason - 1);
    s->dead = 1;
}

/* Write out every frame that waits for nothing. */
void pump(mn_session *s)
{
    const uint8_t *p;
    mn_ssize n;

    if (s->busy)
        return;
    s->busy = 1;
    while (!s->dead && (n = mem_send(s->ng, &p)) != 0) {
        if (n < 0) {
            fatal(s, NGHTTP2_INTERNAL_ERROR, nghttp2_strerror((int)n));
            break;
        }
        if (append(&s->out, p, (size_t)n)) {
            no_memory(s);
            break;
        }
    }
    s->busy = 0;
    if (s->fatal && !s->dead)
        die(s);
}

int mn_receive(mn_session *s, const uint8_t *data, size_t len)
{
    size_t before;
    mn_ssize n;

    begin(s);
    if (!s->dead) {
        s->input = data;
        s->busy = 1;
        n = mem_recv(s->ng, data, len);
        s->busy = 0;
        s->input = NULL;
        lane_input_over(s);
        if (n < 0)
            fatal(s, n == NGHTTP2_ERR_FLOODED ? NGHTTP2_ENHANCE_YOUR_CALM : NGHTTP2_PROTOCOL_ERROR,
                  nghttp2_strerror((int)n));
        before = s->out.len;
        s->receiving = 1;
        if (s->fatal)
            die(s);
        else
            pump(s);
        s->receiving = 0;
        s->answer_bytes += s->out.len - before;
        if (s->answer_bytes > MAX_ANSWER_BYTES && !s->dead) {
            fatal(s, NGHTTP2_ENHANCE_YOUR_CALM, "the peer does not read our answers");
            die(s);
        }
    }
    s->collected = 1;
    lane_received(s);
    publish(s);
    if (!s->dead)
        return 0;
    s->batch.error = s->reason;
    return -1;
}

void mn_take(mn_session *s, size_t limit)
{
    stream *st;

    begin(s);
    pump(s);
    while (!s->dead && s->out.len < limit && s->ready.next != &s->ready &&
           nghttp2_session_get_remote_window_size(s->ng) > 0) {
        st = s->ready.next;
        unready(st);
        s->quantum = limit - s->out.len;
        if (s->ready.next != &s->ready && s->quantum > SHARED_TURN)
            s->quantum = SHARED_TURN;
        if (s->quantum < MIN_TURN)
            s->quantum = MIN_TURN;
        s->turn = st;
        nghttp2_session_resume_data(s->ng, st->id);
        pump(s);
        s->turn = NULL;
    }
    publish(s);
    s->collected = 1;
    s->taken = 1;
}

char *mn_detach(mn_session *s)
{
    char *p = s->out.p;

    s->out = (buf){0};
    s->taken = 0;
    s->answer_bytes = 0;
    s->batch.out = NULL;
    s->batch.out_len = 0;
    return p;
}

void mn_free_output(char *output)
{
    free(output);
}

int mn_wants_output(const mn_session *s)
{
    const stream *st;

    if (s->out.len && !s->taken)
        return 1;
    if (s->dead)
        return 0;
    if (nghttp2_session_want_write(s->ng))
        return 1;
    if (nghttp2_session_get_remote_window_size(s->ng) <= 0)
        return 0;
    for (st = s->ready.next; st != &s->ready; st = st->next)
        if (nghttp2_session_get_stream_remote_window_size(s->ng, st->id) > 0)
            return 1;
    return 0;
}

const mn_batch *mn_batch_of(const mn_session *s)
{
    return &s->batch;
}

static nghttp2_option *options(void)
{
    nghttp2_option *o;

    if (nghttp2_option_new(&o))
        return NULL;
    nghttp2_option_set_no_auto_window_update(o, 1);
    /* Closed streams are kept for RFC 7540 priorities only, which we do not use. */
    nghttp2_option_set_no_closed_streams(o, 1);
    nghttp2_option_set_peer_max_concurrent_streams(o, MAX_STREAMS);
    /* Its limit is resets per second: applications that end with a reset would trip it. Ours
     * looks at streams that were not answered (MAX_BAD_ENDS). */
    if (nghttp2_option_set_stream_reset_rate_limit)
        nghttp2_option_set_stream_reset_rate_limit(o, UINT64_MAX, UINT64_MAX);
    if (nghttp2_option_set_max_continuations)
        nghttp2_option_set_max_continuations(o, MAX_CONTINUATIONS);
    return o;
}

static int callbacks(nghttp2_session_callbacks **cb)
{
    if (nghttp2_session_callbacks_new(cb))
        return -1;
    nghttp2_session_callbacks_set_on_begin_frame_callback(*cb, on_begin_frame);
    nghttp2_session_callbacks_set_on_begin_headers_callback(*cb, on_begin_headers);
    nghttp2_session_callbacks_set_on_header_callback(*cb, on_header);
    nghttp2_session_callbacks_set_on_invalid_header_callback(*cb, on_invalid_header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(*cb, on_data_chunk);
    nghttp2_session_callbacks_set_on_frame_recv_callback(*cb, on_frame_recv);
    nghttp2_session_callbacks_set_on_stream_close_callback(*cb, on_stream_close);
    nghttp2_session_callbacks_set_on_frame_send_callback(*cb, on_frame_send);
    nghttp2_session_callbacks_set_on_frame_not_send_callback(*cb, on_frame_not_send);
    nghttp2_session_callbacks_set_send_data_callback(*cb, on_send_data);
    set_read_length(*cb, on_read_length);
    return 0;
}

static int submit_settings(mn_session *s, const mn_settings *x)
{
    size_t count = x->client || x->extended_connect ? 5 : 4;
    nghttp2_settings_entry entries[5] = {
        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, x->stream_window},
        {NGHTTP2_SETTINGS_MAX_FRAME_SIZE, x->max_frame},
        {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, x->max_header_list},
        {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, x->max_concurrent_streams},
        {NGHTTP2_SETTINGS_ENABLE_PUSH, 0},
    };

    if (!x->client)
        entries[4] = (nghttp2_settings_entry){NGHTTP2_SETTINGS_ENABLE_CONNECT_PROTOCOL, 1};
    if (nghttp2_submit_settings(s->ng, NGHTTP2_FLAG_NONE, entries, count))
        return -1;
    return nghttp2_session_set_local_window_size(s->ng, NGHTTP2_FLAG_NONE, 0,
                                                 (int32_t)x->connection_window);
}

mn_session *mn_new(const mn_settings *x)
{
    mn_session *s = calloc(1, sizeof *s);
    nghttp2_session_callbacks *cb = NULL;
    nghttp2_option *o = NULL;
    int rv = -1;

    if (!s)
        return NULL;
    s->client = !!x->client;
    s->max_header_list = x->max_header_list;
    /* Until the peer has our SETTINGS it may rightly send the protocol's default. */
    s->stream_window = x->stream_window < DEFAULT_WINDOW ? DEFAULT_WINDOW : x->stream_window;
    s->max_streams = x->max_concurrent_streams;
    s->ahead = x->ahead;
    s->ready.next = s->ready.prev = &s->ready;
    s->batch.error = "";
    o = options();
    if (o && !callbacks(&cb))
        rv = s->client ? nghttp2_session_client_new2(&s->ng, cb, s, o)
                       : nghttp2_session_server_new2(&s->ng, cb, s, o);
    if (!rv)
        rv = submit_settings(s, x);
    if (cb)
        nghttp2_session_callbacks_del(cb);
    if (o)
        nghttp2_option_del(o);
    if (rv) {
        mn_free(s);
        return NULL;
    }
    return s;
}

void mn_free(mn_session *s)
{
    if (!s)
        return;
    mn_lane_leave(s);
    if (s->ng)
        nghttp2_session_del(s->ng);
    while (s->all)
        stream_free(s, s->all);
    free(s->events.p);
    free(s->text.p);
    free(s->out.p);
    free(s->released.p);
    free(s->block.p);
    free(s);
}
