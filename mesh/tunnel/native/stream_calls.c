/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the meshnode authors */

/* What is wished of a stream: to be opened, answered, refused. */

#include "internal.h"

#include <string.h>

int stream_answer(mt_stream *st, const nghttp2_nv *nv, size_t n)
{
    mt_provider provider = {.read_callback = http2_read_payload};

    st->answered = true;
    if (submit_response(st->tunnel->h2, st->id, nv, n, &provider)) {
        stream_abort(st, "the answer cannot be sent");
        return -1;
    }
    engine_schedule(st->tunnel->engine, &st->tunnel->o);
    return 0;
}

void stream_accept(mt_engine *e, mt_stream *st, const nghttp2_nv *nv, size_t n, int fd)
{
    static const char late[] = "the stream ended before it was accepted";

    if (st->o.done) {
        fd_close(fd, true);
        event_post(e, MT_CLOSED, MT_END_PEER_RESET, &st->o, NULL, late, strlen(late), 0);
        return;
    }
    st->announced = true;
    if (stream_answer(st, nv, n))
        fd_close(fd, true);
    else
        stream_join(st, fd);
}

void stream_refuse(mt_stream *st, const nghttp2_nv *nv, size_t n)
{
    if (st->o.done)
        return;
    st->answered = st->refusing = true;
    if (submit_response(st->tunnel->h2, st->id, nv, n, NULL))
        stream_abort(st, "");
    else
        engine_schedule(st->tunnel->engine, &st->tunnel->o);
}

void stream_decline(mt_stream *st)
{
    if (st->o.done)
        return;
    http2_reset(st->tunnel, st->id, NGHTTP2_REFUSED_STREAM);
    stream_finish(st, MT_END_ABORTED, "");
}

void stream_open(mt_tunnel *t, mt_stream *st, const nghttp2_nv *nv, size_t n)
{
    static const char late[] = "the tunnel takes no more streams";
    mt_provider provider = {.read_callback = http2_read_payload};

    st->announced = !st->lane;
    stream_adopt(t, st);
    if (!t->lost && !t->draining && t->h2)
        st->id = submit_request(t->h2, NULL, nv, n, &provider, st);
    if (st->id <= 0) {
        st->id = 0;
        stream_refused(st, 0, late, strlen(late), 0);
    }
    engine_schedule(t->engine, &t->o);
}
