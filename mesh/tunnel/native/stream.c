/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the meshnode authors */

/*
 * One CONNECT stream joined to an application's socket: two directions, their ends, their credit.
 *
 * Everything here may run inside a callback of nghttp2: frames are submitted, never written out,
 * and the tunnel is not ended.
 */

#include "internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

mt_stream *stream_new(mt_tunnel *t, int32_t id, bool client)
{
    mt_stream *st = calloc(1, sizeof *st);

    if (!st)
        return NULL;
    object_init(&st->o, KIND_STREAM);
    list_init(&st->ready);
    list_init(&st->in_lane);
    list_init(&st->dial);
    st->tunnel = t;
    st->id = id;
    st->client = client;
    st->fd = st->port.fd = -1;
    return st;
}

void stream_adopt(mt_tunnel *t, mt_stream *st)
{
    st->window = http2_first_window(t->engine);
    list_append(&t->streams, &st->o.all);
    __atomic_add_fetch(&t->stream_count, 1, __ATOMIC_RELAXED);
    if (t->load)
        ++*t->load;
}

/* Nobody may reach the stream any more, neither nghttp2 nor the tunnel. */
static void leave(mt_stream *st)
{
    mt_tunnel *t = st->tunnel;

    http2_detach(st);
    t->spare_window += st->window - http2_first_window(t->engine);
    tunnel_forget(t, st);
    object_bury(t->engine, &st->o);
    engine_schedule(t->engine, &t->o);
}

static void consume(mt_stream *st, size_t count)
{
    if (st->tunnel->h2 && count) {
        nghttp2_session_consume(st->tunnel->h2, st->id, count);
        engine_schedule(st->tunnel->engine, &st->tunnel->o);
    }
}

/*
 * Streams begin with a window so small that all of them together fit into the connection's: one
 * whose application does not read never takes the others' credit. Those that move get more.
 */
static void widen(mt_stream *st, size_t count)
{
    mt_tunnel *t = st->tunnel;
    uint32_t limit = t->engine->settings.stream_window, more = st->window;

    st->spent += count < UINT32_MAX - st->spent ? (uint32_t)count : 0;
    if (st->spent < st->window || st->window >= limit || !t->spare_window || st->remote_ended)
        return;
    st->spent = 0;
    if (more > limit - st->window)
        more = limit - st->window;
    if (more > t->spare_window)
        more = t->spare_window;
    t->spare_window -= more;
    st->window += more;
    http2_widen(t, st, more);
}

/* ---- ends --------------------------------------------------------------------------------- */

static void post_closed(mt_engine *e, mt_stream *st, int reason, const char *detail)
{
    event_post(e, MT_CLOSED, reason, &st->o, NULL, detail, strlen(detail), 0);
}

void stream_finish(mt_stream *st, int reason, const char *detail)
{
    mt_engine *e = st->tunnel->engine;

    if (st->o.done)
        return;
    batch_flush(e);
    if (st->o.done) /* the flush found the application gone */
        return;
    st->o.done = true;
    /* Bytes that were never delivered must not keep the connection's window shut. */
    consume(st, st->in.size);
    queue_clear(&st->in);
    st->dialling = false;
    list_remove(&st->dial);
    if (reason == MT_END_DONE && st->lane && st->lane->side == SIDE_FAR)
        far_keep(st);
    port_close(e, &st->port, reason != MT_END_DONE);
    if (st->fd >= 0)
        fd_close(st->fd, true);
    st->fd = -1;
    if (st->lane)
        lane_ended(st, st->lane->cut ? MT_LANE_CUT : reason, 0, detail);
    else if (st->announced)
        post_closed(e, st, reason, detail);
    leave(st);
}

void stream_fail(mt_stream *st, int error)
{
    char detail[DETAIL_SIZE];

    if (st->o.done)
        return;
    http2_reset(st->tunnel, st->id, NGHTTP2_CANCEL);
    stream_finish(st, MT_END_APPLICATION_RESET,
                  strerror_r(error, detail, sizeof detail) ? "application failed" : detail);
}

void stream_abort(mt_stream *st, const char *detail)
{
    if (st->o.done)
        return;
    http2_reset(st->tunnel, st->id, NGHTTP2_CANCEL);
    stream_finish(st, MT_END_ABORTED, detail);
}

void stream_lost(mt_stream *st, const char *detail)
{
    if (st->fd >= 0)
        stream_refused(st, 0, detail, strlen(detail), 0);
    else
        stream_finish(st, MT_END_TUNNEL_LOST, detail);
}

void stream_refused(mt_stream *st, int status, const void *text, size_t len, uint32_t fields)
{
    st->o.done = true;
    if (status && !st->remote_ended)
        http2_reset(st->tunnel, st->id, NGHTTP2_CANCEL);
    if (st->lane) {
        near_refused(st, status, status ? "" : text);
    } else {
        st->fd = -1; /* the caller's again */
        event_post(st->tunnel->engine, MT_REFUSED, status, &st->o, NULL, text, len, fields);
    }
    leave(st);
}

void stream_check_done(mt_stream *st)
{
    if (st->joined && st->remote_ended && st->local_ended && !st->in.size)
        stream_finish(st, MT_END_DONE, "");
}

void stream_reset_received(mt_stream *st, uint32_t code, bool remote)
{
    char detail[DETAIL_SIZE];

    if (st->o.done)
        return;
    if (st->fd >= 0) {
        snprintf(detail, sizeof detail, "stream reset: %s", nghttp2_http2_strerror(code));
        stream_refused(st, 0, detail, strlen(detail), 0);
    } else if (remote && code == NGHTTP2_NO_ERROR && st->joined) {
        /* RFC 9113 8.1: the peer has answered in full and wants no more of ours. */
        st->local_ended = true;
        stream_end_received(st);
    } else {
        snprintf(detail, sizeof detail, "%s reset: %s",
                 remote ? "peer" : "peer broke the protocol:", nghttp2_http2_strerror(code));
        stream_finish(st, MT_END_PEER_RESET, detail);
    }
}

/* ---- from the tunnel to the application ---------------------------------------------------- */

static void took(mt_stream *st, size_t count)
{
    count_bytes(&st->o.bytes_in, count);
    if (st->lane && count)
        lane_moved(st, 0, count);
    consume(st, count);
    if (st->tunnel->h2)
        widen(st, count);
}

static void finish_socket(mt_stream *st)
{
    if (!st->remote_ended || st->in.size || !st->joined || st->fin_sent)
        return;
    st->fin_sent = true;
    if (port_finish(&st->port))
        stream_fail(st, st->port.error);
    else
        stream_check_done(st);
}

static void flush_queue(mt_stream *st)
{
    struct iovec iov[BATCH_PIECES];
    ssize_t n;

    while (st->in.size && st->port.writable) {
        n = port_write(&st->port, iov, queue_pieces(&st->in, iov, BATCH_PIECES));
        if (n == IO_FAILED) {
            stream_fail(st, st->port.error);
            return;
        }
        queue_pop(&st->in, (size_t)n);
        took(st, (size_t)n);
    }
    finish_socket(st);
}

void batch_flush(mt_engine *e)
{
    mt_stream *st = e->batch;
    size_t done;
    ssize_t n;
    int i;

    if (!st)
        return;
    e->batch = NULL;
    n = port_write(&st->port, e->batch_iov, e->batch_count);
    if (n == IO_FAILED) {
        stream_fail(st, st->port.error);
        return;
    }
    took(st, (size_t)n);
    for (i = 0, done = (size_t)n; i < e->batch_count; i++) {
        size_t len = e->batch_iov[i].iov_len, skip = done < len ? done : len;

        done -= skip;
        if (skip < len &&
            queue_push(&st->in, (const uint8_t *)e->batch_iov[i].iov_base + skip, len - skip)) {
            stream_fail(st, ENOMEM);
            return;
        }
    }
}

int stream_data(mt_stream *st, const uint8_t *data, size_t len)
{
    mt_engine *e = st->tunnel->engine;

    if (e->batch && (e->batch != st || e->batch_count == BATCH_PIECES))
        batch_flush(e);
    if (st->o.done)
        return 0;
    if (!st->joined || st->in.size || !st->port.writable)
        return queue_push(&st->in, data, len);
    if (!e->batch) {
        e->batch = st;
        e->batch_count = 0;
    }
    e->batch_iov[e->batch_count++] =
        (struct iovec){.iov_base = (void *)(uintptr_t)data, .iov_len = len};
    return 0;
}

void stream_end_received(mt_stream *st)
{
    batch_flush(st->tunnel->engine);
    if (st->o.done)
        return;
    st->remote_ended = true;
    finish_socket(st);
}

/* ---- from the application to the tunnel ---------------------------------------------------- */

void stream_want_turn(mt_stream *st)
{
    if (!st->joined || st->local_ended || !st->port.readable || !list_empty(&st->ready))
        return;
    list_append(&st->tunnel->ready, &st->ready);
    engine_schedule(st->tunnel->engine, &st->tunnel->o);
}

ssize_t stream_read(mt_stream *st, uint8_t *buffer, size_t len)
{
    ssize_t n = port_read(&st->port, buffer, len);

    if (n > 0) {
        count_bytes(&st->o.bytes_out, (size_t)n);
        if (st->lane)
            lane_moved(st, (size_t)n, 0);
    } else if (n == 0) {
        st->local_ended = true;
    }
    return n;
}

void stream_event(mt_stream *st)
{
    if (st->dialling) {
        far_dialled(st);
        return;
    }
    if (st->in.size)
        flush_queue(st);
    if (!st->o.done)
        stream_want_turn(st);
}

void stream_begin(mt_stream *st)
{
    st->joined = true;
    flush_queue(st);
    if (!st->o.done)
        stream_want_turn(st);
}

void stream_join(mt_stream *st, int fd)
{
    mt_engine *e = st->tunnel->engine;

    st->fd = -1;
    if (port_open(e, &st->port, PORT_STREAM, st, fd)) {
        stream_fail(st, ENOMEM);
        return;
    }
    stream_begin(st);
}
