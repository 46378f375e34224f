/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the meshnode authors */

/* Heads of answers, and trailers both ways, on their way through the lane. */

#include "lane.h"

static void answer(crossing *x)
{
    mn_lane *lane = x->target->lane;
    head *h = &lane->head;
    mn_session *from = x->from;
    mn_session *to = x->to;
    stream *up = x->up;
    size_t n;

    if (h->status == 100 || from->dead || !x->down)
        return; /* that is between us and the server */
    n = lane_response_fields(lane, h);
    begin(from);
    if (!n || respond(from, x->down, lane->nv, n, h->status >= 200 && h->end)) {
        lane_give_back(x, MN_UNUSUAL, 0);
        lane_reset_stream(to, up, NGHTTP2_CANCEL);
        return;
    }
    lane_touch(from);
    if (h->status < 200)
        return;
    x->responded = true;
    x->status = h->status;
    x->answered_at = lane_clock();
    if (x->is_grpc)
        x->grpc_status = h->grpc_status;
    free(x->body.p);
    x->body = (buf){0};
}

static int trailers_to(mn_session *p, stream *sink, const char *text, size_t len, size_t n)
{
    begin(p);
    if (p->dead || !sink || sink->end)
        return 0;
    if (keep_trailers(p, sink, text, len, n))
        lane_reset_stream(p, sink, NGHTTP2_INTERNAL_ERROR);
    lane_touch(p);
    return 0;
}

/* Of a request, without what its head must not claim either (RFC 9110 §6.5.1). */
static int request_trailers(mn_session *s, crossing *x)
{
    const char *at = s->block.p, *stop = at + s->block.len;
    mn_lane *lane = x->target->lane;
    buf *kept = &lane->scratch;
    slice name, value;
    size_t n = 0;

    kept->len = 0;
    x->whole = false;
    while (lane_next_field(&at, stop, &name, &value)) {
        uint8_t kind = lane_kind(lane, name.at, name.len);

        if (kind == FIELD_HEAD_ONLY || kind == FIELD_CLAIM || kind == FIELD_UNUSUAL ||
            kind == FIELD_PARENT || kind == FIELD_STATE || kind == FIELD_FORWARDED_FOR || kind == FIELD_REQUEST_ID || kind == FIELD_CONTENT_TYPE)
            continue;
        if (append(kept, name.at, name.len + value.len + 2))
            return no_memory(s);
        n++;
    }
    return n ? trailers_to(x->to, x->up, kept->p, kept->len - 1, n) : 1;
}

static int answer_trailers(mn_session *s, crossing *x)
{
    const char *at = s->block.p, *stop = at + s->block.len;
    slice name, value;
    size_t n = 0;

    while (lane_next_field(&at, stop, &name, &value)) {
        if (x->is_grpc && lane_kind(x->target->lane, name.at, name.len) == FIELD_GRPC_STATUS)
            lane_note_grpc(&x->grpc_status, &value);
        n++;
    }
    return n ? trailers_to(x->from, x->down, s->block.p, s->block.len - 1, n) : 1;
}

int lane_headers(mn_session *s, stream *st, bool end)
{
    crossing *x = st->x;
    mn_lane *lane = x->target->lane;
    int rv;

    if (s->client && !x->responded) {
        if (!lane_read_response(lane, s->block.p, s->block.len, end, x->is_head, &lane->head)) {
            lane_give_back(x, MN_UNUSUAL, 0);
            lane_reset_stream(s, st, NGHTTP2_CANCEL);
            return 0;
        }
        answer(x);
        if (end && st->x)
            lane_answer_over(x);
        return 0;
    }
    rv = s->client ? answer_trailers(s, x) : request_trailers(s, x);
    if (rv > 0) /* there are none */
        return lane_data_over(s, st, true);
    if (rv < 0)
        return rv;
    if (s->client)
        lane_answer_over(x);
    else
        x->request_over = true;
    return 0;
}
