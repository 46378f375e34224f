/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the meshnode authors */

/*
 * What Python sees of the native tunnel engine: commands in, batches of events out.
 *
 * One engine is one thread that never takes the interpreter lock. Every function here may be
 * called from any other thread; none of them blocks on the network. build.py hands the part
 * between the marks to cffi as it stands.
 */

#ifndef MT_NATIVE_H
#define MT_NATIVE_H

#include <stddef.h>
#include <stdint.h>

/* cffi: begin */
typedef struct mt_engine mt_engine;
typedef struct mt_context mt_context;
/* A tunnel, a stream, a relay, a door, a lane or a stock. Held by the engine until its last event, and by whoever got it
 * from a function or a MT_REQUEST event until mt_release(). */
typedef struct mt_object mt_object;

typedef struct {
    uint32_t stream_window;          /* bytes, like the following three */
    uint32_t connection_window;
    uint32_t max_frame;
    uint32_t max_header_list;        /* a server's */
    uint32_t client_max_header_list;
    uint32_t max_concurrent_streams;
    double handshake_timeout_s;
    double ping_interval_s;
    double ping_timeout_s;
    double records_per_s; /* MT_ENDED events of lanes at most */
} mt_settings;

enum mt_event_kind {
    MT_HANDSHAKE = 1, /* tunnel; chain verified; text: leaf in DER. mt_approve() or mt_reject() */
    MT_UP = 2,        /* tunnel */
    MT_PEER_LIMIT = 3, /* tunnel; code: streams the peer allows; before MT_UP and on changes */
    MT_DRAINING = 4,  /* tunnel */
    MT_LOST = 5,      /* tunnel; code: mt_loss; text: detail. Last event */
    MT_REQUEST = 6,   /* tunnel; stream: the new one, held for the receiver; fields */
    MT_OPENED = 7,    /* stream; fields */
    MT_REFUSED = 8,   /* stream; code: status; fields, or with status 0 text: detail. Last event */
    MT_CLOSED = 9,    /* stream or relay; code: mt_end; counts; text: detail. Last event */
    MT_STOPPED = 10,  /* engine; nothing follows */
    MT_ACCEPTED = 11, /* door or lane; code: a socket for the receiver; port: the client's; status:
                       * 0, or which endpoint was drawn for it, from 1 */
    MT_ENDED = 12,    /* lane; code: mt_lane_end; counts; times; port; text: detail. Not told of
                       * all that were established, see mt_settings.records_per_s */
    MT_TALLY = 13,    /* lane; text: mt_tally, what was added since the last one */
    MT_WANTED = 14,   /* stock; it runs low */
    MT_LISTED = 15,   /* lane; like MT_ENDED, of a connection that is open */
    MT_LIST_END = 16, /* engine */
    MT_GONE = 17      /* door, lane or stock; code: 0 or what went wrong. Last event */
};

enum mt_loss {
    MT_LOSS_TLS, MT_LOSS_IDENTITY, MT_LOSS_PROTOCOL, MT_LOSS_PING_TIMEOUT,
    MT_LOSS_HANDSHAKE_TIMEOUT, MT_LOSS_PEER_CLOSED, MT_LOSS_RESET, MT_LOSS_LOCAL
};

enum mt_end {
    MT_END_DONE, MT_END_APPLICATION_RESET, MT_END_PEER_RESET, MT_END_TUNNEL_LOST, MT_END_ABORTED
};

/* How a connection ended that went by a lane; the first five are mt_end. */
enum mt_lane_end {
    MT_LANE_CUT = 5,     /* by mt_lane_cut() */
    MT_LANE_REFUSED = 6, /* never established: `status` of the peer's answer */
    MT_LANE_FAILED = 7,  /* never established: the application cannot be reached */
    MT_LANE_DENIED = 8   /* never established: cut before it was */
};

/* Those that a tally counts. */
enum { MT_TALLIED_ENDS = 6 };

/* Established connections of a lane; `sent` is from source to destination. */
typedef struct {
    uint64_t opened, ended[MT_TALLIED_ENDS], sent, received;
    uint64_t untold; /* of the ended ones, those that no MT_ENDED tells of */
} mt_tally;

typedef struct mt_event mt_event;
struct mt_event {
    mt_event *next;
    mt_object *object;
    mt_object *stream;
    uint64_t bytes_out, bytes_in;
    double began_at, lasted_s; /* seconds, the first on the monotonic clock */
    size_t text_len;
    uint32_t fields; /* pairs in `text`: name NUL value NUL ... */
    int32_t kind, code, status;
    uint32_t port;
    char text[];
};

/* NULL: no memory or no descriptor left. */
mt_engine *mt_engine_new(const mt_settings *settings);
/* Readable while mt_events() has something. */
int mt_engine_fd(const mt_engine *e);
/* Cut everything, deliver every last event, then MT_STOPPED. */
void mt_engine_stop(mt_engine *e);
/* Waits for the thread, which has nothing more to wait for after MT_STOPPED. */
void mt_engine_free(mt_engine *e);

/* The oldest event, chained to the others; NULL if there is none. */
mt_event *mt_events(mt_engine *e);
void mt_events_free(mt_event *first);

/* TLS 1.3 with these keys and roots (PEM). NULL: unusable, and `error` says why. */
mt_context *mt_context_new(int server, const char *chain, size_t chain_len, const char *key,
                           size_t key_len, const char *roots, size_t roots_len, char *error,
                           size_t error_size);
void mt_context_free(mt_context *context);

/* `fd` belongs to the engine from here on, also on NULL (no memory). */
mt_object *mt_tunnel_new(mt_engine *e, mt_context *context, int client, int fd);
void mt_approve(mt_engine *e, mt_object *tunnel);
void mt_reject(mt_engine *e, mt_object *tunnel, const char *detail, size_t len);
void mt_drain(mt_engine *e, mt_object *tunnel, double timeout_s);
uint32_t mt_active_streams(const mt_object *tunnel);

/* Headers are `n` names and `n` values joined by NUL. NULL: headers that HTTP/2 forbids.
 * `fd` is not touched before MT_OPENED, and not at all if MT_REFUSED comes. */
mt_object *mt_stream_open(mt_engine *e, mt_object *tunnel, const char *text, size_t len, size_t n,
                          int fd);
/* 0, or -1: bad headers; `fd` is then still the caller's. */
int mt_accept(mt_engine *e, mt_object *stream, const char *text, size_t len, size_t n, int fd);
int mt_refuse(mt_engine *e, mt_object *stream, const char *text, size_t len, size_t n);
/* REFUSED_STREAM: nothing was done with it. */
void mt_decline(mt_engine *e, mt_object *stream);

mt_object *mt_relay_new(mt_engine *e, int first, int second);

/*
 * Lanes: what Python decided about one connection, done again for all that are like it, without
 * asking. A lane that was retired takes no more from that moment on, and ends with its last
 * connection. Addresses have 16 bytes, IPv4 mapped.
 *
 * A door is a listening socket whose connections were redirected to it. MT_ACCEPTED tells of those
 * that no lane of its group wants.
 */
mt_object *mt_door_open(mt_engine *e, uint32_t group, int fd);
void mt_door_close(mt_engine *e, mt_object *door);
/* From a door's group and an original destination, for endpoint `slot` of `slots` (from 0) that are
 * drawn from by load, into the first of these tunnels that takes less than `limit` streams. The fields of the CONNECT are `head`, the client's port, `tail`. MT_ACCEPTED
 * gives back what no tunnel has taken. NULL: no memory, or bad fields. */
mt_object *mt_lane_near(mt_engine *e, uint32_t group, const uint8_t *dst, uint16_t port,
                        uint32_t slot, uint32_t slots, mt_object **tunnels, size_t count, uint32_t limit, const char *head,
                        size_t head_len, const char *tail, size_t tail_len, size_t fields);
/* Two different numbers below `count`, which is 2 at least; the state is not zero. */
void mt_draw(uint64_t *random, uint32_t count, uint32_t *first, uint32_t *second);
/* From a tunnel and an `:authority` to an application, with a socket of the stock. `src`: bind to
 * this address, unless NULL. `client`: what `forwarded` has for the client's address. */
mt_object *mt_lane_far(mt_engine *e, mt_object *tunnel, mt_object *stock, const char *authority,
                       size_t authority_len, const uint8_t *dst, uint16_t port, const uint8_t *src,
                       const char *client, size_t client_len);
void mt_lane_retire(mt_engine *e, mt_object *lane);
/* Retire it, and end its connections. */
void mt_lane_cut(mt_engine *e, mt_object *lane, const char *detail, size_t len);
/* Unconnected sockets of one namespace and family. */
mt_object *mt_stock_new(mt_engine *e);
/* The sockets are the engine's from here on. */
void mt_stock_add(mt_engine *e, mt_object *stock, const int *fds, size_t count);
/* Close what is in it; it stays. */
void mt_stock_clear(mt_engine *e, mt_object *stock);
void mt_stock_drop(mt_engine *e, mt_object *stock);
/* MT_LISTED for at most `max` connections of lanes, then MT_LIST_END. */
void mt_list(mt_engine *e, uint32_t max);
/* At most so many MT_ENDED of established connections from now on. */
void mt_tell(mt_engine *e, double records_per_s);
/* Connections of lanes that have not ended. */
uint32_t mt_lane_connections(const mt_engine *e);
/* A tunnel's streams that lanes have opened. */
uint32_t mt_lane_streams(const mt_object *tunnel);

void mt_abort(mt_engine *e, mt_object *object, const char *detail, size_t len);
uint64_t mt_bytes_out(const mt_object *object);
uint64_t mt_bytes_in(const mt_object *object);
void mt_release(mt_object *object);
/* cffi: end */

#endif
