/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the meshnode authors */

/* Payload on its way through the lane, and the credit for it. */

#include "lane.h"

/* Frames of what has just come, while nothing else waits to be sent. */
static int send_at_once(mn_session *p, stream *sink, const char *data, size_t len)
{
    int32_t id = sink->id;
    size_t before;

    sink->direct = data;
    sink->direct_len = len;
    sink->unsent += len;
    do {
        before = sink->direct_len;
        p->quantum = before > MIN_TURN ? before : MIN_TURN;
        p->turn = sink;
        nghttp2_session_resume_data(p->ng, id);
        pump(p);
        p->turn = NULL;
        sink = p->dead ? NULL : find(p, id); /* its end may have been the stream's */
    } while (sink && sink->direct_len && sink->direct_len < before);
    if (!sink)
        return 0;
    data = sink->direct;
    len = sink->direct_len;
    sink->direct = NULL;
    sink->direct_len = 0;
    sink->unsent -= len;
    return queue(sink, data, len, 0) ? no_memory(p) : (make_ready(p, sink), 0);
}

static int forward(mn_session *p, stream *sink, const char *data, size_t len, bool end)
{
    int rv;

    if (!sink || p->dead || sink->end)
        return 0;
    begin(p);
    sink->end = end;
    if (!p->busy && !sink->head && p->ready.next == &p->ready && p->out.len < DIRECT_BYTES &&
        nghttp2_session_get_remote_window_size(p->ng) > 0) {
        rv = send_at_once(p, sink, data, len);
    } else {
        rv = queue(sink, data, len, 0) ? no_memory(p) : 0;
        make_ready(p, sink);
    }
    lane_touch(p);
    return rv;
}

/* A bounded start of a request's body is kept for another try. */
static void keep_body(crossing *x, const char *data, size_t len)
{
    if (x->responded || !x->whole || !len)
        return;
    if (x->body.len + len > x->target->lane->limits.replay_bytes ||
        append(&x->body, data, len)) {
        x->whole = false;
        free(x->body.p);
        x->body = (buf){0};
    }
}

static int pass_on(mn_session *s, bool end)
{
    stream *st = s->pending, *sink;
    crossing *x = st->x;
    size_t len = s->pending_len;
    int rv;

    s->pending = NULL;
    if (!x) {
        lane_credit(s, st);
        return 0;
    }
    if (!s->client)
        keep_body(x, s->pending_data, len);
    if (s->client && !x->responded)
        rv = 0; /* nghttp2 lets no payload come before the head */
    else if (s->client)
        rv = forward(x->from, x->down, s->pending_data, len, end);
    else
        rv = forward(x->to, x->up, s->pending_data, len, end);
    sink = s->client ? x->down : x->up; /* gone, perhaps, with its end */
    if (!sink || sink->unsent <= x->target->lane->limits.high_water_bytes)
        lane_credit(s, st);
    return rv;
}

int lane_data(mn_session *s, stream *st, const char *data, size_t len)
{
    crossing *x = st->x;

    if (s->pending)
        pass_on(s, false);
    st->unconsumed += len;
    st->owed += len;
    if (s->client)
        x->sent += len;
    else
        x->received += len, x->heard = true;
    s->pending = st;
    s->pending_data = data;
    s->pending_len = len;
    return 0;
}

int lane_data_over(mn_session *s, stream *st, bool end)
{
    crossing *x = st->x;

    if (s->pending != st) {
        if (!end)
            return 0;
        s->pending = st;
        s->pending_data = "";
        s->pending_len = 0;
    }
    pass_on(s, end);
    if (!end || st->x != x)
        return 0;
    if (s->client)
        lane_answer_over(x);
    else
        x->request_over = true;
    return 0;
}

void lane_input_over(mn_session *s)
{
    if (s->pending)
        pass_on(s, false);
}

void lane_sent(mn_session *s, stream *st)
{
    crossing *x = st->x;

    if (!x || st->unsent > x->target->lane->limits.high_water_bytes / 4)
        return;
    if (s->client && x->down)
        lane_credit(x->from, x->down);
    else if (!s->client && x->up)
        lane_credit(x->to, x->up);
}
