/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the meshnode authors */

/* What a peer may make us do for nothing; called from nghttp2's callbacks, whose result they are. */

#include "guards.h"
#include "internal.h"

int guard_fatal(mt_tunnel *t, uint32_t code, const char *why)
{
    if (!t->fatal) {
        t->fatal = why;
        t->fatal_code = code;
    }
    return NGHTTP2_ERR_CALLBACK_FAILURE;
}

int guard_no_memory(mt_tunnel *t)
{
    return guard_fatal(t, NGHTTP2_INTERNAL_ERROR, "out of memory");
}

int guard_bad_end(mt_tunnel *t)
{
    if (++t->bad_ends > MAX_BAD_ENDS + t->engine->settings.max_concurrent_streams)
        return guard_fatal(t, NGHTTP2_ENHANCE_YOUR_CALM, "too many streams reset");
    return 0;
}

int guard_idle_frame(mt_tunnel *t)
{
    if (++t->idle_frames > MAX_IDLE_FRAMES)
        return guard_fatal(t, NGHTTP2_ENHANCE_YOUR_CALM, "too many frames that carry nothing");
    return 0;
}

void guard_credit(mt_tunnel *t)
{
    t->idle_frames = t->idle_frames > IDLE_CREDIT ? t->idle_frames - IDLE_CREDIT : 0;
}

int guard_reset(mt_tunnel *t)
{
    double now = t->engine->now;

    t->reset_tokens += (now - t->reset_at) * RESETS_PER_S;
    if (t->reset_tokens > RESET_BURST)
        t->reset_tokens = RESET_BURST;
    t->reset_at = now;
    if (t->reset_tokens < 1)
        return guard_fatal(t, NGHTTP2_ENHANCE_YOUR_CALM, "peer floods RST_STREAM");
    t->reset_tokens -= 1;
    return 0;
}
