/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the meshnode authors */

/*
 * Flow-control credit for payload, and peers that let it stand still.
 *
 * A stream's credit returns as its payload is passed on, the connection's as it comes: what a
 * stream that stands still holds must not stop the others. Only above `ahead` bytes in all the
 * connection waits with its slowest streams, because memory has an end.
 */

#include "lane.h"

void hold(mn_session *s, size_t len)
{
    s->held += len;
    if (s->held - s->withheld <= s->ahead)
        nghttp2_session_consume_connection(s->ng, len);
    else
        s->withheld += len;
}

void release(mn_session *s, size_t len)
{
    size_t keep;

    s->held -= len < s->held ? len : s->held;
    keep = s->held > s->ahead ? s->held - s->ahead : 0;
    if (s->withheld <= keep)
        return;
    nghttp2_session_consume_connection(s->ng, s->withheld - keep);
    s->withheld = keep;
}

void give_back(mn_session *s, int32_t id, size_t len)
{
    nghttp2_session_consume_stream(s->ng, id, len);
    release(s, len);
}

void mn_consume(mn_session *s, int32_t id, size_t len)
{
    stream *st;

    begin(s);
    if (s->dead)
        return;
    st = find(s, id);
    if (st)
        st->unconsumed -= len < st->unconsumed ? len : st->unconsumed;
    give_back(s, id, len);
}

void mn_widen(mn_session *s, int32_t id, size_t more)
{
    stream *st;
    int32_t now;

    begin(s);
    if (s->dead)
        return;
    st = find(s, id);
    now = nghttp2_session_get_stream_effective_local_window_size(s->ng, id);
    if (!st || now < 0 || more > (size_t)(INT32_MAX - now))
        return;
    st->widened += more;
    nghttp2_session_set_local_window_size(s->ng, NGHTTP2_FLAG_NONE, id, now + (int32_t)more);
}

/* ---- what stands still --------------------------------------------------------------------- */

static bool waits(const stream *st)
{
    return !st->resetting && (st->unsent || (st->end && !st->end_sent));
}

size_t mn_stuck(mn_session *s, double now, double limit_s, int32_t *into, size_t room)
{
    size_t count = 0;

    for (stream *st = s->dead ? NULL : s->all; st && count < room; st = st->all_next) {
        if (!waits(st))
            st->waits_since = 0;
        else if (st->moved || !st->waits_since)
            st->waits_since = now;
        else if (now - st->waits_since >= limit_s)
            into[count++] = st->id;
        st->moved = 0;
    }
    return count;
}

/* A call of gRPC may be silent for as long as it likes, and so may any stream both ways of which
 * are in use. While we hold its credit it is not the client's turn. */
static bool should_speak(const stream *st)
{
    const crossing *x = st->x;

    return x && !x->request_over && !x->responded && !x->is_grpc && !st->owed;
}

size_t mn_lane_silent(mn_session *s, double now, double limit_s, int32_t *into, size_t room)
{
    size_t count = 0;

    if (s->client)
        return 0;
    for (stream *st = s->dead ? NULL : s->all; st && count < room; st = st->all_next) {
        crossing *x = st->x;

        if (!x)
            continue;
        if (!should_speak(st) || x->heard || !x->silent_since)
            x->silent_since = now;
        else if (now - x->silent_since >= limit_s)
            into[count++] = st->id;
        x->heard = false;
    }
    return count;
}
