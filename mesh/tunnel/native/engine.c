/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the meshnode authors */

/* The thread: an epoll loop over every socket, in rounds in which everybody has one turn. */

#include "internal.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#define EVENTS_PER_ROUND 256
#define NEVER 1e18
/* Timers of thousands of tunnels are looked at together. */
#define TIMER_GRAIN_S 0.01

static double monotonic(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* ---- objects ------------------------------------------------------------------------------ */

void object_init(mt_object *o, int kind)
{
    o->kind = (uint8_t)kind;
    o->refs = 2; /* the engine's and the caller's */
    list_init(&o->all);
    list_init(&o->run);
}

void mt_release(mt_object *o)
{
    if (__atomic_sub_fetch(&o->refs, 1, __ATOMIC_ACQ_REL))
        return;
    if (o->kind == KIND_TUNNEL)
        tunnel_free_parts(CONTAINER(o, mt_tunnel, o));
    if (o->kind == KIND_STREAM)
        queue_clear(&CONTAINER(o, mt_stream, o)->in);
    if (o->kind == KIND_LANE)
        lane_free_parts(CONTAINER(o, mt_lane, o));
    if (o->kind == KIND_STOCK)
        stock_clear(CONTAINER(o, mt_stock, o));
    free(o);
}

void object_bury(mt_engine *e, mt_object *o)
{
    if (o->buried)
        return;
    o->buried = true;
    o->next_dead = e->dead;
    e->dead = o;
}

static void bury_all(mt_engine *e)
{
    mt_object *o;

    while ((o = e->dead)) {
        e->dead = o->next_dead;
        mt_release(o);
    }
}

/* ---- the loop ------------------------------------------------------------------------------ */

void engine_schedule(mt_engine *e, mt_object *o)
{
    if (list_empty(&o->run) && !o->buried)
        list_append(&e->runnable, &o->run);
}

void engine_timer(mt_engine *e, double at)
{
    if (at < e->next_check)
        e->next_check = at < e->now + TIMER_GRAIN_S ? e->now + TIMER_GRAIN_S : at;
}

static void port_event(mt_engine *e, mt_port *p, uint32_t events)
{
    if (p->fd < 0)
        return; /* closed in this round */
    if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
        p->hangup = true;
    if (events & EPOLLPRI)
        p->urgent = true;
    if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
        p->readable = true;
    if (events & (EPOLLOUT | EPOLLHUP | EPOLLERR))
        p->writable = true;
    if (p->kind == PORT_STREAM)
        stream_event(p->owner);
    else if (p->kind == PORT_TUNNEL)
        engine_schedule(e, &((mt_tunnel *)p->owner)->o);
    else if (p->kind == PORT_DOOR)
        door_event(e, p->owner);
    else
        engine_schedule(e, relay_object(p->owner));
}

static void run_round(mt_engine *e)
{
    mt_link end, *l;

    /* Whoever is scheduled meanwhile comes behind `end`, in the next round. */
    list_append(&e->runnable, &end);
    while ((l = e->runnable.next) != &end) {
        mt_object *o = CONTAINER(l, mt_object, run);

        list_remove(l);
        if (o->kind == KIND_TUNNEL)
            tunnel_run(CONTAINER(o, mt_tunnel, o));
        else
            relay_run(relay_of(o));
    }
    list_remove(&end);
}

static void check_timers(mt_engine *e)
{
    mt_link *next;

    e->next_check = NEVER;
    lanes_timers(e);
    for (mt_link *l = e->tunnels.next; l != &e->tunnels; l = next) {
        next = l->next;
        tunnel_timers(CONTAINER(l, mt_tunnel, o.all));
    }
}

static int timeout_ms(const mt_engine *e)
{
    double left = e->next_check - e->now;

    if (!list_empty(&e->runnable))
        return 0;
    return left > 1e6 ? -1 : left <= 0 ? 0 : (int)(left * 1e3) + 1;
}

static void *serve(void *user)
{
    struct epoll_event events[EVENTS_PER_ROUND];
    mt_engine *e = user;
    uint64_t count;

    prctl(PR_SET_NAME, "tunnels");
    while (!e->stopping || !list_empty(&e->tunnels) || !list_empty(&e->relays)) {
        int n = epoll_wait(e->epoll_fd, events, EVENTS_PER_ROUND, timeout_ms(e));
        bool woken = false;

        e->now = monotonic();
        for (int i = 0; i < n; i++) {
            if (events[i].data.ptr)
                port_event(e, events[i].data.ptr, events[i].events);
            else
                woken = true;
        }
        if (woken && read(e->wake_fd, &count, sizeof count) > 0)
            engine_commands(e);
        run_round(e);
        if (e->now >= e->next_check)
            check_timers(e);
        bury_all(e);
    }
    lanes_report(e);
    event_post(e, MT_STOPPED, 0, NULL, NULL, NULL, 0, 0);
    return NULL;
}

/* ---- life ---------------------------------------------------------------------------------- */

static int start_thread(mt_engine *e)
{
    sigset_t all, before;
    int rv;

    /* Signals are the interpreter's. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    rv = pthread_create(&e->thread, NULL, serve, e);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rv ? -1 : 0;
}

static void free_engine(mt_engine *e)
{
    int fds[] = {e->epoll_fd, e->wake_fd, e->event_fd};

    for (size_t i = 0; i < sizeof fds / sizeof *fds; i++)
        if (fds[i] >= 0)
            close(fds[i]);
    nghttp2_session_callbacks_del(e->callbacks);
    nghttp2_option_del(e->options);
    pthread_mutex_destroy(&e->lock);
    free(e);
}

mt_engine *mt_engine_new(const mt_settings *settings)
{
    mt_engine *e = calloc(1, sizeof *e);
    struct epoll_event wake = {.events = EPOLLIN};

    if (!e)
        return NULL;
    e->settings = *settings;
    e->commands_end = &e->commands;
    e->events_end = &e->events;
    e->next_check = NEVER;
    e->now = monotonic();
    list_init(&e->tunnels);
    list_init(&e->relays);
    list_init(&e->runnable);
    lanes_prepare(e);
    pthread_mutex_init(&e->lock, NULL);
    e->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    e->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    e->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (e->epoll_fd < 0 || e->wake_fd < 0 || e->event_fd < 0 || http2_prepare(e) ||
        epoll_ctl(e->epoll_fd, EPOLL_CTL_ADD, e->wake_fd, &wake) || start_thread(e)) {
        free_engine(e);
        return NULL;
    }
    return e;
}

int mt_engine_fd(const mt_engine *e)
{
    return e->event_fd;
}

void mt_engine_free(mt_engine *e)
{
    mt_event *left;

    mt_engine_stop(e);
    pthread_join(e->thread, NULL);
    engine_commands(e); /* what came too late: descriptors to close, references to drop */
    bury_all(e);
    left = mt_events(e);
    for (mt_event *event = left; event; event = event->next)
        if (event->kind == MT_REQUEST)
            mt_release(event->stream);
        else if (event->kind == MT_ACCEPTED)
            close(event->code);
    mt_events_free(left);
    free_engine(e);
}
