/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the meshnode authors */

/* Two plain sockets joined to each other: half-close, backpressure, resets and byte counts. */

#include "internal.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    mt_port port;
    mt_queue in; /* waits for this socket */
    uint64_t *moved;
    bool ended; /* this socket sent its FIN */
    bool fin_sent;
} side;

struct mt_relay {
    mt_object o;
    mt_engine *engine;
    side sides[2];
};

mt_relay *relay_new(void)
{
    mt_relay *r = calloc(1, sizeof *r);

    if (!r)
        return NULL;
    object_init(&r->o, KIND_RELAY);
    r->sides[0].port.fd = r->sides[1].port.fd = -1;
    return r;
}

mt_object *relay_object(mt_relay *r)
{
    return &r->o;
}

mt_relay *relay_of(mt_object *o)
{
    return CONTAINER(o, mt_relay, o);
}

void relay_end(mt_relay *r, int reason, const char *detail)
{
    if (r->o.done)
        return;
    r->o.done = true;
    for (int i = 0; i < 2; i++) {
        port_close(r->engine, &r->sides[i].port, reason != MT_END_DONE);
        queue_clear(&r->sides[i].in);
    }
    event_post(r->engine, MT_CLOSED, reason, &r->o, NULL, detail, strlen(detail), 0);
    list_remove(&r->o.run);
    list_remove(&r->o.all);
    object_bury(r->engine, &r->o);
}

static void fail(mt_relay *r, const side *s)
{
    char detail[DETAIL_SIZE];

    if (strerror_r(s->port.error, detail, sizeof detail))
        detail[0] = '\0';
    relay_end(r, s == &r->sides[0] ? MT_END_APPLICATION_RESET : MT_END_PEER_RESET, detail);
}

void relay_start(mt_engine *e, mt_relay *r, int first, int second)
{
    int bad;

    r->engine = e;
    r->sides[0].moved = &r->o.bytes_in;
    r->sides[1].moved = &r->o.bytes_out;
    list_append(&e->relays, &r->o.all);
    bad = port_open(e, &r->sides[0].port, PORT_RELAY, r, first);
    bad |= port_open(e, &r->sides[1].port, PORT_RELAY, r, second);
    if (bad || e->stopping)
        relay_end(r, MT_END_ABORTED, bad ? "the sockets cannot be watched" : "engine closed");
    else
        engine_schedule(e, &r->o);
}

/* Bytes the socket took, -1 if it failed. */
static ssize_t flush(mt_relay *r, side *to)
{
    struct iovec iov[BATCH_PIECES];
    ssize_t total = 0;

    while (to->in.size && to->port.writable) {
        ssize_t n = port_write(&to->port, iov, queue_pieces(&to->in, iov, BATCH_PIECES));

        if (n == IO_FAILED) {
            fail(r, to);
            return -1;
        }
        queue_pop(&to->in, (size_t)n);
        total += n;
    }
    count_bytes(to->moved, (size_t)total);
    return total;
}

static int deliver(mt_relay *r, side *to, const uint8_t *data, size_t len)
{
    struct iovec iov = {.iov_base = (void *)(uintptr_t)data, .iov_len = len};
    ssize_t n = port_write(&to->port, &iov, 1);

    if (n == IO_FAILED) {
        fail(r, to);
        return -1;
    }
    count_bytes(to->moved, (size_t)n);
    if ((size_t)n < len && queue_push(&to->in, data + n, len - (size_t)n)) {
        relay_end(r, MT_END_ABORTED, "out of memory");
        return -1;
    }
    return 0;
}

/* Move what one socket has to the other, no further than the other takes. -1: the relay ended. */
static int pass(mt_relay *r, side *from, side *to)
{
    size_t moved = 0;
    ssize_t n;

    if (flush(r, to) < 0)
        return -1;
    while (!to->in.size && !from->ended) {
        if (moved >= TURN_BYTES) {
            engine_schedule(r->engine, &r->o);
            return 0;
        }
        n = port_read(&from->port, r->engine->input, INPUT_SIZE);
        if (n == IO_WOULD_BLOCK)
            return 0;
        if (n == IO_FAILED) {
            fail(r, from);
            return -1;
        }
        from->ended = n == 0;
        moved += (size_t)n;
        if (n && deliver(r, to, r->engine->input, (size_t)n))
            return -1;
    }
    if (from->ended && !to->in.size && !to->fin_sent) {
        to->fin_sent = true;
        if (port_finish(&to->port)) {
            fail(r, to);
            return -1;
        }
    }
    return 0;
}

void relay_run(mt_relay *r)
{
    side *a = &r->sides[0], *b = &r->sides[1];

    if (r->o.done || pass(r, a, b) || pass(r, b, a))
        return;
    if (a->fin_sent && b->fin_sent)
        relay_end(r, MT_END_DONE, "");
}
