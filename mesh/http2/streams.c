/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the meshnode authors */

/* Buffers, events, and the streams of a session. */

#include "lane.h"

void *grow(buf *b, size_t more)
{
    size_t need = b->len + more, cap = b->cap ? b->cap : more > LONG_BYTES ? ROOM_BYTES : 256;
    char *p;

    if (need > b->cap) {
        while (cap < need)
            cap *= 2;
        p = realloc(b->p, cap);
        if (!p)
            return NULL;
        b->p = p;
        b->cap = cap;
    }
    p = b->p + b->len;
    b->len = need;
    return p;
}

int append(buf *b, const void *data, size_t len)
{
    void *p = grow(b, len);

    if (!p)
        return -1;
    if (len)
        memcpy(p, data, len);
    return 0;
}

void clear(buf *b)
{
    if (b->cap > KEEP_BYTES && b->len < b->cap / 8) {
        if (++b->calm >= CALM_CALLS) {
            free(b->p);
            *b = (buf){0};
        }
    } else {
        b->calm = 0;
    }
    b->len = 0;
}

int fatal(mn_session *s, uint32_t code, const char *why)
{
    if (!s->fatal) {
        s->fatal = why;
        s->fatal_code = code;
    }
    return NGHTTP2_ERR_CALLBACK_FAILURE;
}

int no_memory(mn_session *s)
{
    return fatal(s, NGHTTP2_INTERNAL_ERROR, "out of memory");
}

int event(mn_session *s, int32_t kind, int32_t id, uint32_t a, uint32_t b)
{
    int32_t record[4] = {kind, id, (int32_t)a, (int32_t)b};

    return append(&s->events, record, sizeof record) ? no_memory(s) : 0;
}

/* Forget what the caller has collected. */
void begin(mn_session *s)
{
    if (s->collected) {
        clear(&s->events);
        clear(&s->text);
        clear(&s->released);
        s->collected = 0;
        s->settings_told = 0;
    }
    if (s->taken) {
        clear(&s->out);
        s->taken = 0;
        s->answer_bytes = 0;
    }
    s->batch.error = "";
}

void publish(mn_session *s)
{
    s->batch.events = (const int32_t *)(const void *)s->events.p;
    s->batch.events_len = s->events.len / sizeof(int32_t);
    s->batch.text = s->text.p;
    s->batch.text_len = s->text.len;
    s->batch.out = s->out.p;
    s->batch.out_len = s->taken ? 0 : s->out.len;
    s->batch.released = (const uint64_t *)(const void *)s->released.p;
    s->batch.released_len = s->released.len / sizeof(uint64_t);
    s->batch.touched = s->lane && s->lane->touched;
}

/* ---- streams ---------------------------------------------------------------------------- */

stream *find(const mn_session *s, int32_t id)
{
    return id > 0 ? nghttp2_session_get_stream_user_data(s->ng, id) : NULL;
}

stream *stream_new(mn_session *s)
{
    stream *st = calloc(1, sizeof *st);

    if (!st)
        return NULL;
    st->all_next = s->all;
    if (s->all)
        s->all->all_prev = st;
    s->all = st;
    s->open++;
    return st;
}

void unready(stream *st)
{
    if (!st->ready)
        return;
    st->prev->next = st->next;
    st->next->prev = st->prev;
    st->ready = 0;
}

void make_ready(mn_session *s, stream *st)
{
    if (st->ready || !(st->head || (st->end && !st->end_sent)))
        return;
    st->prev = s->ready.prev;
    st->next = &s->ready;
    st->prev->next = st;
    s->ready.prev = st;
    st->ready = 1;
}

/* Payload behind what is queued: copied if there is no token to tell its release by. */
int queue(stream *st, const char *data, size_t len, uint64_t token)
{
    chunk *c;

    if (!len)
        return 0;
    c = malloc(sizeof *c + (token ? 0 : len));
    if (!c)
        return -1;
    *c = (chunk){.p = data, .len = len, .token = token};
    if (!token) {
        memcpy(c + 1, data, len);
        c->p = (const char *)(c + 1);
    }
    if (st->tail)
        st->tail->next = c;
    else
        st->head = c;
    st->tail = c;
    st->unsent += len;
    return 0;
}

void drop_chunk(mn_session *s, stream *st)
{
    chunk *c = st->head;

    st->head = c->next;
    if (!st->head)
        st->tail = NULL;
    /* Without memory the bytes stay referenced until the session ends: a leak, not a fault. */
    if (c->token && append(&s->released, &c->token, sizeof c->token))
        no_memory(s);
    free(c);
}

void drop_queue(mn_session *s, stream *st)
{
    unready(st);
    while (st->head)
        drop_chunk(s, st);
    st->direct_len = st->unsent = 0;
    free(st->trailers);
    st->trailers = NULL;
}

void stream_free(mn_session *s, stream *st)
{
    if (s->turn == st)
        s->turn = NULL;
    if (s->pending == st)
        s->pending = NULL;
    drop_queue(s, st);
    if (st->all_next)
        st->all_next->all_prev = st->all_prev;
    if (st->all_prev)
        st->all_prev->all_next = st->all_next;
    else
        s->all = st->all_next;
    free(st);
    s->open--;
}

/* A stream ended badly before it was answered, or by a fault of the peer. */
int count_bad_end(mn_session *s)
{
    if (++s->bad_ends > MAX_BAD_ENDS + s->max_streams)
        return fatal(s, NGHTTP2_ENHANCE_YOUR_CALM, "too many streams reset");
    return 0;
}

int count_idle_frame(mn_session *s)
{
    if (++s->idle_frames > MAX_IDLE_FRAMES)
        return fatal(s, NGHTTP2_ENHANCE_YOUR_CALM, "too many frames that carry nothing");
    return 0;
}

void credit_idle_frames(mn_session *s)
{
    s->idle_frames = s->idle_frames > IDLE_CREDIT ? s->idle_frames - IDLE_CREDIT : 0;
}

void stop_if_sent(mn_session *s, stream *st)
{
    /* With a reset in its queue nghttp2 would not send trailers any more. */
    if (!st->stop || !st->over || st->resetting ||
        nghttp2_session_get_stream_remote_close(s->ng, st->id))
        return;
    st->resetting = 1;
    nghttp2_submit_rst_stream(s->ng, NGHTTP2_FLAG_NONE, st->id, NGHTTP2_NO_ERROR);
}

int tell_reset(mn_session *s, stream *st, uint32_t code, int remote)
{
    if (st->x) {
        lane_reset(s, st, code, remote);
        return 0;
    }
    if (st->reset_told || !st->announced || st->quiet)
        return 0;
    st->reset_told = 1;
    return event(s, MN_EVENT_RESET, st->id, code, (uint32_t)remote);
}
