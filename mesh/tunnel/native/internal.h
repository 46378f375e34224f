/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the meshnode authors */

/*
 * The engine's own structures. Everything below `mt_engine.lock` and the atomic members of
 * `mt_object` is touched by the engine's thread only.
 */

#ifndef MT_INTERNAL_H
#define MT_INTERNAL_H

#include "native.h"
#include "bytes.h"

#include <nghttp2/nghttp2.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <stdbool.h>
#include <sys/types.h>

/* 1.60 renamed what returns ssize_t; the old names can be compiled out. */
#if NGHTTP2_VERSION_NUM >= 0x013c00
typedef nghttp2_ssize mt_ssize;
typedef nghttp2_data_provider2 mt_provider;
#define mem_recv nghttp2_session_mem_recv2
#define mem_send nghttp2_session_mem_send2
#define submit_request nghttp2_submit_request2
#define submit_response nghttp2_submit_response2
#define set_read_length nghttp2_session_callbacks_set_data_source_read_length_callback2
#else
typedef ssize_t mt_ssize;
typedef nghttp2_data_provider mt_provider;
#define mem_recv nghttp2_session_mem_recv
#define mem_send nghttp2_session_mem_send
#define submit_request nghttp2_submit_request
#define submit_response nghttp2_submit_response
#define set_read_length nghttp2_session_callbacks_set_data_source_read_length_callback
#endif

#define RECORD_BYTES 16384u /* plaintext of one TLS record (RFC 8446 5.1) */
#define RECORD_OVERHEAD 22u /* head, type and tag (RFC 8446 5.2) */
/* Ciphertext given to the kernel at a time. Three records are one packet of up to 64 KiB to a device
 * that segments; a fourth would make a second packet of a few bytes. */
#define SEALED_SIZE (3u * (RECORD_BYTES + RECORD_OVERHEAD))
#define FRAME_HEAD 9u       /* RFC 9113 4.1 */
/* One turn of a stream, alone and next to others: a frame that fills whole records together with
 * its head. */
#define STREAM_TURN (8u * RECORD_BYTES - FRAME_HEAD)
#define SHARED_TURN (4u * RECORD_BYTES - FRAME_HEAD)
/* Plaintext made at a time, and so the most that waits for a peer that does not read. */
#define OUTPUT_BYTES (16u * RECORD_BYTES)
#define OUTPUT_SIZE (OUTPUT_BYTES + 2u * (STREAM_TURN + FRAME_HEAD))
/* Read at a time from a tunnel or a relay's socket; stays within the cache of a core. */
#define INPUT_SIZE (8u * RECORD_BYTES)
/* What one tunnel or relay may move before the others have their turn. */
#define TURN_BYTES (512u * 1024u)
#define BATCH_PIECES 32
#define DETAIL_SIZE 256

/* ---- sockets ------------------------------------------------------------------------------ */

enum { PORT_TUNNEL, PORT_STREAM, PORT_RELAY, PORT_DOOR };
enum { IO_WOULD_BLOCK = -1, IO_FAILED = -2 };

/*
 * A socket in the (edge-triggered) epoll set: registered once, what it can do is remembered here.
 */
typedef struct {
    void *owner;
    int fd; /* -1: closed */
    int error;
    uint8_t kind;
    bool readable, writable;
    bool hangup; /* a FIN or an error is in the queue: a short read is not the last one */
    bool urgent; /* an urgent byte is: the kernel stops before it, and there is more behind */
} mt_port;

/* Takes `fd` over, also when it fails (-1). */
int port_open(mt_engine *e, mt_port *p, int kind, void *owner, int fd);
/* Bytes, 0 at the end, IO_WOULD_BLOCK or IO_FAILED (see `error`). */
ssize_t port_read(mt_port *p, void *buffer, size_t len);
/* Bytes the kernel took, maybe none; or IO_FAILED. */
ssize_t port_write(mt_port *p, struct iovec *iov, int count);
int port_finish(mt_port *p);
void port_close(mt_engine *e, mt_port *p, bool reset);
void fd_close(int fd, bool reset);

/* ---- objects ------------------------------------------------------------------------------ */

enum { KIND_TUNNEL, KIND_STREAM, KIND_RELAY, KIND_DOOR, KIND_LANE, KIND_STOCK };

struct mt_object {
    int refs; /* atomic */
    uint8_t kind;
    bool done; /* its last event was posted */
    bool buried;
    uint64_t bytes_out, bytes_in; /* read by other threads */
    mt_link all;                  /* of the engine, or of the tunnel */
    mt_link run;                  /* tunnels and relays: who has something to do */
    mt_object *next_dead;
};

void object_init(mt_object *o, int kind);
/* The engine needs it no more. Freed at the end of the round: events of epoll may refer to it. */
void object_bury(mt_engine *e, mt_object *o);
static inline void count_bytes(uint64_t *counter, size_t more)
{
    __atomic_store_n(counter, *counter + more, __ATOMIC_RELAXED);
}

typedef struct mt_tunnel mt_tunnel;
typedef struct mt_lane mt_lane;

typedef struct mt_stream {
    mt_object o;
    mt_tunnel *tunnel; /* valid until done */
    mt_link ready;     /* in the ring of those that want a turn to send */
    mt_port port;
    mt_queue in; /* payload that waits for the application */
    uint32_t window; /* what the peer may send ahead of the application */
    uint32_t spent;  /* of it, since it was widened last */
    int fd;      /* client: the socket that is not touched before the answer */
    int32_t id;
    bool client;
    bool announced;    /* somebody waits for a last event */
    bool joined;
    bool answered;     /* a response went out or came in */
    bool refusing;     /* our refusal is on its way out */
    bool condemned;    /* being reset for a fault of the peer: say nothing more of it */
    bool local_ended;  /* the application's FIN became END_STREAM */
    bool remote_ended;
    bool fin_sent;
    bool dialling;     /* the application has not answered yet */
    bool established;  /* of a lane: the answer came or went out */

    mt_lane *lane;     /* held; NULL: Python decided */
    mt_link in_lane, dial;
    double began_at, dial_until;
    uint16_t client_port;
} mt_stream;

enum { TUNNEL_SHAKING, TUNNEL_ASKING, TUNNEL_TALKING, TUNNEL_ENDING, TUNNEL_DEAD };

struct mt_tunnel {
    mt_object o;
    mt_engine *engine;
    mt_port port;
    SSL *ssl;
    nghttp2_session *h2;
    uint8_t state;
    bool client, up, draining, drain_begun, lost;
    bool tls_up, tls_failed, read_more, eof, fin_sent;
    bool goaway_ours;
    uint8_t drain_reason;
    char drain_detail[96];
    mt_buf out; /* plaintext that TLS could not take yet */
    size_t out_head;
    mt_buf sealed; /* ciphertext that the kernel could not take yet */
    size_t sealed_head;
    bool gathering; /* records wait in the engine's `sealed` */

    mt_link streams; /* mt_object.all */
    uint32_t stream_count; /* read by other threads */
    uint32_t spare_window; /* of the connection's, for streams that move */
    mt_link ready;   /* mt_stream.ready */
    uint32_t lane_streams; /* read by other threads */
    mt_link lanes;         /* mt_lane.place; a server's */
    uint32_t *load;        /* a client's: in mt_engine.loads */
    mt_stream *turn; /* whose payload may be read now */
    size_t quantum;

    /* a header block on its way in */
    mt_buf block;
    uint32_t block_fields;
    size_t block_list_bytes;

    /* see guards.h */
    const char *fatal;
    uint32_t fatal_code;
    uint32_t continuations, bad_ends, idle_frames, pings, own_resets;
    double reset_tokens, reset_at;
    int32_t last_peer_stream;

    /* seconds of the monotonic clock; 0: not set */
    double handshake_at, heard_at, pinged_at, drain_at, linger_at, trim_at;
    bool rechecked;
};

typedef struct mt_relay mt_relay;

/* ---- engine ------------------------------------------------------------------------------- */

enum {
    START, APPROVE, REJECT, DRAIN, OPEN, ACCEPT, REFUSE, DECLINE, RELAY, ABORT, STOP,
    /* see lanes.c */
    DOOR_OPEN, DOOR_CLOSE, LANE_ADD, LANE_RETIRE, LANE_CUT, STOCK_NEW, STOCK_ADD, STOCK_CLEAR,
    STOCK_DROP, LIST
};

typedef struct mt_command mt_command;

struct mt_command {
    mt_command *next;
    mt_object *object; /* held */
    mt_object *tunnel; /* held; of OPEN */
    int kind, fd, other_fd;
    double timeout_s;
    size_t len, fields;
    char text[];
};

#define LANE_BUCKETS 1024u
#define LOADS 4096u

struct mt_engine {
    mt_settings settings;
    pthread_t thread;
    int epoll_fd, wake_fd, event_fd;

    pthread_mutex_t lock; /* for these two queues */
    mt_command *commands, **commands_end;
    mt_event *events, **events_end;
    bool told; /* the reader of events was woken */

    mt_link tunnels, relays; /* mt_object.all */
    mt_link doors, lanes, stocks; /* the same */
    mt_link near[LANE_BUCKETS];   /* mt_choice.place */
    uint32_t loads[LOADS];        /* streams to a peer's address, by its hash */
    uint64_t random;              /* see mt_draw() */
    mt_link dirty;                /* mt_lane.dirty: with a tally to tell */
    mt_link dialling;             /* mt_stream.dial, in the order of their deadlines */
    double report_at, record_tokens, record_at;
    uint32_t lane_connections;    /* read by other threads */
    mt_link runnable;        /* mt_object.run */
    mt_object *dead;
    double now, next_check;
    bool stopping;
    nghttp2_session_callbacks *callbacks;
    nghttp2_option *options;

    /* payload in `input` that goes to one application */
    mt_stream *batch;
    struct iovec batch_iov[BATCH_PIECES];
    int batch_count;

    size_t output_len, sealed_len;
    uint8_t output[OUTPUT_SIZE];
    uint8_t sealed[SEALED_SIZE]; /* records that go out together; empty between calls of tls_write() */
    uint8_t input[INPUT_SIZE];
};

void engine_schedule(mt_engine *e, mt_object *o);
/* Look at `o`'s timers no later than `at`. */
void engine_timer(mt_engine *e, double at);
void engine_commands(mt_engine *e);

void event_post(mt_engine *e, int kind, int code, mt_object *o, mt_object *stream,
                const void *text, size_t text_len, uint32_t fields);
/* The same in two steps; a quiet one waits for the next that is not. */
mt_event *event_new(int kind, int code, mt_object *o, const void *text, size_t text_len);
void event_send(mt_engine *e, mt_event *event, bool quiet);

mt_object *hold(mt_object *o);
mt_command *command_new(int kind, mt_object *o, const char *text, size_t len);
void command_post(mt_engine *e, mt_command *c);

/* ---- tls.c -------------------------------------------------------------------------------- */

enum { TLS_AGAIN = 0, TLS_DONE = 1, TLS_FAILED = -1 };

SSL *tls_new(mt_context *context, int client);
void tls_attach(mt_tunnel *t);
int tls_handshake(mt_tunnel *t, int *reason, char *detail);
/* Bytes read, 0 if there are none now, TLS_FAILED. */
ssize_t tls_read(mt_tunnel *t, uint8_t *buffer, size_t size, int *reason, char *detail);
/* Bytes taken, or TLS_FAILED. */
ssize_t tls_write(mt_tunnel *t, const uint8_t *data, size_t len);
/* 1 once the kernel has all ciphertext, 0 if some waits, TLS_FAILED. */
int tls_flush(mt_tunnel *t);
void tls_shutdown(mt_tunnel *t);

/* ---- tunnel.c, tunnel_time.c ---------------------------------------------------------------- */

#define TRIM_S 1.0 /* of silence, after which a tunnel's buffers are given back */

static inline void tunnel_timer(mt_tunnel *t, double *timer, double at)
{
    *timer = at;
    engine_timer(t->engine, at);
}

void tunnel_start(mt_engine *e, mt_tunnel *t, int fd);
void tunnel_run(mt_tunnel *t);
void tunnel_approve(mt_tunnel *t);
void tunnel_drain(mt_tunnel *t, double timeout_s);
void tunnel_lose(mt_tunnel *t, int reason, const char *detail);
/* The engine stops: no moment for the peer to read the last bytes. */
void tunnel_stop(mt_tunnel *t);
void tunnel_timers(mt_tunnel *t);
void tunnel_drain_for(mt_tunnel *t, int reason, const char *detail);
void tunnel_forget(mt_tunnel *t, mt_stream *st);
void tunnel_free_parts(mt_tunnel *t);

/* ---- http2.c, http2_sent.c ---------------------------------------------------------------- */

int http2_prepare(mt_engine *e);
/* Of every stream; `user` is the tunnel. */
mt_ssize http2_read_payload(nghttp2_session *h2, int32_t id, uint8_t *out, size_t len,
                            uint32_t *flags, nghttp2_data_source *source, void *user);
int http2_start(mt_tunnel *t);
/* 0, or -1: the tunnel is to be lost for `t->fatal`. */
int http2_receive(mt_tunnel *t, const uint8_t *data, size_t len);
/* Let the peer send `more` bytes ahead on a stream. */
void http2_widen(mt_tunnel *t, const mt_stream *st, uint32_t more);
/* A stream's window before it has moved anything. */
uint32_t http2_first_window(const mt_engine *e);
/* Fill the engine's output, control frames first, then a turn for each ready stream. */
int http2_collect(mt_tunnel *t, bool payload);
void http2_reset(mt_tunnel *t, int32_t id, uint32_t code);
void http2_detach(mt_stream *st);

/* ---- guards.c: 0, or NGHTTP2_ERR_CALLBACK_FAILURE with `t->fatal` set ----------------------- */

/* The tunnel ends once nghttp2 has returned. */
int guard_fatal(mt_tunnel *t, uint32_t code, const char *why);
int guard_no_memory(mt_tunnel *t);
int guard_bad_end(mt_tunnel *t);
int guard_idle_frame(mt_tunnel *t);
int guard_reset(mt_tunnel *t);
/* Useful work earns more idle frames. */
void guard_credit(mt_tunnel *t);

/* ---- headers.c ---------------------------------------------------------------------------- */

/* Split `text` at NUL into `n` pairs that point into it. 0, or -1: HTTP/2 forbids them. */
int headers_parse(const char *text, size_t len, size_t n, nghttp2_nv *nv);

/* ---- stream.c ----------------------------------------------------------------------------- */

mt_stream *stream_new(mt_tunnel *t, int32_t id, bool client);
/* In the tunnel's list from now on. */
void stream_adopt(mt_tunnel *t, mt_stream *st);
void stream_open(mt_tunnel *t, mt_stream *st, const nghttp2_nv *nv, size_t n);
void stream_accept(mt_engine *e, mt_stream *st, const nghttp2_nv *nv, size_t n, int fd);
void stream_refuse(mt_stream *st, const nghttp2_nv *nv, size_t n);
void stream_decline(mt_stream *st);
void stream_abort(mt_stream *st, const char *detail);
void stream_event(mt_stream *st);
void stream_join(mt_stream *st, int fd);
void stream_want_turn(mt_stream *st);
/* Read payload for one frame. Bytes, 0 at the end, IO_WOULD_BLOCK or IO_FAILED. */
ssize_t stream_read(mt_stream *st, uint8_t *buffer, size_t len);
/* `data` is valid until batch_flush(). */
int stream_data(mt_stream *st, const uint8_t *data, size_t len);
void batch_flush(mt_engine *e);
void stream_end_received(mt_stream *st);
void stream_reset_received(mt_stream *st, uint32_t code, bool remote);
void stream_check_done(mt_stream *st);
void stream_fail(mt_stream *st, int error);
void stream_refused(mt_stream *st, int status, const void *text, size_t len, uint32_t fields);
/* The tunnel has ended. */
void stream_lost(mt_stream *st, const char *detail);
void stream_finish(mt_stream *st, int reason, const char *detail);

/* A socket that is in the epoll set already; the answer is on its way. */
void stream_begin(mt_stream *st);
/* Answer 200 to the peer; -1: it cannot be sent. */
int stream_answer(mt_stream *st, const nghttp2_nv *nv, size_t n);

/* ---- relay.c ------------------------------------------------------------------------------ */

mt_relay *relay_new(void);
mt_object *relay_object(mt_relay *r);
void relay_start(mt_engine *e, mt_relay *r, int first, int second);
void relay_run(mt_relay *r);
void relay_end(mt_relay *r, int reason, const char *detail);
mt_relay *relay_of(mt_object *o);

#include "lanes.h"

#endif
