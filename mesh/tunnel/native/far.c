/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the meshnode authors */

/*
 * Far lanes: from a CONNECT to the application, which is connected before the answer.
 *
 * The sockets were made in the application's namespace by somebody with the privilege to do so, and
 * wait in a stock.
 */

#include "internal.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define DIAL_S 10.0
#define MAX_FIELDS 32

/* ---- stocks -------------------------------------------------------------------------------- */

void stock_clear(mt_stock *stock)
{
    while (stock->count)
        close(stock->fds[--stock->count]);
}

void stock_add(mt_engine *e, mt_stock *stock, const int *fds, size_t count)
{
    (void)e;
    stock->wanted = false;
    for (size_t i = 0; i < count; i++) {
        if (stock->o.done || stock->count == STOCK_SIZE)
            close(fds[i]);
        else
            stock->fds[stock->count++] = fds[i];
    }
}

static int take_socket(mt_engine *e, mt_stock *stock)
{
    if (stock->o.done)
        return -1;
    if (stock->count <= STOCK_SIZE / 2 && !stock->wanted) {
        stock->wanted = true;
        event_post(e, MT_WANTED, 0, &stock->o, NULL, NULL, 0, 0);
    }
    return stock->count ? stock->fds[--stock->count] : -1;
}

/*
 * A socket whose connection has ended on both sides is as good as a new one once it is disconnected
 * (connect(2), AF_UNSPEC): options and namespace stay. It saves its maker most of the work.
 */
void far_keep(mt_stream *st)
{
    mt_stock *stock = CONTAINER(st->lane->stock, mt_stock, o);
    struct sockaddr nowhere = {.sa_family = AF_UNSPEC};
    uint8_t state = 0;
    socklen_t len = sizeof state; /* the first member of struct tcp_info */
    int fd = st->port.fd;

    if (stock->o.done || stock->count == STOCK_SIZE ||
        getsockopt(fd, IPPROTO_TCP, TCP_INFO, &state, &len) || state != TCP_CLOSE ||
        epoll_ctl(st->tunnel->engine->epoll_fd, EPOLL_CTL_DEL, fd, NULL) ||
        connect(fd, &nowhere, sizeof nowhere))
        return;
    st->port.fd = -1;
    st->port.readable = st->port.writable = false;
    stock->fds[stock->count++] = fd;
}

/* ---- the request --------------------------------------------------------------------------- */

static bool is(const nghttp2_nv *field, const char *name)
{
    return field->namelen == strlen(name) && !memcmp(field->name, name, field->namelen);
}

/* Fields that no HTTP/2 message may have (RFC 9113 8.2.2). */
static bool is_forbidden(const nghttp2_nv *field)
{
    return is(field, "connection") || is(field, "keep-alive") || is(field, "proxy-connection") ||
           is(field, "transfer-encoding") || is(field, "upgrade");
}

/* The port in `for="ADDRESS:PORT"` if the address is the client's own; else 0. Telemetry only. */
static uint16_t claimed_port(const mt_lane *lane, const nghttp2_nv *field)
{
    const char *p = (const char *)field->value, *end = p + field->valuelen;
    uint32_t port = 0;

    if (end - p < 4 || memcmp(p, "for=", 4))
        return 0;
    p += 4;
    p += p < end && *p == '"';
    if ((size_t)(end - p) <= lane->tail.len || memcmp(p, lane->tail.p, lane->tail.len))
        return 0;
    p += lane->tail.len;
    if (*p++ != ':')
        return 0;
    for (; p < end && *p >= '0' && *p <= '9' && port < 65536; p++)
        port = port * 10 + (uint32_t)(*p - '0');
    return port < 65536 ? (uint16_t)port : 0;
}

/* An ordinary CONNECT (RFC 9113 8.5) with its two pseudo-headers in front, and nothing forbidden:
 * all others are for Python to judge. */
static const nghttp2_nv *authority_of(const nghttp2_nv *nv, size_t n)
{
    const nghttp2_nv *found = NULL;
    bool method = false;

    for (size_t i = 0; i < n; i++) {
        if (i < 2 && is(&nv[i], ":method"))
            method = nv[i].valuelen == 7 && !memcmp(nv[i].value, "CONNECT", 7);
        else if (i < 2 && is(&nv[i], ":authority"))
            found = &nv[i];
        else if (!nv[i].namelen || nv[i].name[0] == ':' || is_forbidden(&nv[i]))
            return NULL;
    }
    return method ? found : NULL;
}

static mt_lane *find(const mt_tunnel *t, const nghttp2_nv *authority)
{
    for (mt_link *l = t->lanes.next; l != &t->lanes; l = l->next) {
        mt_lane *lane = CONTAINER(l, mt_lane, place);

        if (lane->text.len == authority->valuelen &&
            !memcmp(lane->text.p, authority->value, authority->valuelen) && lane_is_open(lane))
            return lane;
    }
    return NULL;
}

/* ---- the application ----------------------------------------------------------------------- */

static socklen_t fill(struct sockaddr_storage *out, const uint8_t *ip, uint16_t port)
{
    static const uint8_t v4_mapped[12] = {[10] = 0xff, [11] = 0xff};
    struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)out;
    struct sockaddr_in *in = (struct sockaddr_in *)out;

    memset(out, 0, sizeof *out);
    if (!memcmp(ip, v4_mapped, sizeof v4_mapped)) {
        in->sin_family = AF_INET;
        in->sin_port = htons(port);
        memcpy(&in->sin_addr, ip + sizeof v4_mapped, 4);
        return sizeof *in;
    }
    in6->sin6_family = AF_INET6;
    in6->sin6_port = htons(port);
    memcpy(&in6->sin6_addr, ip, 16);
    return sizeof *in6;
}

static void answer_status(mt_stream *st, const char *status)
{
    nghttp2_nv nv = {.name = (uint8_t *)(uintptr_t)":status",
                     .namelen = 7,
                     .value = (uint8_t *)(uintptr_t)status,
                     .valuelen = 3};

    stream_refuse(st, &nv, 1);
}

static void stop_dialling(mt_stream *st)
{
    st->dialling = false;
    list_remove(&st->dial);
    port_close(st->tunnel->engine, &st->port, true);
}

static void dial_failed(mt_stream *st, const char *why)
{
    stop_dialling(st);
    lane_ended(st, MT_LANE_FAILED, 503, why);
    answer_status(st, "503");
}

static void dial_refused(mt_stream *st, int error)
{
    char text[DETAIL_SIZE];

    dial_failed(st, strerror_r(error, text, sizeof text) ? "cannot be reached" : text);
}

void far_cut(mt_stream *st, const char *detail)
{
    stop_dialling(st);
    lane_ended(st, MT_LANE_DENIED, 401, detail);
    answer_status(st, "401");
}

void far_dialled(mt_stream *st)
{
    nghttp2_nv nv = {.name = (uint8_t *)(uintptr_t)":status",
                     .namelen = 7,
                     .value = (uint8_t *)(uintptr_t)"200",
                     .valuelen = 3};
    socklen_t len = sizeof(int);
    int error = 0;

    if (!st->port.writable && !st->port.error)
        return;
    if (st->port.error)
        error = st->port.error;
    else if (getsockopt(st->port.fd, SOL_SOCKET, SO_ERROR, &error, &len))
        error = errno;
    if (error && error != EISCONN) {
        dial_refused(st, error);
        return;
    }
    st->dialling = false;
    st->port.error = 0;
    list_remove(&st->dial);
    lane_opened(st);
    if (!stream_answer(st, &nv, 1))
        stream_begin(st);
}

/* 0: the first edge says how it went. */
static int begin_dial(int fd, const struct sockaddr *target, socklen_t len)
{
    if (!connect(fd, target, len))
        return EISCONN;
    if (errno != EINPROGRESS)
        return errno;
    /* Inside one namespace the handshake is over when connect() returns, but was not yet when the
     * result was made: asking again saves a round of the loop. */
    if (!connect(fd, target, len))
        return EISCONN;
    return errno == EALREADY ? 0 : errno;
}

/*
 * To the client's address, or to none: disconnecting leaves a socket the address that it was bound
 * to, which may be another client's.
 */
static int bind_source(const mt_lane *lane, int fd)
{
    struct sockaddr_storage address;
    socklen_t len = fill(&address, lane->binds ? lane->src : lane->dst, 0);

    if (!lane->binds && address.ss_family == AF_INET)
        ((struct sockaddr_in *)&address)->sin_addr.s_addr = INADDR_ANY;
    else if (!lane->binds)
        ((struct sockaddr_in6 *)&address)->sin6_addr = in6addr_any;
    return bind(fd, (struct sockaddr *)&address, len);
}

static bool dial(mt_engine *e, const mt_lane *lane, mt_stream *st, int fd)
{
    struct sockaddr_storage address;
    socklen_t len;
    int result;

    if (bind_source(lane, fd)) {
        close(fd);
        return false;
    }
    len = fill(&address, lane->dst, lane->port);
    result = begin_dial(fd, (struct sockaddr *)&address, len);
    if (result && result != EISCONN && result != ECONNREFUSED) {
        close(fd);
        return false;
    }
    if (port_open(e, &st->port, PORT_STREAM, st, fd))
        return false;
    /* The first edge says that it is connected, or why it is not. */
    st->port.readable = st->port.writable = false;
    st->port.error = result;
    st->dialling = true;
    st->dial_until = e->now + DIAL_S;
    list_append(&e->dialling, &st->dial);
    engine_timer(e, st->dial_until);
    return true;
}

bool far_take(mt_tunnel *t, mt_stream *st)
{
    nghttp2_nv nv[MAX_FIELDS];
    const nghttp2_nv *authority;
    mt_engine *e = t->engine;
    mt_lane *lane;
    int fd;

    /* Each value in the block ends in NUL; the last one's is not part of the text. */
    if (list_empty(&t->lanes) || t->block_fields > MAX_FIELDS || !t->block.len ||
        headers_parse(t->block.p, t->block.len - 1, t->block_fields, nv))
        return false;
    authority = authority_of(nv, t->block_fields);
    lane = authority ? find(t, authority) : NULL;
    if (!lane)
        return false;
    fd = take_socket(e, CONTAINER(lane->stock, mt_stock, o));
    if (fd < 0 || !dial(e, lane, st, fd))
        return false;
    for (size_t i = 2; i < t->block_fields; i++)
        if (is(&nv[i], "forwarded"))
            st->client_port = claimed_port(lane, &nv[i]);
    lane_enter(lane, st);
    if (st->port.error) {
        /* Known already. Reading and writing is tried at once. */
        st->port.readable = st->port.writable = true;
        far_dialled(st);
    }
    return true;
}

void far_timers(mt_engine *e)
{
    char text[64];

    while (!list_empty(&e->dialling)) {
        mt_stream *st = CONTAINER(e->dialling.next, mt_stream, dial);

        if (st->dial_until > e->now) {
            engine_timer(e, st->dial_until);
            return;
        }
        snprintf(text, sizeof text, "no answer within %g s", DIAL_S);
        dial_failed(st, text);
    }
}
