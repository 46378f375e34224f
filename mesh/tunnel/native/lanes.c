/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the meshnode authors */

/*
 * Lanes: their life, their connections, and what is told of them.
 *
 * Established connections are counted by lane, and the counts told at intervals; single ones are
 * told of as far as their number allows, for the access log. What was refused is always told.
 */

#include "internal.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define REPORT_S 0.1
#define BYTES_REPORT_S 1.0 /* while nothing but bytes has changed */
#define RECORD_BURST_S 5.0 /* so many seconds' worth of records at once */

bool lane_is_open(const mt_lane *lane)
{
    return !__atomic_load_n(&lane->retired, __ATOMIC_ACQUIRE);
}

void lane_free_parts(mt_lane *lane)
{
    for (size_t i = 0; i < lane->tunnel_count; i++)
        mt_release(&lane->tunnels[i]->o);
    lane->tunnel_count = 0;
    if (lane->stock)
        mt_release(lane->stock);
    lane->stock = NULL;
    buf_free(&lane->text);
    buf_free(&lane->tail);
}

/* ---- what is told -------------------------------------------------------------------------- */

static void report_at(mt_engine *e, mt_lane *lane, double at)
{
    if (list_empty(&lane->dirty))
        list_append(&e->dirty, &lane->dirty);
    if (!e->report_at || at < e->report_at) {
        e->report_at = at;
        engine_timer(e, at);
    }
}

static void report(mt_engine *e, mt_lane *lane)
{
    mt_event *event = event_new(MT_TALLY, 0, &lane->o, &lane->tally, sizeof lane->tally);

    list_remove(&lane->dirty);
    lane->tally = (mt_tally){0};
    event_send(e, event, false);
}

void lanes_report(mt_engine *e)
{
    e->report_at = 0;
    while (!list_empty(&e->dirty))
        report(e, CONTAINER(e->dirty.next, mt_lane, dirty));
}

void lanes_timers(mt_engine *e)
{
    if (e->report_at && e->report_at <= e->now)
        lanes_report(e);
    else if (e->report_at)
        engine_timer(e, e->report_at);
    far_timers(e);
}

static bool may_tell(mt_engine *e)
{
    double rate;

    __atomic_load(&e->settings.records_per_s, &rate, __ATOMIC_RELAXED);
    e->record_tokens += (e->now - e->record_at) * rate;
    e->record_at = e->now;
    if (e->record_tokens > RECORD_BURST_S * rate)
        e->record_tokens = RECORD_BURST_S * rate;
    if (e->record_tokens < 1)
        return false;
    e->record_tokens -= 1;
    return true;
}

static mt_event *describe(mt_engine *e, int kind, int code, const mt_stream *st,
                          const char *detail)
{
    mt_event *event = event_new(kind, code, &st->lane->o, detail, strlen(detail));

    event->bytes_out = st->o.bytes_out;
    event->bytes_in = st->o.bytes_in;
    event->began_at = st->began_at;
    event->lasted_s = e->now - st->began_at;
    event->port = st->client_port;
    event->fields = st->established;
    return event;
}

/* ---- connections --------------------------------------------------------------------------- */

void lane_enter(mt_lane *lane, mt_stream *st)
{
    mt_engine *e = st->tunnel->engine;

    st->lane = CONTAINER(hold(&lane->o), mt_lane, o);
    st->began_at = e->now;
    list_append(&lane->streams, &st->in_lane);
    __atomic_add_fetch(&e->lane_connections, 1, __ATOMIC_RELAXED);
    if (lane->side == SIDE_NEAR)
        __atomic_add_fetch(&st->tunnel->lane_streams, 1, __ATOMIC_RELAXED);
}

void lane_opened(mt_stream *st)
{
    mt_engine *e = st->tunnel->engine;

    st->established = true;
    st->lane->tally.opened++;
    report_at(e, st->lane, e->now + REPORT_S);
}

void lane_moved(mt_stream *st, size_t out, size_t in)
{
    mt_lane *lane = st->lane;
    mt_engine *e = st->tunnel->engine;

    lane->tally.sent += lane->side == SIDE_NEAR ? out : in;
    lane->tally.received += lane->side == SIDE_NEAR ? in : out;
    if (list_empty(&lane->dirty))
        report_at(e, lane, e->now + BYTES_REPORT_S);
}

static void gone(mt_engine *e, mt_lane *lane)
{
    if (!list_empty(&lane->dirty))
        report(e, lane);
    lane->o.done = true;
    list_remove(&lane->o.all);
    event_post(e, MT_GONE, 0, &lane->o, NULL, NULL, 0, 0);
    object_bury(e, &lane->o);
}

void lane_left(mt_stream *st)
{
    mt_lane *lane = st->lane;
    mt_engine *e = st->tunnel->engine;

    list_remove(&st->in_lane);
    st->lane = NULL;
    __atomic_sub_fetch(&e->lane_connections, 1, __ATOMIC_RELAXED);
    if (lane->side == SIDE_NEAR)
        __atomic_sub_fetch(&st->tunnel->lane_streams, 1, __ATOMIC_RELAXED);
    if (list_empty(&lane->streams) && list_empty(&lane->place) && !lane->o.done &&
        !lane_is_open(lane))
        gone(e, lane);
    mt_release(&lane->o);
}

void lane_ended(mt_stream *st, int end, int status, const char *detail)
{
    mt_lane *lane = st->lane;
    mt_engine *e = st->tunnel->engine;
    mt_event *event;

    if (!lane)
        return;
    if (!st->established) {
        event = describe(e, MT_ENDED, end, st, detail);
        event->status = status;
        event_send(e, event, false);
        lane_left(st);
        return;
    }
    lane->tally.ended[end]++;
    report_at(e, lane, e->now + REPORT_S);
    if (may_tell(e))
        event_send(e, describe(e, MT_ENDED, end, st, detail), true);
    else
        lane->tally.untold++;
    lane_left(st);
}

/* ---- life ---------------------------------------------------------------------------------- */

void lane_retire(mt_engine *e, mt_lane *lane)
{
    __atomic_store_n(&lane->retired, 1, __ATOMIC_RELEASE);
    list_remove(&lane->place);
    if (lane->choice)
        near_leave(lane);
    if (list_empty(&lane->streams) && !lane->o.done)
        gone(e, lane);
}

static void cut(mt_engine *e, mt_lane *lane, const char *detail)
{
    mt_link *next;

    lane->cut = true;
    hold(&lane->o); /* its last connection would end it */
    for (mt_link *l = lane->streams.next; l != &lane->streams; l = next) {
        mt_stream *st = CONTAINER(l, mt_stream, in_lane);

        next = l->next;
        if (st->dialling)
            far_cut(st, detail);
        else
            stream_abort(st, detail);
    }
    if (!lane->o.done)
        lane_retire(e, lane);
    mt_release(&lane->o);
}

void lanes_prepare(mt_engine *e)
{
    mt_link *heads[] = {&e->doors, &e->lanes, &e->stocks, &e->dirty, &e->dialling};

    for (size_t i = 0; i < sizeof heads / sizeof *heads; i++)
        list_init(heads[i]);
    for (size_t i = 0; i < LANE_BUCKETS; i++)
        list_init(&e->near[i]);
    /* Any seed that is not zero will do: nothing secret is drawn. */
    if (getrandom(&e->random, sizeof e->random, 0) != sizeof e->random || !e->random)
        e->random = 1;
    e->record_at = e->now;
    e->record_tokens = RECORD_BURST_S * e->settings.records_per_s;
}

static void add_lane(mt_engine *e, mt_lane *lane)
{
    mt_tunnel *t = lane->tunnels[0];

    list_append(&e->lanes, &lane->o.all);
    if (!lane_is_open(lane) || e->stopping || (lane->side == SIDE_FAR && t->lost)) {
        lane_retire(e, lane);
        return;
    }
    if (lane->side == SIDE_FAR)
        list_append(&t->lanes, &lane->place);
    else if (near_place(e, lane))
        lane_retire(e, lane);
}

static void drop_stock(mt_engine *e, mt_stock *stock)
{
    if (stock->o.done)
        return;
    stock_clear(stock);
    stock->o.done = true;
    list_remove(&stock->o.all);
    event_post(e, MT_GONE, 0, &stock->o, NULL, NULL, 0, 0);
    object_bury(e, &stock->o);
}

void lanes_stop(mt_engine *e)
{
    while (!list_empty(&e->doors))
        door_close(e, CONTAINER(e->doors.next, mt_door, o.all), 0);
    while (!list_empty(&e->stocks))
        drop_stock(e, CONTAINER(e->stocks.next, mt_stock, o.all));
    for (mt_link *l = e->lanes.next, *next; l != &e->lanes; l = next) {
        next = l->next;
        lane_retire(e, CONTAINER(l, mt_lane, o.all));
    }
}

static void list_connections(mt_engine *e, uint32_t max)
{
    for (mt_link *l = e->lanes.next; l != &e->lanes; l = l->next) {
        mt_lane *lane = CONTAINER(l, mt_lane, o.all);

        for (mt_link *s = lane->streams.next; s != &lane->streams && max; s = s->next) {
            mt_stream *st = CONTAINER(s, mt_stream, in_lane);

            if (st->established) {
                event_send(e, describe(e, MT_LISTED, 0, st, ""), true);
                max--;
            }
        }
    }
    event_post(e, MT_LIST_END, 0, NULL, NULL, NULL, 0, 0);
}

void lane_command(mt_engine *e, mt_command *c)
{
    switch (c->kind) {
    case DOOR_OPEN:
        door_open(e, CONTAINER(c->object, mt_door, o), c->fd);
        break;
    case DOOR_CLOSE:
        door_close(e, CONTAINER(c->object, mt_door, o), 0);
        break;
    case LANE_ADD:
        add_lane(e, CONTAINER(c->object, mt_lane, o));
        break;
    case LANE_RETIRE:
        lane_retire(e, CONTAINER(c->object, mt_lane, o));
        break;
    case LANE_CUT:
        cut(e, CONTAINER(c->object, mt_lane, o), c->text);
        break;
    case STOCK_NEW:
        list_append(&e->stocks, &c->object->all);
        if (e->stopping)
            drop_stock(e, CONTAINER(c->object, mt_stock, o));
        break;
    case STOCK_ADD:
        stock_add(e, CONTAINER(c->object, mt_stock, o), (const int *)(const void *)c->text,
                  c->fields);
        break;
    case STOCK_CLEAR:
        stock_clear(CONTAINER(c->object, mt_stock, o));
        break;
    case STOCK_DROP:
        drop_stock(e, CONTAINER(c->object, mt_stock, o));
        break;
    case LIST:
        list_connections(e, (uint32_t)c->fields);
        break;
    default:
        abort();
    }
}
