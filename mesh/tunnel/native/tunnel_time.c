/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the meshnode authors */

/* What time does to a tunnel: PINGs, deadlines, buffers given back, and its drain. */

#include "http2.h"

#include <stdio.h>

#define RECHECK_S 0.01

static const uint8_t liveness_ping[8] = "liveness";

/* ---- drain --------------------------------------------------------------------------------- */

void tunnel_drain_for(mt_tunnel *t, int reason, const char *detail)
{
    t->draining = true;
    t->drain_reason = (uint8_t)reason;
    snprintf(t->drain_detail, sizeof t->drain_detail, "%s", detail);
}

void tunnel_drain(mt_tunnel *t, double timeout_s)
{
    mt_engine *e = t->engine;

    if (t->lost || t->drain_begun)
        return;
    t->drain_begun = true;
    tunnel_timer(t, &t->drain_at, e->now + timeout_s);
    if (!t->h2) {
        t->draining = true;
    } else if (t->client) {
        t->draining = t->goaway_ours = true;
        nghttp2_submit_goaway(t->h2, NGHTTP2_FLAG_NONE, 0, NGHTTP2_NO_ERROR, NULL, 0);
    } else {
        /* RFC 9113 6.8: streams under way are still taken until the PING came back. */
        t->goaway_ours = true;
        nghttp2_submit_shutdown_notice(t->h2);
        t->pings++;
        nghttp2_submit_ping(t->h2, NGHTTP2_FLAG_NONE, http2_drain_ping);
    }
    engine_schedule(e, &t->o);
}

/* ---- time ---------------------------------------------------------------------------------- */

/* PING after silence, lost after more of it. */
static void check_liveness(mt_tunnel *t)
{
    const mt_settings *settings = &t->engine->settings;
    double now = t->engine->now;
    char detail[DETAIL_SIZE];

    if (!t->pinged_at && now >= t->heard_at + settings->ping_interval_s) {
        t->pinged_at = now;
        t->pings++;
        nghttp2_submit_ping(t->h2, NGHTTP2_FLAG_NONE, liveness_ping);
        engine_schedule(t->engine, &t->o);
    }
    if (!t->pinged_at) {
        engine_timer(t->engine, t->heard_at + settings->ping_interval_s);
    } else if (now < t->pinged_at + settings->ping_timeout_s) {
        engine_timer(t->engine, t->pinged_at + settings->ping_timeout_s);
    } else if (!t->rechecked) {
        /* A process that was stopped itself must not take its peers for dead: what the kernel
         * holds is read first. */
        t->rechecked = true;
        engine_timer(t->engine, now + RECHECK_S);
    } else {
        snprintf(detail, sizeof detail, "no sign of life for %g s after a PING",
                 settings->ping_timeout_s);
        tunnel_lose(t, MT_LOSS_PING_TIMEOUT, detail);
    }
}

static void trim(mt_tunnel *t)
{
    t->trim_at = 0;
    if (t->engine->now < t->heard_at + TRIM_S) {
        tunnel_timer(t, &t->trim_at, t->heard_at + TRIM_S);
        return;
    }
    SSL_free_buffers(t->ssl); /* refuses while something is in them */
    if (!t->out.len)
        buf_free(&t->out);
    buf_free(&t->block);
}

static bool is_due(mt_tunnel *t, double timer)
{
    if (timer && timer > t->engine->now)
        engine_timer(t->engine, timer);
    return timer && timer <= t->engine->now;
}

void tunnel_timers(mt_tunnel *t)
{
    char detail[DETAIL_SIZE];

    if (is_due(t, t->linger_at)) {
        tunnel_stop(t);
    } else if (is_due(t, t->handshake_at)) {
        snprintf(detail, sizeof detail, "no handshake within %g s",
                 t->engine->settings.handshake_timeout_s);
        tunnel_lose(t, MT_LOSS_HANDSHAKE_TIMEOUT, detail);
    } else if (is_due(t, t->drain_at)) {
        tunnel_lose(t, MT_LOSS_LOCAL, "drain deadline reached");
    } else {
        if (is_due(t, t->trim_at))
            trim(t);
        if (t->up && !t->lost)
            check_liveness(t);
    }
}
