/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the meshnode authors */

/* The life of a tunnel: handshake, verdict on the peer, talk, end. */

#include "internal.h"
#include "guards.h"

#include <openssl/x509.h>
#include <stdio.h>
#include <string.h>

#define LINGER_S 1.0 /* for the peer to read the last bytes */
#define LAST_READS 16

void tunnel_start(mt_engine *e, mt_tunnel *t, int fd)
{
    t->engine = e;
    list_init(&t->streams);
    list_init(&t->ready);
    list_init(&t->lanes);
    t->reset_tokens = RESET_BURST;
    t->reset_at = t->heard_at = e->now;
    t->drain_reason = MT_LOSS_LOCAL;
    snprintf(t->drain_detail, sizeof t->drain_detail, "drained");
    list_append(&e->tunnels, &t->o.all);
    if (t->client)
        t->load = near_load(e, fd);
    if (port_open(e, &t->port, PORT_TUNNEL, t, fd)) {
        tunnel_lose(t, MT_LOSS_RESET, "the socket cannot be watched");
        return;
    }
    if (e->stopping) {
        tunnel_lose(t, MT_LOSS_LOCAL, "engine closed");
        return;
    }
    tls_attach(t);
    tunnel_timer(t, &t->handshake_at, e->now + e->settings.handshake_timeout_s);
    engine_schedule(e, &t->o);
}

void tunnel_forget(mt_tunnel *t, mt_stream *st)
{
    list_remove(&st->ready);
    list_remove(&st->o.all);
    __atomic_sub_fetch(&t->stream_count, 1, __ATOMIC_RELAXED);
    if (t->load)
        --*t->load;
}

void tunnel_free_parts(mt_tunnel *t)
{
    SSL_free(t->ssl);
    t->ssl = NULL;
    nghttp2_session_del(t->h2);
    t->h2 = NULL;
    buf_free(&t->out);
    buf_free(&t->sealed);
    buf_free(&t->block);
}

/* ---- ends --------------------------------------------------------------------------------- */

static void die(mt_tunnel *t)
{
    t->state = TUNNEL_DEAD;
    t->linger_at = t->trim_at = 0;
    port_close(t->engine, &t->port, true);
    tunnel_free_parts(t);
    list_remove(&t->o.run);
    list_remove(&t->o.all);
    object_bury(t->engine, &t->o);
}

/* Plaintext that TLS does not take now waits in `out`. -1: the socket or TLS has failed. */
static int write_out(mt_tunnel *t, const uint8_t *data, size_t len)
{
    ssize_t n = tls_write(t, data, len);
    char *p;

    if (n < 0)
        return -1;
    if ((size_t)n == len)
        return 0;
    p = buf_grow(&t->out, len - (size_t)n);
    if (!p)
        return -1;
    memcpy(p, data + n, len - (size_t)n);
    return 0;
}

/* True once nothing waits. */
static int flush_out(mt_tunnel *t)
{
    size_t left = t->out.len - t->out_head;
    int flushed = tls_flush(t);
    ssize_t n;

    if (!left || flushed <= 0)
        return flushed;
    n = tls_write(t, (const uint8_t *)t->out.p + t->out_head, left);
    if (n < 0)
        return -1;
    t->out_head += (size_t)n;
    if (t->out_head < t->out.len)
        return 0;
    t->out_head = t->out.len = 0;
    return !t->sealed.len;
}

static void say_goaway(mt_tunnel *t, uint32_t code)
{
    uint32_t id = (uint32_t)t->last_peer_stream;
    uint8_t frame[FRAME_HEAD + 8] = {0, 0, 8, NGHTTP2_GOAWAY};

    /* By hand: nghttp2 takes nothing any more after a failed callback. */
    for (int i = 0; i < 4; i++) {
        frame[FRAME_HEAD + i] = (uint8_t)(id >> (24 - 8 * i));
        frame[FRAME_HEAD + 4 + i] = (uint8_t)(code >> (24 - 8 * i));
    }
    (void)write_out(t, frame, sizeof frame);
}

/* Last words, as far as the peer listens. */
static void say_goodbye(mt_tunnel *t, int reason)
{
    mt_engine *e = t->engine;

    if (!t->h2 || t->tls_failed || t->out.len)
        return;
    if (reason == MT_LOSS_PROTOCOL) {
        if (!t->goaway_ours || t->fatal != t->drain_detail)
            say_goaway(t, t->fatal_code);
    } else if (reason == MT_LOSS_LOCAL) {
        t->goaway_ours = true;
        if (!http2_collect(t, false) && !write_out(t, e->output, e->output_len))
            say_goaway(t, NGHTTP2_NO_ERROR);
    }
}

static void linger(mt_tunnel *t)
{
    int flushed = t->fin_sent ? 1 : flush_out(t);
    ssize_t n;

    if (flushed < 0) {
        die(t);
        return;
    }
    if (flushed && !t->fin_sent) {
        tls_shutdown(t);
        t->fin_sent = true;
        if (port_finish(&t->port)) {
            die(t);
            return;
        }
    }
    /* Closing with unread input would make TCP discard what the peer has not read. */
    n = port_read(&t->port, t->engine->input, INPUT_SIZE);
    if (n > 0)
        engine_schedule(t->engine, &t->o);
    else if (n != IO_WOULD_BLOCK)
        die(t);
}

void tunnel_lose(mt_tunnel *t, int reason, const char *detail)
{
    mt_engine *e = t->engine;
    char text[DETAIL_SIZE];

    if (t->lost)
        return;
    snprintf(text, sizeof text, "%s", detail); /* it may be part of what is freed here */
    say_goodbye(t, reason);
    t->lost = true;
    t->handshake_at = t->drain_at = t->trim_at = 0;
    while (!list_empty(&t->streams))
        stream_lost(CONTAINER(t->streams.next, mt_stream, o.all), text);
    while (!list_empty(&t->lanes))
        lane_retire(e, CONTAINER(t->lanes.next, mt_lane, place));
    t->o.done = true;
    event_post(e, MT_LOST, reason, &t->o, NULL, text, strlen(text), 0);
    nghttp2_session_del(t->h2);
    t->h2 = NULL;
    if (t->port.fd < 0 || reason == MT_LOSS_RESET || reason == MT_LOSS_PING_TIMEOUT ||
        e->stopping) {
        die(t);
        return;
    }
    t->state = TUNNEL_ENDING;
    tunnel_timer(t, &t->linger_at, e->now + LINGER_S);
    linger(t);
}

void tunnel_stop(mt_tunnel *t)
{
    if (t->state == TUNNEL_ENDING)
        die(t);
}

/* ---- verdict on the peer ------------------------------------------------------------------- */

static void shake_hands(mt_tunnel *t)
{
    char detail[DETAIL_SIZE] = "TLS failed";
    unsigned char *der = NULL;
    int reason = MT_LOSS_TLS, len;
    X509 *leaf;

    switch (t->tls_failed ? TLS_FAILED : tls_handshake(t, &reason, detail)) {
    case TLS_AGAIN:
        return;
    case TLS_FAILED:
        tunnel_lose(t, reason, detail);
        return;
    default:
        break;
    }
    leaf = SSL_get0_peer_certificate(t->ssl);
    len = leaf ? i2d_X509(leaf, &der) : -1;
    if (len < 0) {
        tunnel_lose(t, MT_LOSS_TLS, "peer sent no certificate");
        return;
    }
    /* Not a byte of HTTP/2 is read or sent before somebody approves of the identity. */
    t->state = TUNNEL_ASKING;
    event_post(t->engine, MT_HANDSHAKE, 0, &t->o, NULL, der, (size_t)len, 0);
    OPENSSL_free(der);
}

void tunnel_approve(mt_tunnel *t)
{
    if (t->state != TUNNEL_ASKING)
        return;
    if (http2_start(t)) {
        tunnel_lose(t, MT_LOSS_LOCAL, "out of memory");
        return;
    }
    t->state = TUNNEL_TALKING;
    t->read_more = true; /* TLS may hold what came along with the handshake */
    engine_schedule(t->engine, &t->o);
}

/* ---- talk ---------------------------------------------------------------------------------- */

static void hear(mt_tunnel *t)
{
    mt_engine *e = t->engine;

    t->heard_at = e->now;
    t->pinged_at = 0;
    t->rechecked = false;
    if (!t->trim_at)
        tunnel_timer(t, &t->trim_at, e->now + TRIM_S);
}

static void receive(mt_tunnel *t)
{
    char detail[DETAIL_SIZE];
    int reason;
    bool up = t->up;
    ssize_t n = tls_read(t, t->engine->input, INPUT_SIZE, &reason, detail);

    if (n > 0) {
        hear(t);
        if (http2_receive(t, t->engine->input, (size_t)n))
            tunnel_lose(t, MT_LOSS_PROTOCOL, t->fatal);
        else if (!up && t->up)
            engine_timer(t->engine, t->heard_at + t->engine->settings.ping_interval_s);
    } else if (n < 0) {
        if (!t->up && reason == MT_LOSS_PEER_CLOSED)
            snprintf(detail, sizeof detail,
                     "peer closed before HTTP/2 began: it may have refused our identity");
        tunnel_lose(t, reason, detail);
    }
}

static void lose_writing(mt_tunnel *t)
{
    char detail[DETAIL_SIZE] = "TLS failed";
    int error = t->port.error;

    /* A peer that refuses us closes first: the alert that says why may still be unread. */
    t->port.error = 0;
    t->tls_failed = false;
    t->port.readable = true;
    for (int i = 0; i < LAST_READS && !t->lost && t->port.readable; i++)
        receive(t);
    if (error)
        strerror_r(error, detail, sizeof detail);
    tunnel_lose(t, error ? MT_LOSS_RESET : MT_LOSS_TLS, detail);
}

/* Plaintext was written, as much as may be in one turn. True: there may be more. */
static bool send_turn(mt_tunnel *t)
{
    mt_engine *e = t->engine;
    size_t sent = 0;
    int flushed = flush_out(t);

    while (flushed > 0 && sent < TURN_BYTES) {
        int bad = http2_collect(t, true);

        if (e->output_len && write_out(t, e->output, e->output_len))
            flushed = -1;
        if (bad) {
            tunnel_lose(t, MT_LOSS_PROTOCOL, t->fatal);
            return false;
        }
        if (!e->output_len || t->out.len || t->sealed.len || flushed < 0)
            break;
        sent += e->output_len;
    }
    if (flushed < 0) {
        lose_writing(t);
        return false;
    }
    return sent >= TURN_BYTES;
}

void tunnel_run(mt_tunnel *t)
{
    bool more;

    switch (t->state) {
    case TUNNEL_SHAKING:
        shake_hands(t);
        return;
    case TUNNEL_TALKING:
        break;
    case TUNNEL_ENDING:
        linger(t);
        return;
    default:
        return;
    }
    if (t->read_more || t->port.readable)
        receive(t);
    if (t->state != TUNNEL_TALKING)
        return;
    more = send_turn(t);
    if (t->state != TUNNEL_TALKING)
        return;
    /* What scheduled the tunnel meanwhile has been done in this turn. */
    list_remove(&t->o.run);
    if (t->draining && !t->stream_count && !t->out.len && !t->sealed.len)
        tunnel_lose(t, t->drain_reason, t->drain_detail);
    else if (more || t->read_more)
        engine_schedule(t->engine, &t->o);
}
