/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the meshnode authors */

/* Near lanes: from a redirected connection of an application into a tunnel. */

#define _GNU_SOURCE /* accept4() */
#include "internal.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#define ACCEPTS_PER_ROUND 32
#define ORIGINAL_DST 80 /* linux/netfilter_ipv4.h; answered by our own getsockopt hook */
#define MAX_FIELDS 8
#define MAX_TEXT 2048

typedef struct {
    uint8_t ip[16];
    uint16_t port;
} address;

static const uint8_t v4_mapped[12] = {[10] = 0xff, [11] = 0xff};

/* ---- finding a lane ------------------------------------------------------------------------ */

static mt_link *bucket(mt_engine *e, uint32_t group, const address *dst)
{
    uint32_t hash = 2166136261u ^ group; /* FNV-1a */

    for (size_t i = 0; i < sizeof dst->ip; i++)
        hash = (hash ^ dst->ip[i]) * 16777619u;
    hash = (hash ^ dst->port) * 16777619u;
    return &e->near[(hash ^ hash >> 16) % LANE_BUCKETS];
}

static mt_lane *find(mt_engine *e, uint32_t group, const address *dst)
{
    mt_link *head = bucket(e, group, dst);

    for (mt_link *l = head->next; l != head; l = l->next) {
        mt_lane *lane = CONTAINER(l, mt_lane, place);

        if (lane->group == group && lane->port == dst->port &&
            !memcmp(lane->dst, dst->ip, sizeof dst->ip) && lane_is_open(lane))
            return lane;
    }
    return NULL;
}

void near_place(mt_engine *e, mt_lane *lane)
{
    address dst = {.port = lane->port};

    memcpy(dst.ip, lane->dst, sizeof dst.ip);
    list_append(bucket(e, lane->group, &dst), &lane->place);
}

static mt_tunnel *room(const mt_lane *lane)
{
    for (size_t i = 0; i < lane->tunnel_count; i++) {
        mt_tunnel *t = lane->tunnels[i];

        if (t->up && !t->lost && !t->draining && t->state == TUNNEL_TALKING &&
            t->stream_count < lane->limit &&
            t->stream_count < nghttp2_session_get_remote_settings(
                                  t->h2, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS))
            return t;
    }
    return NULL;
}

/* ---- taking it ----------------------------------------------------------------------------- */

static void hand_over(mt_engine *e, mt_object *to, int fd, uint16_t port)
{
    mt_event *event = event_new(MT_ACCEPTED, fd, to, NULL, 0);

    event->port = port;
    event_send(e, event, false);
}

/* False: the socket is the caller's still. */
static bool enter(mt_lane *lane, int fd, uint16_t port)
{
    nghttp2_nv nv[MAX_FIELDS];
    char text[MAX_TEXT];
    mt_tunnel *t = room(lane);
    mt_stream *st;
    int digits;

    if (!t)
        return false;
    memcpy(text, lane->text.p, lane->text.len);
    digits = snprintf(text + lane->text.len, 6, "%u", port);
    memcpy(text + lane->text.len + digits, lane->tail.p, lane->tail.len);
    st = stream_new(t, 0, true);
    if (!st || headers_parse(text, lane->text.len + (size_t)digits + lane->tail.len, lane->fields,
                             nv)) {
        free(st);
        return false;
    }
    st->o.refs = 1; /* nobody asked for it */
    st->fd = fd;
    st->client_port = port;
    lane_enter(lane, st);
    stream_open(t, st, nv, lane->fields);
    return true;
}

void near_refused(mt_stream *st, int status, const char *detail)
{
    mt_lane *lane = st->lane;
    mt_engine *e = st->tunnel->engine;
    int fd = st->fd;

    st->fd = -1;
    if (status == 0 && !lane->cut && !e->stopping) {
        /* Nothing was read from the application: Python may find another tunnel. */
        hand_over(e, &lane->o, fd, st->client_port);
        lane_left(st);
        return;
    }
    fd_close(fd, true);
    lane_ended(st, MT_LANE_REFUSED, status, detail);
}

/* ---- doors --------------------------------------------------------------------------------- */

static void take_v4(address *a, const struct sockaddr_in *in)
{
    memcpy(a->ip, v4_mapped, sizeof v4_mapped);
    memcpy(a->ip + sizeof v4_mapped, &in->sin_addr, 4);
    a->port = ntohs(in->sin_port);
}

static bool original_destination(int fd, int family, address *dst)
{
    struct sockaddr_in6 in6;
    struct sockaddr_in in;
    socklen_t len = sizeof in;

    if (family == AF_INET) {
        if (getsockopt(fd, SOL_IP, ORIGINAL_DST, &in, &len) || len < sizeof in)
            return false;
        take_v4(dst, &in);
        return true;
    }
    len = sizeof in6;
    if (getsockopt(fd, SOL_IPV6, ORIGINAL_DST, &in6, &len) || len < sizeof in6)
        return false;
    memcpy(dst->ip, &in6.sin6_addr, sizeof dst->ip);
    dst->port = ntohs(in6.sin6_port);
    return true;
}

static void accepted(mt_engine *e, mt_door *door, int fd, const struct sockaddr_storage *from)
{
    int family = from->ss_family;
    uint16_t port = family == AF_INET ? ((const struct sockaddr_in *)from)->sin_port
                                      : ((const struct sockaddr_in6 *)from)->sin6_port;
    mt_lane *lane = NULL;
    address dst;

    if (family == AF_INET6 &&
        !memcmp(&((const struct sockaddr_in6 *)from)->sin6_addr, v4_mapped, sizeof v4_mapped))
        family = AF_INET;
    if (original_destination(fd, family, &dst))
        lane = find(e, door->group, &dst);
    if (!lane || !enter(lane, fd, ntohs(port)))
        hand_over(e, &door->o, fd, ntohs(port));
}

void door_event(mt_engine *e, mt_door *door)
{
    for (int i = 0; i < ACCEPTS_PER_ROUND; i++) {
        struct sockaddr_storage from;
        socklen_t len = sizeof from;
        int fd = accept4(door->port.fd, (struct sockaddr *)&from, &len,
                         SOCK_NONBLOCK | SOCK_CLOEXEC);

        if (fd >= 0) {
            accepted(e, door, fd, &from);
        } else if (errno == EAGAIN) {
            return;
        } else if (errno != EINTR && errno != ECONNABORTED) {
            /* Out of descriptors or memory, or shut down: do not spin on what stays readable. */
            door_close(e, door, errno);
            return;
        }
    }
}

void door_open(mt_engine *e, mt_door *door, int fd)
{
    /* Level-triggered: other processes accept here too, and what one of them leaves stays. */
    struct epoll_event event = {.events = EPOLLIN | EPOLLEXCLUSIVE, .data.ptr = &door->port};

    door->port = (mt_port){.owner = door, .fd = fd, .kind = PORT_DOOR};
    list_append(&e->doors, &door->o.all);
    if (e->stopping)
        door_close(e, door, 0);
    else if (epoll_ctl(e->epoll_fd, EPOLL_CTL_ADD, fd, &event))
        door_close(e, door, errno);
}

void door_close(mt_engine *e, mt_door *door, int error)
{
    if (door->o.done)
        return;
    door->o.done = true;
    port_close(e, &door->port, false);
    list_remove(&door->o.all);
    event_post(e, MT_GONE, error, &door->o, NULL, NULL, 0, 0);
    object_bury(e, &door->o);
}
