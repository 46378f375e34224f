/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the meshnode authors */

/* Near lanes: from a redirected connection of an application into a tunnel. */

#define _GNU_SOURCE /* accept4() */
#include "internal.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
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

static void take_v4(address *a, const struct sockaddr_in *in)
{
    memcpy(a->ip, v4_mapped, sizeof v4_mapped);
    memcpy(a->ip + sizeof v4_mapped, &in->sin_addr, 4);
    a->port = ntohs(in->sin_port);
}

/* ---- finding a lane ------------------------------------------------------------------------ */

static uint32_t hash_of(uint32_t seed, const uint8_t ip[16], uint16_t port)
{
    uint32_t hash = 2166136261u ^ seed; /* FNV-1a */

    for (size_t i = 0; i < 16; i++)
        hash = (hash ^ ip[i]) * 16777619u;
    hash = (hash ^ port) * 16777619u;
    return hash ^ hash >> 16;
}

static mt_link *bucket(mt_engine *e, uint32_t group, const uint8_t ip[16], uint16_t port)
{
    return &e->near[hash_of(group, ip, port) % LANE_BUCKETS];
}

static mt_choice *find(mt_link *head, uint32_t group, const uint8_t ip[16], uint16_t port)
{
    for (mt_link *l = head->next; l != head; l = l->next) {
        mt_choice *choice = CONTAINER(l, mt_choice, place);

        if (choice->group == group && choice->port == port && !memcmp(choice->dst, ip, 16))
            return choice;
    }
    return NULL;
}

static mt_choice *choice_new(mt_link *head, const mt_lane *lane)
{
    mt_choice *choice = calloc(1, sizeof *choice + lane->slots * sizeof *choice->slots);

    if (!choice)
        return NULL;
    list_init(&choice->lanes);
    choice->group = lane->group;
    memcpy(choice->dst, lane->dst, sizeof choice->dst);
    choice->port = lane->port;
    choice->count = lane->slots;
    list_append(head, &choice->place);
    return choice;
}

int near_place(mt_engine *e, mt_lane *lane)
{
    mt_link *head = bucket(e, lane->group, lane->dst, lane->port);
    mt_choice *choice = find(head, lane->group, lane->dst, lane->port);

    if (!choice)
        choice = choice_new(head, lane);
    if (!choice || choice->count != lane->slots || choice->slots[lane->slot])
        return -1;
    choice->slots[lane->slot] = lane;
    lane->choice = choice;
    list_append(&choice->lanes, &lane->place);
    return 0;
}

void near_leave(mt_lane *lane)
{
    mt_choice *choice = lane->choice;

    choice->slots[lane->slot] = NULL;
    lane->choice = NULL;
    if (!list_empty(&choice->lanes))
        return;
    list_remove(&choice->place);
    free(choice);
}

/* ---- choosing an endpoint ------------------------------------------------------------------ */

uint32_t *near_load(mt_engine *e, int fd)
{
    struct sockaddr_storage peer;
    socklen_t len = sizeof peer;
    address a = {0};

    if (!getpeername(fd, (struct sockaddr *)&peer, &len)) {
        if (peer.ss_family == AF_INET)
            take_v4(&a, (const struct sockaddr_in *)&peer);
        else if (peer.ss_family == AF_INET6)
            memcpy(a.ip, &((const struct sockaddr_in6 *)&peer)->sin6_addr, sizeof a.ip);
    }
    return &e->loads[hash_of(0, a.ip, 0) % LOADS];
}

static uint32_t below(uint64_t *random, uint32_t limit)
{
    /* xorshift64* */
    *random ^= *random >> 12;
    *random ^= *random << 25;
    *random ^= *random >> 27;
    return (uint32_t)((uint64_t)(uint32_t)(*random * 2685821657736338717u >> 32) * limit >> 32);
}

void mt_draw(uint64_t *random, uint32_t count, uint32_t *first, uint32_t *second)
{
    *first = below(random, count);
    *second = below(random, count - 1);
    if (*second >= *first)
        ++*second;
}

/* What is not laid has no connections of ours that are known here. */
static uint32_t load_of(const mt_lane *lane)
{
    return lane && lane->tunnel_count && lane->tunnels[0]->load ? *lane->tunnels[0]->load : 0;
}

/* As mesh/balance/least_loaded.py does it: the better of two random ones. */
static uint32_t choose(mt_engine *e, const mt_choice *choice)
{
    uint32_t first, second;

    if (choice->count == 1)
        return 0;
    mt_draw(&e->random, choice->count, &first, &second);
    return load_of(choice->slots[second]) < load_of(choice->slots[first]) ? second : first;
}

/* ---- taking it ----------------------------------------------------------------------------- */

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

static void hand_over(mt_engine *e, mt_object *to, int fd, uint16_t port, uint32_t drawn)
{
    mt_event *event = event_new(MT_ACCEPTED, fd, to, NULL, 0);

    event->port = port;
    event->status = (int32_t)drawn;
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
        hand_over(e, &lane->o, fd, st->client_port, 0);
        lane_left(st);
        return;
    }
    fd_close(fd, true);
    lane_ended(st, MT_LANE_REFUSED, status, detail);
}

/* ---- doors --------------------------------------------------------------------------------- */

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
    uint32_t drawn = 0;
    mt_choice *choice;
    mt_lane *lane = NULL;
    address dst;

    if (family == AF_INET6 &&
        !memcmp(&((const struct sockaddr_in6 *)from)->sin6_addr, v4_mapped, sizeof v4_mapped))
        family = AF_INET;
    choice = original_destination(fd, family, &dst)
                 ? find(bucket(e, door->group, dst.ip, dst.port), door->group, dst.ip, dst.port)
                 : NULL;
    if (choice) {
        uint32_t slot = choose(e, choice);

        lane = choice->slots[slot];
        drawn = choice->count > 1 ? slot + 1 : 0;
    }
    if (lane && !lane_is_open(lane)) {
        lane = NULL;
        drawn = 0; /* among endpoints of an earlier day */
    }
    if (!lane || !enter(lane, fd, ntohs(port)))
        hand_over(e, &door->o, fd, ntohs(port), drawn);
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
