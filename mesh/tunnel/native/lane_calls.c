/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the meshnode authors */

/* What Python calls for doors, lanes and stocks: everything is a command for the engine's thread. */

#include "internal.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_FIELDS 8
#define MAX_TEXT 2000

static void post(mt_engine *e, int kind, mt_object *o, const char *text, size_t len)
{
    mt_command *c = command_new(kind, o, text, len);

    if (c)
        command_post(e, c);
}

/* ---- doors --------------------------------------------------------------------------------- */

mt_object *mt_door_open(mt_engine *e, uint32_t group, int fd)
{
    mt_door *door = calloc(1, sizeof *door);
    mt_command *c = NULL;

    if (door) {
        object_init(&door->o, KIND_DOOR);
        door->group = group;
        door->port.fd = -1;
        c = command_new(DOOR_OPEN, &door->o, NULL, 0);
    }
    if (!c) {
        free(door);
        close(fd);
        return NULL;
    }
    c->fd = fd;
    command_post(e, c);
    return &door->o;
}

void mt_door_close(mt_engine *e, mt_object *door)
{
    post(e, DOOR_CLOSE, door, NULL, 0);
}

/* ---- lanes --------------------------------------------------------------------------------- */

static mt_lane *lane_new(int side, const uint8_t *dst, uint16_t port)
{
    mt_lane *lane = calloc(1, sizeof *lane);

    if (!lane)
        return NULL;
    object_init(&lane->o, KIND_LANE);
    list_init(&lane->place);
    list_init(&lane->streams);
    list_init(&lane->dirty);
    lane->side = (uint8_t)side;
    lane->port = port;
    memcpy(lane->dst, dst, sizeof lane->dst);
    return lane;
}

static int copy(mt_buf *out, const char *text, size_t len)
{
    char *p = buf_grow(out, len);

    if (p && len)
        memcpy(p, text, len);
    return p ? 0 : -1;
}

static mt_object *lane_add(mt_engine *e, mt_lane *lane, bool good)
{
    mt_command *c = good ? command_new(LANE_ADD, &lane->o, NULL, 0) : NULL;

    if (!c) {
        lane_free_parts(lane);
        free(lane);
        return NULL;
    }
    command_post(e, c);
    return &lane->o;
}

/* Whether they would be good with the longest port. */
static bool fields_are_good(const mt_lane *lane)
{
    nghttp2_nv nv[MAX_FIELDS];
    char text[MAX_TEXT + 8];
    size_t len = lane->text.len;

    if (!lane->fields || lane->fields > MAX_FIELDS || len + lane->tail.len > MAX_TEXT)
        return false;
    memcpy(text, lane->text.p, len);
    memcpy(text + len, "65535", 5);
    memcpy(text + len + 5, lane->tail.p, lane->tail.len);
    return !headers_parse(text, len + 5 + lane->tail.len, lane->fields, nv);
}

mt_object *mt_lane_near(mt_engine *e, uint32_t group, const uint8_t *dst, uint16_t port,
                        uint32_t slot, uint32_t slots, mt_object **tunnels, size_t count, uint32_t limit, const char *head,
                        size_t head_len, const char *tail, size_t tail_len, size_t fields)
{
    mt_lane *lane = lane_new(SIDE_NEAR, dst, port);
    bool copied;

    if (!lane)
        return NULL;
    lane->group = group;
    lane->slot = slot;
    lane->slots = slots;
    lane->limit = limit;
    lane->fields = fields;
    for (size_t i = 0; i < count && i < LANE_TUNNELS; i++)
        lane->tunnels[lane->tunnel_count++] = CONTAINER(hold(tunnels[i]), mt_tunnel, o);
    copied = !copy(&lane->text, head, head_len) && !copy(&lane->tail, tail, tail_len);
    return lane_add(e, lane, copied && slot < slots && fields_are_good(lane));
}

mt_object *mt_lane_far(mt_engine *e, mt_object *tunnel, mt_object *stock, const char *authority,
                       size_t authority_len, const uint8_t *dst, uint16_t port, const uint8_t *src,
                       const char *client, size_t client_len)
{
    mt_lane *lane = lane_new(SIDE_FAR, dst, port);

    if (!lane)
        return NULL;
    lane->tunnels[0] = CONTAINER(hold(tunnel), mt_tunnel, o);
    lane->tunnel_count = 1;
    lane->stock = hold(stock);
    lane->binds = src;
    if (src)
        memcpy(lane->src, src, sizeof lane->src);
    return lane_add(e, lane, !copy(&lane->text, authority, authority_len) &&
                                 !copy(&lane->tail, client, client_len));
}

void mt_lane_retire(mt_engine *e, mt_object *lane)
{
    /* At once, and not only when the command is read. */
    __atomic_store_n(&CONTAINER(lane, mt_lane, o)->retired, 1, __ATOMIC_RELEASE);
    post(e, LANE_RETIRE, lane, NULL, 0);
}

void mt_lane_cut(mt_engine *e, mt_object *lane, const char *detail, size_t len)
{
    __atomic_store_n(&CONTAINER(lane, mt_lane, o)->retired, 1, __ATOMIC_RELEASE);
    post(e, LANE_CUT, lane, detail, len);
}

/* ---- stocks -------------------------------------------------------------------------------- */

mt_object *mt_stock_new(mt_engine *e)
{
    mt_stock *stock = calloc(1, sizeof *stock);

    if (!stock)
        return NULL;
    object_init(&stock->o, KIND_STOCK);
    post(e, STOCK_NEW, &stock->o, NULL, 0);
    return &stock->o;
}

void mt_stock_add(mt_engine *e, mt_object *stock, const int *fds, size_t count)
{
    mt_command *c = command_new(STOCK_ADD, stock, (const char *)fds, count * sizeof *fds);

    if (!c) {
        for (size_t i = 0; i < count; i++)
            close(fds[i]);
        return;
    }
    c->fields = count;
    command_post(e, c);
}

void mt_stock_clear(mt_engine *e, mt_object *stock)
{
    post(e, STOCK_CLEAR, stock, NULL, 0);
}

void mt_stock_drop(mt_engine *e, mt_object *stock)
{
    post(e, STOCK_DROP, stock, NULL, 0);
}

/* ---- questions ----------------------------------------------------------------------------- */

void mt_list(mt_engine *e, uint32_t max)
{
    mt_command *c = command_new(LIST, NULL, NULL, 0);

    if (!c)
        return;
    c->fields = max;
    command_post(e, c);
}

void mt_tell(mt_engine *e, double records_per_s)
{
    __atomic_store(&e->settings.records_per_s, &records_per_s, __ATOMIC_RELAXED);
}

uint32_t mt_lane_connections(const mt_engine *e)
{
    return __atomic_load_n(&e->lane_connections, __ATOMIC_RELAXED);
}

uint32_t mt_lane_streams(const mt_object *tunnel)
{
    const mt_tunnel *t = CONTAINER((mt_object *)(uintptr_t)tunnel, mt_tunnel, o);

    return __atomic_load_n(&t->lane_streams, __ATOMIC_RELAXED);
}
