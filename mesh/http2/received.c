/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the meshnode authors */

/* What the peer sends. */

#include "lane.h"

/* The bit of a stream of the peer that is or was; 0 for one too old to be remembered. */
uint64_t past_bit(const mn_session *s, int32_t id)
{
    uint32_t age = (uint32_t)(s->last_peer_stream - id) / 2;

    return id > 0 && id <= s->last_peer_stream && age < 64 ? UINT64_C(1) << age : 0;
}

static void note_opened(mn_session *s, int32_t id)
{
    uint32_t step = (uint32_t)(id - s->last_peer_stream) / 2;

    if (!s->last_peer_stream || step >= 64)
        s->opened = s->cut = 0;
    else
        s->opened <<= step, s->cut <<= step;
    s->opened |= 1;
    s->last_peer_stream = id;
}

/*
 * nghttp2 ignores frames on streams that are gone, because what we reset may still be on its way.
 * A peer that opens a stream again after it ended it, or goes back to an id it left out, is told
 * (RFC 9113 §5.1, §5.1.1). DATA is not reported, and may be ignored.
 */
static int check_gone(mn_session *s, const nghttp2_frame_hd *hd)
{
    uint64_t bit;

    if (s->client || !(hd->stream_id & 1) || find(s, hd->stream_id))
        return 0;
    bit = past_bit(s, hd->stream_id);
    if (!bit || s->cut & bit)
        return 0;
    if (s->opened & bit)
        return fatal(s, NGHTTP2_STREAM_CLOSED, "headers on a stream that is closed");
    return fatal(s, NGHTTP2_PROTOCOL_ERROR, "a stream id that was left out");
}

int on_begin_frame(nghttp2_session *ng, const nghttp2_frame_hd *hd, void *user)
{
    mn_session *s = user;

    (void)ng;
    if (hd->type == NGHTTP2_CONTINUATION) {
        if (++s->continuations > MAX_CONTINUATIONS)
            return fatal(s, NGHTTP2_ENHANCE_YOUR_CALM, "too many CONTINUATION frames");
        return 0;
    }
    s->continuations = 0;
    if (hd->type == NGHTTP2_HEADERS)
        return check_gone(s, hd);
    if (hd->type == NGHTTP2_PRIORITY || hd->type > NGHTTP2_CONTINUATION)
        return count_idle_frame(s);
    return 0;
}

int on_begin_headers(nghttp2_session *ng, const nghttp2_frame *frame, void *user)
{
    mn_session *s = user;
    stream *st;

    s->block.len = 0;
    s->block_list_bytes = 0;
    if (frame->headers.cat != NGHTTP2_HCAT_REQUEST)
        return 0;
    st = stream_new(s);
    if (!st)
        return no_memory(s);
    st->id = frame->hd.stream_id;
    note_opened(s, st->id);
    nghttp2_session_set_stream_user_data(ng, st->id, st);
    return 0;
}

int on_header(nghttp2_session *ng, const nghttp2_frame *frame, const uint8_t *name,
                     size_t name_len, const uint8_t *value, size_t value_len, uint8_t flags,
                     void *user)
{
    mn_session *s = user;
    stream *st = find(s, frame->hd.stream_id);
    char *p;

    (void)flags;
    s->block_list_bytes += name_len + value_len + 32;
    if (s->block_list_bytes > (size_t)s->max_header_list * HEADER_LIST_FACTOR)
        return fatal(s, NGHTTP2_ENHANCE_YOUR_CALM, "header list too large");
    if (!st || st->condemned)
        return 0;
    if (s->block_list_bytes > s->max_header_list) {
        st->condemned = 1;
        nghttp2_submit_rst_stream(ng, NGHTTP2_FLAG_NONE, st->id, NGHTTP2_ENHANCE_YOUR_CALM);
        return 0;
    }
    p = grow(&s->block, name_len + value_len + 2);
    if (!p)
        return no_memory(s);
    memcpy(p, name, name_len);
    p[name_len] = '\0';
    memcpy(p + name_len + 1, value, value_len);
    p[name_len + 1 + value_len] = '\0';
    return 0;
}

/* nghttp2 would skip the field; RFC 9113 §8.1.1 wants the whole message refused. */
int on_invalid_header(nghttp2_session *ng, const nghttp2_frame *frame, const uint8_t *name,
                             size_t name_len, const uint8_t *value, size_t value_len,
                             uint8_t flags, void *user)
{
    (void)ng, (void)frame, (void)name, (void)name_len, (void)value, (void)value_len;
    (void)flags, (void)user;
    return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
}

int on_data_chunk(nghttp2_session *ng, uint8_t flags, int32_t id, const uint8_t *data,
                         size_t len, void *user)
{
    mn_session *s = user;
    stream *st = find(s, id);

    (void)flags;
    /* nghttp2 resets a stream that overruns its window, but hands on what is too much. */
    if (st && len > s->stream_window + st->widened - st->unconsumed)
        st->condemned = 1;
    if (!st || st->condemned || st->resetting || (st->quiet && !st->x)) {
        nghttp2_session_consume(ng, id, len);
        return 0;
    }
    hold(s, len);
    if (st->x)
        return lane_data(s, st, (const char *)data, len);
    st->unconsumed += len;
    return event(s, MN_EVENT_DATA, id, (uint32_t)(data - s->input), (uint32_t)len);
}

static int headers_received(mn_session *s, stream *st, const nghttp2_frame *frame)
{
    int end = frame->hd.flags & NGHTTP2_FLAG_END_STREAM;
    enum lane_taken taken = LANE_NOT_PLAIN;

    if (st->condemned)
        return 0;
    if (s->client && !end && !st->answered && s->block.len >= 9 &&
        !memcmp(s->block.p, ":status\0001", 9)) {
        if (count_idle_frame(s))
            return NGHTTP2_ERR_CALLBACK_FAILURE;
    } else {
        credit_idle_frames(s);
        if (s->client)
            st->answered = s->has_answered = 1;
    }
    if (st->quiet)
        return st->x ? lane_headers(s, st, end) : 0;
    if (frame->headers.cat == NGHTTP2_HCAT_REQUEST) {
        taken = lane_request(s, st, end);
        if (taken == LANE_TAKEN) {
            st->announced = 1;
            clear(&s->block);
            return 0;
        }
    }
    st->announced = 1;
    if (append(&s->text, s->block.p, s->block.len))
        return no_memory(s);
    if (event(s, MN_EVENT_HEADERS, st->id, (uint32_t)s->block.len,
              (end ? MN_HEADERS_END : 0) | (taken == LANE_UNKNOWN ? MN_HEADERS_UNKNOWN : 0)))
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    clear(&s->block);
    return end ? event(s, MN_EVENT_END, st->id, 0, 0) : 0;
}

static int data_received(mn_session *s, stream *st, const nghttp2_frame *frame)
{
    int end = frame->hd.flags & NGHTTP2_FLAG_END_STREAM;

    if (frame->hd.length > frame->data.padlen)
        credit_idle_frames(s);
    else if (!end && count_idle_frame(s))
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    if (st && st->x)
        return lane_data_over(s, st, end);
    if (!st || !end || st->condemned || st->resetting || st->quiet)
        return 0;
    return event(s, MN_EVENT_END, st->id, 0, 0);
}

static int reset_received(mn_session *s, stream *st, uint32_t code)
{
    if (!st)
        return 0;
    if (!s->client && !st->answered && count_bad_end(s))
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    return tell_reset(s, st, code, 1);
}

static int pong_received(mn_session *s, const uint8_t *payload)
{
    /* An answer nobody asked for is no event: else eight bytes buy a Python object. */
    if (!s->pings)
        return count_idle_frame(s);
    s->pings--;
    if (append(&s->text, payload, 8))
        return no_memory(s);
    return event(s, MN_EVENT_PONG, 0, 8, 0);
}

/* A change now and then is good; each costs Python an event (CVE-2019-9515). */
static int settings_received(mn_session *s)
{
    if (s->settled && count_idle_frame(s))
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    s->settled = 1;
    if (s->settings_told)
        return 0;
    s->settings_told = 1;
    return event(s, MN_EVENT_SETTINGS, 0, 0, 0);
}

int on_frame_recv(nghttp2_session *ng, const nghttp2_frame *frame, void *user)
{
    mn_session *s = user;
    stream *st = find(s, frame->hd.stream_id);

    (void)ng;
    switch (frame->hd.type) {
    case NGHTTP2_DATA:
        return data_received(s, st, frame);
    case NGHTTP2_HEADERS:
        return st ? headers_received(s, st, frame) : 0;
    case NGHTTP2_RST_STREAM:
        return reset_received(s, st, frame->rst_stream.error_code);
    case NGHTTP2_SETTINGS:
        return frame->hd.flags & NGHTTP2_FLAG_ACK ? 0 : settings_received(s);
    case NGHTTP2_PING:
        return frame->hd.flags & NGHTTP2_FLAG_ACK ? pong_received(s, frame->ping.opaque_data) : 0;
    case NGHTTP2_GOAWAY:
        if (s->goaway_seen && count_idle_frame(s))
            return NGHTTP2_ERR_CALLBACK_FAILURE;
        s->goaway_seen = 1;
        return event(s, MN_EVENT_GOAWAY, frame->goaway.last_stream_id, frame->goaway.error_code,
                     0);
    default:
        return 0;
    }
}

int on_stream_close(nghttp2_session *ng, int32_t id, uint32_t code, void *user)
{
    mn_session *s = user;
    stream *st = find(s, id);
    int rv = 0;

    if (!st || st == s->opening)
        return 0;
    if (code != NGHTTP2_NO_ERROR && !st->resetting)
        rv = tell_reset(s, st, code, 1); /* refused by a GOAWAY */
    if (st->x)
        lane_closed(s, st);
    if (st->owed)
        release(s, st->owed);
    if (st->answered && s->bad_ends)
        s->bad_ends--;
    nghttp2_session_set_stream_user_data(ng, id, NULL);
    stream_free(s, st);
    return rv;
}
