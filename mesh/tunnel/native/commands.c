/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the meshnode authors */

/* The two queues between Python's thread and the engine's: commands in, events out. */

#include "internal.h"

#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

static void wake(int fd)
{
    /* Full is impossible: the counter has 64 bits. */
    (void)eventfd_write(fd, 1);
}

mt_object *hold(mt_object *o)
{
    if (o)
        __atomic_add_fetch(&o->refs, 1, __ATOMIC_RELAXED);
    return o;
}

mt_command *command_new(int kind, mt_object *o, const char *text, size_t len)
{
    mt_command *c = malloc(sizeof *c + len + 1);

    if (!c)
        return NULL;
    *c = (mt_command){.object = hold(o), .kind = kind, .fd = -1, .other_fd = -1, .len = len};
    if (len)
        memcpy(c->text, text, len);
    c->text[len] = '\0';
    return c;
}

static void command_free(mt_command *c)
{
    if (c->object)
        mt_release(c->object);
    if (c->tunnel)
        mt_release(c->tunnel);
    free(c);
}

void command_post(mt_engine *e, mt_command *c)
{
    bool first;

    pthread_mutex_lock(&e->lock);
    first = !e->commands;
    *e->commands_end = c;
    e->commands_end = &c->next;
    pthread_mutex_unlock(&e->lock);
    if (first)
        wake(e->wake_fd);
}

static void post_simple(mt_engine *e, int kind, mt_object *o, const char *text, size_t len,
                        double timeout_s)
{
    mt_command *c = command_new(kind, o, text, len);

    if (!c)
        return;
    c->timeout_s = timeout_s;
    command_post(e, c);
}

/* ---- called by Python ---------------------------------------------------------------------- */

mt_object *mt_tunnel_new(mt_engine *e, mt_context *context, int client, int fd)
{
    mt_tunnel *t = calloc(1, sizeof *t);
    mt_command *c = NULL;

    if (t) {
        object_init(&t->o, KIND_TUNNEL);
        t->client = client;
        t->port.fd = -1;
        t->ssl = tls_new(context, client);
        if (t->ssl)
            c = command_new(START, &t->o, NULL, 0);
    }
    if (!c) {
        if (t)
            SSL_free(t->ssl);
        free(t);
        fd_close(fd, true);
        return NULL;
    }
    c->fd = fd;
    command_post(e, c);
    return &t->o;
}

void mt_approve(mt_engine *e, mt_object *tunnel)
{
    post_simple(e, APPROVE, tunnel, NULL, 0, 0);
}

void mt_reject(mt_engine *e, mt_object *tunnel, const char *detail, size_t len)
{
    post_simple(e, REJECT, tunnel, detail, len, 0);
}

void mt_drain(mt_engine *e, mt_object *tunnel, double timeout_s)
{
    post_simple(e, DRAIN, tunnel, NULL, 0, timeout_s);
}

void mt_decline(mt_engine *e, mt_object *stream)
{
    post_simple(e, DECLINE, stream, NULL, 0, 0);
}

void mt_abort(mt_engine *e, mt_object *object, const char *detail, size_t len)
{
    post_simple(e, ABORT, object, detail, len, 0);
}

void mt_engine_stop(mt_engine *e)
{
    post_simple(e, STOP, NULL, NULL, 0, 0);
}

/* A command with headers; NULL if HTTP/2 forbids them. */
static mt_command *with_headers(int kind, mt_object *o, const char *text, size_t len, size_t n)
{
    nghttp2_nv *nv = calloc(n + 1, sizeof *nv);
    mt_command *c = NULL;

    if (nv && !headers_parse(text, len, n, nv))
        c = command_new(kind, o, text, len);
    if (c)
        c->fields = n;
    free(nv);
    return c;
}

mt_object *mt_stream_open(mt_engine *e, mt_object *tunnel, const char *text, size_t len, size_t n,
                          int fd)
{
    mt_stream *st = stream_new(CONTAINER(tunnel, mt_tunnel, o), 0, true);
    mt_command *c = st ? with_headers(OPEN, &st->o, text, len, n) : NULL;

    if (!c) {
        free(st);
        return NULL;
    }
    st->fd = fd;
    c->tunnel = hold(tunnel);
    command_post(e, c);
    return &st->o;
}

int mt_accept(mt_engine *e, mt_object *stream, const char *text, size_t len, size_t n, int fd)
{
    mt_command *c = with_headers(ACCEPT, stream, text, len, n);

    if (!c)
        return -1;
    c->fd = fd;
    command_post(e, c);
    return 0;
}

int mt_refuse(mt_engine *e, mt_object *stream, const char *text, size_t len, size_t n)
{
    mt_command *c = with_headers(REFUSE, stream, text, len, n);

    if (!c)
        return -1;
    command_post(e, c);
    return 0;
}

mt_object *mt_relay_new(mt_engine *e, int first, int second)
{
    mt_relay *r = relay_new();
    mt_command *c = r ? command_new(RELAY, relay_object(r), NULL, 0) : NULL;

    if (!c) {
        free(r);
        fd_close(first, true);
        fd_close(second, true);
        return NULL;
    }
    c->fd = first;
    c->other_fd = second;
    command_post(e, c);
    return relay_object(r);
}

uint64_t mt_bytes_out(const mt_object *object)
{
    return __atomic_load_n(&object->bytes_out, __ATOMIC_RELAXED);
}

uint64_t mt_bytes_in(const mt_object *object)
{
    return __atomic_load_n(&object->bytes_in, __ATOMIC_RELAXED);
}

uint32_t mt_active_streams(const mt_object *tunnel)
{
    const mt_tunnel *t =
        CONTAINER((mt_object *)(uintptr_t)tunnel, mt_tunnel, o);

    return __atomic_load_n(&t->stream_count, __ATOMIC_RELAXED);
}

/* ---- carried out by the engine ------------------------------------------------------------- */

static void abort_object(mt_object *o, const char *detail)
{
    if (o->done)
        return;
    switch (o->kind) {
    case KIND_TUNNEL:
        tunnel_lose(CONTAINER(o, mt_tunnel, o), MT_LOSS_LOCAL, detail);
        break;
    case KIND_STREAM:
        stream_abort(CONTAINER(o, mt_stream, o), detail);
        break;
    default:
        relay_end(relay_of(o), MT_END_ABORTED, detail);
    }
}

static void answer(mt_engine *e, mt_command *c, const nghttp2_nv *nv)
{
    mt_stream *st = CONTAINER(c->object, mt_stream, o);

    if (c->kind == OPEN)
        stream_open(CONTAINER(c->tunnel, mt_tunnel, o), st, nv, c->fields);
    else if (c->kind == ACCEPT)
        stream_accept(e, st, nv, c->fields, c->fd);
    else
        stream_refuse(st, nv, c->fields);
}

static void with_fields(mt_engine *e, mt_command *c)
{
    nghttp2_nv *nv = calloc(c->fields + 1, sizeof *nv);

    if (nv && !headers_parse(c->text, c->len, c->fields, nv))
        answer(e, c, nv);
    else if (c->kind == ACCEPT)
        fd_close(c->fd, true);
    free(nv);
}

static void stop(mt_engine *e)
{
    e->stopping = true;
    lanes_stop(e);
    while (!list_empty(&e->relays))
        relay_end(relay_of(CONTAINER(e->relays.next, mt_object, all)), MT_END_ABORTED,
                  "engine closed");
    for (mt_link *l = e->tunnels.next, *next; l != &e->tunnels; l = next) {
        mt_tunnel *t = CONTAINER(l, mt_tunnel, o.all);

        next = l->next;
        tunnel_lose(t, MT_LOSS_LOCAL, "engine closed");
        tunnel_stop(t);
    }
}

static void run_command(mt_engine *e, mt_command *c)
{
    switch (c->kind) {
    case START:
        tunnel_start(e, CONTAINER(c->object, mt_tunnel, o), c->fd);
        break;
    case APPROVE:
        tunnel_approve(CONTAINER(c->object, mt_tunnel, o));
        break;
    case REJECT:
        tunnel_lose(CONTAINER(c->object, mt_tunnel, o), MT_LOSS_IDENTITY, c->text);
        break;
    case DRAIN:
        tunnel_drain(CONTAINER(c->object, mt_tunnel, o), c->timeout_s);
        break;
    case RELAY:
        relay_start(e, relay_of(c->object), c->fd, c->other_fd);
        break;
    case DECLINE:
        stream_decline(CONTAINER(c->object, mt_stream, o));
        break;
    case ABORT:
        abort_object(c->object, c->text);
        break;
    case STOP:
        stop(e);
        break;
    case OPEN:
    case ACCEPT:
    case REFUSE:
        with_fields(e, c);
        break;
    default:
        lane_command(e, c);
    }
}

void engine_commands(mt_engine *e)
{
    mt_command *c, *next;

    pthread_mutex_lock(&e->lock);
    c = e->commands;
    e->commands = NULL;
    e->commands_end = &e->commands;
    pthread_mutex_unlock(&e->lock);
    for (; c; c = next) {
        next = c->next;
        run_command(e, c);
        command_free(c);
    }
}

/* ---- events -------------------------------------------------------------------------------- */

mt_event *event_new(int kind, int code, mt_object *o, const void *text, size_t text_len)
{
    mt_event *event = malloc(sizeof *event + text_len);

    if (!event)
        abort(); /* an owner that never hears of an end leaks for good */
    *event = (mt_event){.object = o, .text_len = text_len, .kind = kind, .code = code};
    if (o) {
        event->bytes_out = o->bytes_out;
        event->bytes_in = o->bytes_in;
    }
    if (text_len)
        memcpy(event->text, text, text_len);
    return event;
}

void event_send(mt_engine *e, mt_event *event, bool quiet)
{
    bool tell;

    pthread_mutex_lock(&e->lock);
    *e->events_end = event;
    e->events_end = &event->next;
    tell = !quiet && !e->told;
    e->told |= tell;
    pthread_mutex_unlock(&e->lock);
    if (tell)
        wake(e->event_fd);
}

void event_post(mt_engine *e, int kind, int code, mt_object *o, mt_object *stream,
                const void *text, size_t text_len, uint32_t fields)
{
    mt_event *event = event_new(kind, code, o, text, text_len);

    event->stream = stream;
    event->fields = fields;
    event_send(e, event, false);
}

mt_event *mt_events(mt_engine *e)
{
    mt_event *first;
    uint64_t count;

    /* Before the queue is taken: what is posted afterwards wakes again. */
    (void)!read(e->event_fd, &count, sizeof count);
    pthread_mutex_lock(&e->lock);
    first = e->events;
    e->events = NULL;
    e->events_end = &e->events;
    e->told = false;
    pthread_mutex_unlock(&e->lock);
    return first;
}

void mt_events_free(mt_event *first)
{
    mt_event *next;

    for (; first; first = next) {
        next = first->next;
        free(first);
    }
}
