/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the meshnode authors */

/*
 * libnghttp2 with its callbacks turned into batches (see shim.h).
 *
 * Who sends next is decided here and not by nghttp2, whose scheduler changed between releases
 * (RFC 7540 weights until 1.6x, then RFC 9218, which serves equal streams one after another): a
 * stream's data source answers "deferred" unless it is that stream's turn, and turns go round.
 * Control frames need no turn, so they can be written out at once ("pumped"), which shows errors
 * in the call that caused them and keeps nghttp2's own queues empty.
 */

#include "shim.h"

#include <nghttp2/nghttp2.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

/* 1.60 renamed what returns ssize_t; the old names can be compiled out. */
#if NGHTTP2_VERSION_NUM >= 0x013c00
typedef nghttp2_ssize mn_ssize;
typedef nghttp2_data_provider2 mn_provider;
#define mem_recv nghttp2_session_mem_recv2
#define mem_send nghttp2_session_mem_send2
#define submit_request nghttp2_submit_request2
#define submit_response nghttp2_submit_response2
#define set_read_length nghttp2_session_callbacks_set_data_source_read_length_callback2
#else
typedef ssize_t mn_ssize;
typedef nghttp2_data_provider mn_provider;
#define mem_recv nghttp2_session_mem_recv
#define mem_send nghttp2_session_mem_send
#define submit_request nghttp2_submit_request
#define submit_response nghttp2_submit_response
#define set_read_length nghttp2_session_callbacks_set_data_source_read_length_callback
#endif

/* Distributions carry these back to older releases, so the version number does not tell. */
extern void nghttp2_option_set_stream_reset_rate_limit(nghttp2_option *, uint64_t, uint64_t)
    __attribute__((weak));
extern void nghttp2_option_set_max_continuations(nghttp2_option *, size_t) __attribute__((weak));

#define FRAME_HEAD 9u
#define DEFAULT_WINDOW 65535u
#define MAX_STREAMS 0x7fffffffu
/* Payload up to this is copied into the queue: cheaper than a reference and its release. */
#define COPY_BELOW 1024u
/* A stream alone sends frames as large as the peer takes; next to others, no more per turn. */
#define SHARED_TURN 65536u
#define MIN_TURN 4096u
/* Buffers above this are given back once they have not been needed for a while. */
#define KEEP_BYTES 16384u
#define CALM_CALLS 16

/*
 * Limits against hostile peers. Counts instead of rates, because there is no clock here: what a
 * peer may do for nothing is bounded, and useful work earns more of it.
 */
/* A header list of 64 KiB needs five frames of the smallest kind. RFC 9113 §10.5 names the flood. */
#define MAX_CONTINUATIONS 16
/* "Rapid reset" (CVE-2023-44487), and streams that we must reset (CVE-2025-8671): streams that
 * ended badly before an answer, less those that were answered. A peer may cancel all its pending
 * streams at once, so its allowance of concurrent streams comes on top. */
#define MAX_BAD_ENDS 100u
/* Empty DATA, PRIORITY, unknown frames, 1xx: cost us more than the peer (CVE-2019-9518). */
#define MAX_IDLE_FRAMES 1000u
#define IDLE_CREDIT 16u
/* Answers to PING, SETTINGS and bad frames that a peer lets pile up unread (CVE-2019-9512). */
#define MAX_ANSWER_BYTES 65536u
/* Above the limit a header list costs its stream; this many times above, the connection. */
#define HEADER_LIST_FACTOR 4u

typedef struct {
    char *p;
    size_t len, cap;
    int calm;
} buf;

typedef struct chunk {
    struct chunk *next;
    const char *p;
    size_t len;
    uint64_t token; /* 0: the bytes follow this struct */
} chunk;

typedef struct stream {
    struct stream *next, *prev;         /* in the ring of those ready to send */
    struct stream *all_next, *all_prev; /* in the list of all: nghttp2 drops them without a word */
    chunk *head, *tail;
    char *trailers; /* the parsed form of mn_headers(), kept until the data is out */
    size_t unsent;
    size_t unconsumed; /* handed to Python, not given back by mn_consume() */
    size_t widened;    /* by mn_widen(), on top of the session's stream window */
    uint32_t trailers_len, trailers_n;
    int32_t id;
    unsigned ready : 1, end : 1, end_sent : 1, answered : 1, announced : 1, resetting : 1,
        reset_told : 1,
        condemned : 1; /* nghttp2 is about to reset it: say nothing more of it */
} stream;

struct mn_session {
    nghttp2_session *ng;
    mn_batch batch;
    buf events, text, out, released, block;
    stream ready; /* head of the ring */
    stream *all;
    stream *turn;
    const uint8_t *input;
    size_t quantum;
    size_t block_list_bytes; /* RFC 9113 §6.5.2: name + value + 32 for each field */
    size_t answer_bytes;
    const char *fatal;
    char reason[160];
    size_t stream_window;
    uint32_t fatal_code, max_header_list, max_streams, open;
    uint32_t continuations, bad_ends, idle_frames, pings, refused_above;
    int32_t last_peer_stream;
    /* Of the last 64 ids of the peer, the newest in bit 0: opened at all; reset by us. */
    uint64_t opened, cut;
    unsigned client : 1, dead : 1, receiving : 1, collected : 1, taken : 1, goaway_seen : 1,
        goaway_sent : 1, settings_told : 1, not_sent : 1;
};

/* ---- buffers ---------------------------------------------------------------------------- */

static void *grow(buf *b, size_t more)
{
    size_t need = b->len + more, cap = b->cap ? b->cap : 256;
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

static int append(buf *b, const void *data, size_t len)
{
    void *p = grow(b, len);

    if (!p)
        return -1;
    if (len)
        memcpy(p, data, len);
    return 0;
}

static void clear(buf *b)
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

static int fatal(mn_session *s, uint32_t code, const char *why)
{
    if (!s->fatal) {
        s->fatal = why;
        s->fatal_code = code;
    }
    return NGHTTP2_ERR_CALLBACK_FAILURE;
}

static int no_memory(mn_session *s)
{
    return fatal(s, NGHTTP2_INTERNAL_ERROR, "out of memory");
}

static int event(mn_session *s, int32_t kind, int32_t id, uint32_t a, uint32_t b)
{
    int32_t record[4] = {kind, id, (int32_t)a, (int32_t)b};

    return append(&s->events, record, sizeof record) ? no_memory(s) : 0;
}

/* Forget what the caller has collected. */
static void begin(mn_session *s)
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

static void publish(mn_session *s)
{
    s->batch.events = (const int32_t *)(const void *)s->events.p;
    s->batch.events_len = s->events.len / sizeof(int32_t);
    s->batch.text = s->text.p;
    s->batch.text_len = s->text.len;
    s->batch.out = s->out.p;
    s->batch.out_len = s->taken ? 0 : s->out.len;
    s->batch.released = (const uint64_t *)(const void *)s->released.p;
    s->batch.released_len = s->released.len / sizeof(uint64_t);
}

/* ---- streams ---------------------------------------------------------------------------- */

static stream *find(const mn_session *s, int32_t id)
{
    return id > 0 ? nghttp2_session_get_stream_user_data(s->ng, id) : NULL;
}

static stream *stream_new(mn_session *s)
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

static void unready(stream *st)
{
    if (!st->ready)
        return;
    st->prev->next = st->next;
    st->next->prev = st->prev;
    st->ready = 0;
}

static void make_ready(mn_session *s, stream *st)
{
    if (st->ready || !(st->head || (st->end && !st->end_sent)))
        return;
    st->prev = s->ready.prev;
    st->next = &s->ready;
    st->prev->next = st;
    s->ready.prev = st;
    st->ready = 1;
}

static void drop_chunk(mn_session *s, stream *st)
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

static void drop_queue(mn_session *s, stream *st)
{
    unready(st);
    while (st->head)
        drop_chunk(s, st);
    st->unsent = 0;
    free(st->trailers);
    st->trailers = NULL;
}

static void stream_free(mn_session *s, stream *st)
{
    if (s->turn == st)
        s->turn = NULL;
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
static int count_bad_end(mn_session *s)
{
    if (++s->bad_ends > MAX_BAD_ENDS + s->max_streams)
        return fatal(s, NGHTTP2_ENHANCE_YOUR_CALM, "too many streams reset");
    return 0;
}

static int count_idle_frame(mn_session *s)
{
    if (++s->idle_frames > MAX_IDLE_FRAMES)
        return fatal(s, NGHTTP2_ENHANCE_YOUR_CALM, "too many frames that carry nothing");
    return 0;
}

static void credit_idle_frames(mn_session *s)
{
    s->idle_frames = s->idle_frames > IDLE_CREDIT ? s->idle_frames - IDLE_CREDIT : 0;
}

static int tell_reset(mn_session *s, stream *st, uint32_t code, int remote)
{
    if (st->reset_told || !st->announced)
        return 0;
    st->reset_told = 1;
    return event(s, MN_EVENT_RESET, st->id, code, (uint32_t)remote);
}

/* ---- callbacks: what the peer sends ------------------------------------------------------ */

/* The bit of a stream of the peer that is or was; 0 for one too old to be remembered. */
static uint64_t past_bit(const mn_session *s, int32_t id)
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

static int on_begin_frame(nghttp2_session *ng, const nghttp2_frame_hd *hd, void *user)
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

static int on_begin_headers(nghttp2_session *ng, const nghttp2_frame *frame, void *user)
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

static int on_header(nghttp2_session *ng, const nghttp2_frame *frame, const uint8_t *name,
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
static int on_invalid_header(nghttp2_session *ng, const nghttp2_frame *frame, const uint8_t *name,
                             size_t name_len, const uint8_t *value, size_t value_len,
                             uint8_t flags, void *user)
{
    (void)ng, (void)frame, (void)name, (void)name_len, (void)value, (void)value_len;
    (void)flags, (void)user;
    return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
}

static int on_data_chunk(nghttp2_session *ng, uint8_t flags, int32_t id, const uint8_t *data,
                         size_t len, void *user)
{
    mn_session *s = user;
    stream *st = find(s, id);

    (void)flags;
    /* nghttp2 resets a stream that overruns its window, but hands on what is too much. */
    if (st && len > s->stream_window + st->widened - st->unconsumed)
        st->condemned = 1;
    if (!st || st->condemned || st->resetting) {
        nghttp2_session_consume(ng, id, len);
        return 0;
    }
    st->unconsumed += len;
    return event(s, MN_EVENT_DATA, id, (uint32_t)(data - s->input), (uint32_t)len);
}

static int headers_received(mn_session *s, stream *st, const nghttp2_frame *frame)
{
    int end = frame->hd.flags & NGHTTP2_FLAG_END_STREAM;

    if (st->condemned)
        return 0;
    if (s->client && !end && !st->answered && s->block.len >= 9 &&
        !memcmp(s->block.p, ":status\0001", 9)) {
        if (count_idle_frame(s))
            return NGHTTP2_ERR_CALLBACK_FAILURE;
    } else {
        credit_idle_frames(s);
        if (s->client)
            st->answered = 1;
    }
    st->announced = 1;
    if (append(&s->text, s->block.p, s->block.len))
        return no_memory(s);
    if (event(s, MN_EVENT_HEADERS, st->id, (uint32_t)s->block.len, !!end))
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
    if (!st || !end || st->condemned || st->resetting)
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

static int on_frame_recv(nghttp2_session *ng, const nghttp2_frame *frame, void *user)
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
        if (frame->hd.flags & NGHTTP2_FLAG_ACK || s->settings_told)
            return 0;
        s->settings_told = 1;
        return event(s, MN_EVENT_SETTINGS, 0, 0, 0);
    case NGHTTP2_PING:
        return frame->hd.flags & NGHTTP2_FLAG_ACK ? pong_received(s, frame->ping.opaque_data) : 0;
    case NGHTTP2_GOAWAY:
        s->goaway_seen = 1;
        return event(s, MN_EVENT_GOAWAY, frame->goaway.last_stream_id, frame->goaway.error_code,
                     0);
    default:
        return 0;
    }
}

static int on_stream_close(nghttp2_session *ng, int32_t id, uint32_t code, void *user)
{
    mn_session *s = user;
    stream *st = find(s, id);
    int rv = 0;

    if (!st)
        return 0;
    if (code != NGHTTP2_NO_ERROR && !st->resetting)
        rv = tell_reset(s, st, code, 1); /* refused by a GOAWAY */
    if (st->answered && s->bad_ends)
        s->bad_ends--;
    nghttp2_session_set_stream_user_data(ng, id, NULL);
    stream_free(s, st);
    return rv;
}

/* ---- callbacks: what we send ------------------------------------------------------------- */

static mn_ssize on_read_length(nghttp2_session *ng, uint8_t frame_type, int32_t id,
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

static int parse_headers(mn_session *s, const char *text, size_t len, size_t n, nghttp2_nv *nv);

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

static mn_ssize on_read(nghttp2_session *ng, int32_t id, uint8_t *out, size_t len, uint32_t *flags,
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

static int on_send_data(nghttp2_session *ng, nghttp2_frame *frame, const uint8_t *head, size_t len,
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
    if (!st->unsent && event(s, MN_EVENT_DRAINED, st->id, 0, 0))
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    return 0;
}

static int on_frame_send(nghttp2_session *ng, const nghttp2_frame *frame, void *user)
{
    mn_session *s = user;
    stream *st;
    size_t n;

    (void)ng;
    if (frame->hd.type == NGHTTP2_RST_STREAM)
        s->cut |= past_bit(s, frame->hd.stream_id);
    if (!s->receiving)
        return 0;
    /* Nobody asked for these: nghttp2 answers a fault of the peer. */
    if (frame->hd.type == NGHTTP2_RST_STREAM) {
        if (count_bad_end(s))
            return NGHTTP2_ERR_CALLBACK_FAILURE;
        st = find(s, frame->hd.stream_id);
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

static int on_frame_not_send(nghttp2_session *ng, const nghttp2_frame *frame, int code, void *user)
{
    (void)ng, (void)code;
    if (frame->hd.type == NGHTTP2_HEADERS)
        ((mn_session *)user)->not_sent = 1;
    return 0;
}

/* ---- moving bytes ------------------------------------------------------------------------ */

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
static void pump(mn_session *s)
{
    const uint8_t *p;
    mn_ssize n;

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
        n = mem_recv(s->ng, data, len);
        s->input = NULL;
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

/* ---- sending ----------------------------------------------------------------------------- */

static int refuse(mn_session *s, const char *why)
{
    s->batch.error = why;
    return -1;
}

/* Split at NUL; `nv` points into `text`. Values are checked, because nghttp2 sends anything. */
static int parse_headers(mn_session *s, const char *text, size_t len, size_t n, nghttp2_nv *nv)
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

int32_t mn_request(mn_session *s, const char *text, size_t len, size_t n, int end_stream)
{
    mn_provider provider = {.read_callback = on_read};
    nghttp2_nv *nv;
    stream *st;
    int32_t id;

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
    st->announced = 1;
    st->end = st->end_sent = !!end_stream;
    provider.source.ptr = st;
    s->not_sent = 0;
    id = submit_request(s->ng, NULL, nv, n, end_stream ? NULL : &provider, st);
    free(nv);
    st->id = id;
    if (id > 0)
        pump(s);
    if (id < 0 || s->not_sent) {
        stream_free(s, st);
        return refuse(s, id < 0 ? nghttp2_strerror(id) : "headers too large");
    }
    return id;
}

static int keep_trailers(mn_session *s, stream *st, const char *text, size_t len, size_t n)
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
        if (event(s, MN_EVENT_DRAINED, st->id, 0, 0))
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

static int respond(mn_session *s, stream *st, nghttp2_nv *nv, size_t n, int end_stream)
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
    size_t inline_len = len <= COPY_BELOW ? len : 0;
    stream *st;
    chunk *c;

    begin(s);
    st = s->dead ? NULL : find(s, id);
    if (!st)
        return 0;
    if (st->end)
        return refuse(s, "data after END_STREAM");
    if (!s->client && !st->answered)
        return refuse(s, "data before the response");
    if (len) {
        c = malloc(sizeof *c + inline_len);
        if (!c)
            return refuse(s, "out of memory");
        *c = (chunk){.p = data, .len = len, .token = inline_len ? 0 : token};
        if (inline_len) {
            memcpy(c + 1, data, len);
            c->p = (const char *)(c + 1);
        }
        if (st->tail)
            st->tail->next = c;
        else
            st->head = c;
        st->tail = c;
        st->unsent += len;
    }
    st->end = !!end_stream;
    make_ready(s, st);
    return len && !inline_len;
}

size_t mn_unsent(const mn_session *s, int32_t id)
{
    stream *st = s->dead ? NULL : find(s, id);

    return st ? st->unsent : 0;
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
    nghttp2_session_consume(s->ng, id, len);
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

/* ---- life of a session ------------------------------------------------------------------- */

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
