/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the meshnode authors */

/* Requests on their way through the lane: from taking one to its end, whatever that is. */

#include "lane.h"

/* --- ends --------------------------------------------------------------------------------- */

void lane_credit(mn_session *s, stream *st)
{
    size_t n = st->owed;

    if (!n || s->dead)
        return;
    st->owed = 0;
    st->unconsumed -= n < st->unconsumed ? n : st->unconsumed;
    give_back(s, st->id, n);
    if (!s->busy && nghttp2_session_want_write(s->ng))
        lane_touch(s);
}

static void let_go(crossing *x)
{
    mn_lane *lane = x->target->lane;

    if (x->up) {
        x->up->x = NULL;
        lane_credit(x->to, x->up);
    }
    if (x->down) {
        x->down->x = NULL;
        lane_credit(x->from, x->down);
    }
    if (x->to->goaway_seen || x->target->reserved)
        lane_touch(x->to); /* to be closed, perhaps, or used by who waits */
    x->entry->users--;
    x->target->active--;
    lane->crowd[lane->own]--;
    free(x->head);
    free(x->body.p);
    free(x);
}

static bool is_told(const crossing *x, uint32_t failure)
{
    const mn_lane *lane = x->target->lane;

    if (lane->tell != MN_TELL_FAILURES)
        return lane->tell == MN_TELL_ALL;
    return failure != MN_FINE || x->status >= 500 ||
           (x->grpc_status >= 0 && x->grpc_status < 32 && lane->failed_calls >> x->grpc_status & 1);
}

/* Everything there is to know of a request, as an event of its client's session. */
static void tell(const crossing *x, int32_t kind, uint32_t why, uint32_t code, int32_t id)
{
    mn_session *s = x->from;
    double now = lane_clock();
    mn_told what = {
        .entry = x->entry->number,
        .target = x->target->number,
        .received = x->received,
        .sent = x->sent,
        .seconds = now - x->began_at,
        .answered_s = x->responded ? x->answered_at - x->began_at : -1,
        .head_len = (uint32_t)x->head_len,
        .id_len = (uint32_t)x->id_len,
        .body_len = kind == MN_EVENT_RETURNED && x->whole ? (uint32_t)x->body.len : 0,
        .status = x->status,
        .grpc_status = x->grpc_status,
        .why = why,
        .code = code,
        .over = x->request_over,
        .whole = x->whole,
    };
    size_t len = sizeof what + x->head_len + x->id_len + what.body_len;

    begin(s);
    if (append(&s->text, &what, sizeof what) ||
        append(&s->text, x->head, x->head_len + x->id_len) ||
        append(&s->text, x->body.p, what.body_len) || event(s, kind, id, (uint32_t)len, 0))
        no_memory(s);
    lane_touch(s);
}

static void finish(crossing *x, uint32_t failure)
{
    if (is_told(x, failure))
        tell(x, MN_EVENT_TOLD, failure, 0, 0);
    else
        lane_count(x->target->lane, x, failure);
    let_go(x);
}

void lane_reset_stream(mn_session *s, stream *st, uint32_t code)
{
    if (!st || s->dead || st->resetting)
        return;
    begin(s);
    st->resetting = 1;
    drop_queue(s, st);
    nghttp2_submit_rst_stream(s->ng, NGHTTP2_FLAG_NONE, st->id, code);
    pump(s);
    lane_touch(s);
}

/* The answer is complete, and the client need not send the rest (RFC 9113 §8.1). */
static void stop_request(mn_session *s, stream *down)
{
    down->stop = 1;
    stop_if_sent(s, down);
    pump(s);
    lane_touch(s);
}

void lane_answer_over(crossing *x)
{
    mn_session *from = x->from, *to = x->to;
    stream *down = x->down, *up = x->up;
    bool stop = !x->request_over;

    finish(x, MN_FINE);
    if (!stop)
        return;
    if (up)
        lane_reset_stream(to, up, NGHTTP2_NO_ERROR);
    if (down && !from->dead)
        stop_request(from, down);
}

void lane_give_back(crossing *x, uint32_t reason, uint32_t code)
{
    if (!x->down) { /* nobody is left to have it */
        finish(x, MN_CLIENT_GONE);
        return;
    }
    tell(x, MN_EVENT_RETURNED, reason, code, x->down->id);
    x->down->quiet = 0;
    let_go(x);
}

void mn_lane_recall(mn_session *s, int32_t id)
{
    stream *st = s->dead ? NULL : find(s, id), *up;
    mn_session *to;

    if (!st || !st->x || s->client)
        return;
    to = st->x->to;
    up = st->x->up;
    lane_give_back(st->x, MN_RECALLED, 0);
    lane_reset_stream(to, up, NGHTTP2_CANCEL);
}

int mn_lane_cut(mn_session *s, int32_t id)
{
    stream *st = s->dead || s->client ? NULL : find(s, id);

    if (!st || !st->quiet)
        return 0;
    if (st->x) {
        mn_session *to = st->x->to;
        stream *up = st->x->up;

        finish(st->x, MN_CLIENT_STUCK);
        lane_reset_stream(to, up, NGHTTP2_CANCEL);
    }
    lane_reset_stream(s, st, NGHTTP2_CANCEL);
    return 1;
}

/* The server's stream is over before its time. */
static void server_failed(crossing *x, uint32_t reason, uint32_t code, bool cut)
{
    if (!x->responded) {
        lane_give_back(x, reason, code);
    } else {
        mn_session *from = x->from;
        stream *down = x->down;

        finish(x, cut ? MN_SERVER_CUT : MN_SERVER_WRONG);
        lane_reset_stream(from, down, NGHTTP2_INTERNAL_ERROR);
    }
}

void lane_reset(mn_session *s, stream *st, uint32_t code, bool by_peer)
{
    crossing *x = st->x;
    uint32_t reason = MN_RESET;

    if (s->client) {
        if (!by_peer)
            reason = MN_UNUSUAL;
        else if (code == NGHTTP2_REFUSED_STREAM)
            reason = MN_REFUSED;
        server_failed(x, reason, code, by_peer);
    } else {
        mn_session *to = x->to;
        stream *up = x->up;

        finish(x, MN_CLIENT_GONE);
        lane_reset_stream(to, up, NGHTTP2_CANCEL);
    }
}

void lane_lost(mn_session *s, stream *st, uint32_t reason)
{
    if (s->client)
        server_failed(st->x, reason, 0, true);
    else
        lane_reset(s, st, NGHTTP2_NO_ERROR, true);
}

void lane_closed(mn_session *s, stream *st)
{
    crossing *x = st->x;

    if (s->client) {
        lane_reset(s, st, NGHTTP2_INTERNAL_ERROR, true);
    } else {
        x->down = NULL;
        st->x = NULL;
    }
}

/* --- requests ----------------------------------------------------------------------------- */

static mn_session *usable(const mn_lane *lane, const mn_target *target)
{
    mn_session *s = target->sessions;

    for (; s; s = s->target_next)
        if (s->settled && !s->dead && !s->busy && !s->goaway_seen && !s->goaway_sent &&
            s->open < lane->limits.max_streams && s->open < mn_remote_max_streams(s))
            return s;
    return NULL;
}

static crossing *crossing_new(mn_session *from, stream *down, mn_session *to, entry *e, bool end)
{
    const head *h = &from->lane->head;
    crossing *x = calloc(1, sizeof *x);

    if (!x)
        return NULL;
    x->from = from;
    x->to = to;
    x->down = down;
    x->entry = e;
    x->target = to->target;
    x->began_at = lane_clock();
    x->grpc_status = -1;
    x->is_head = h->method.len == 4 && !memcmp(h->method.at, "HEAD", 4);
    x->is_grpc = h->is_grpc;
    x->request_over = end;
    x->whole = true;
    return x;
}

static bool keep_head(crossing *x)
{
    const buf *block = &x->from->block;
    const slice *id = &x->from->lane->head.request_id;

    x->head = malloc(block->len + id->len);
    if (!x->head)
        return false;
    memcpy(x->head, block->p, block->len);
    memcpy(x->head + block->len, id->at, id->len);
    x->head_len = block->len;
    x->id_len = id->len;
    return true;
}

static bool send_request(crossing *x, bool end)
{
    mn_lane *lane = x->from->lane;
    size_t n = lane_request_fields(lane, x->from->caller, &lane->head);
    stream *up = n && keep_head(x) ? stream_new(x->to) : NULL;

    if (!up)
        return false;
    begin(x->to);
    up->quiet = 1;
    if (open_stream(x->to, up, lane->nv, n, end))
        return false;
    x->up = up;
    up->x = x;
    return true;
}

/* What the lane knows of a request; `*to` is where it goes. */
static enum lane_taken look_up(mn_session *s, bool end, entry **found, mn_session **to)
{
    mn_lane *lane = s->lane;
    mn_target *target;
    size_t len;

    if (!lane || lane_is_full(lane))
        return LANE_NOT_PLAIN;
    if (s->world != lane->world)
        return LANE_UNKNOWN;
    if (!s->caller || !lane_read_request(lane, s->block.p, s->block.len, end, &lane->head))
        return LANE_NOT_PLAIN;
    len = lane_key(lane, s->caller, &lane->head);
    if (!len)
        return LANE_NOT_PLAIN;
    *found = lane_find(s->caller, lane->key, len);
    if (!*found)
        return LANE_UNKNOWN;
    target = lane_pick(lane, *found);
    *to = target ? usable(lane, target) : NULL;
    return *to ? LANE_TAKEN : LANE_NOT_PLAIN;
}

enum lane_taken lane_request(mn_session *s, stream *st, bool end)
{
    entry *e = NULL;
    mn_session *to = NULL;
    enum lane_taken taken = look_up(s, end, &e, &to);
    crossing *x;

    if (taken != LANE_TAKEN)
        return taken;
    x = crossing_new(s, st, to, e, end);
    if (!x)
        return LANE_NOT_PLAIN;
    if (!send_request(x, end)) {
        free(x->head);
        free(x);
        return LANE_NOT_PLAIN;
    }
    st->x = x;
    st->quiet = 1;
    e->users++;
    to->target->active++;
    s->lane->crowd[s->lane->own]++;
    s->lane->taken++;
    lane_touch(to);
    return LANE_TAKEN;
}
