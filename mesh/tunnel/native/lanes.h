/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the meshnode authors */

/* Doors, lanes and stocks (see native.h); the second half of internal.h. */

#ifndef MT_LANES_H
#define MT_LANES_H

/* ---- lanes.c ------------------------------------------------------------------------------ */

enum { SIDE_NEAR, SIDE_FAR };
#define LANE_TUNNELS 4

/* The near lanes of one group and destination: one for each endpoint that may be chosen. */
typedef struct {
    mt_link place; /* in mt_engine.near */
    mt_link lanes; /* mt_lane.place */
    uint32_t group;
    uint8_t dst[16];
    uint16_t port;
    uint32_t count;
    mt_lane *slots[]; /* NULL: not laid */
} mt_choice;

struct mt_lane {
    mt_object o;
    int retired; /* atomic: no more connections from this moment on */
    bool cut;    /* and those it has are to end */
    uint8_t side;
    uint16_t port;
    uint8_t dst[16];
    mt_link place;   /* where it is looked for; in no list once it is retired */
    mt_link streams; /* mt_stream.in_lane */
    mt_link dirty;
    mt_tally tally;

    mt_tunnel *tunnels[LANE_TUNNELS]; /* held; a far one has its own */
    size_t tunnel_count;
    uint32_t group, limit; /* near, like these */
    uint32_t slot, slots;  /* which endpoint of how many */
    mt_choice *choice;     /* NULL once it is retired */
    mt_object *stock;      /* far, held */
    uint8_t src[16];
    bool binds;
    mt_buf text; /* near: fields before the port; far: the authority */
    mt_buf tail; /* near: fields after it; far: the client as `forwarded` has it */
    size_t fields;
};

bool lane_is_open(const mt_lane *lane);
/* `st` goes by this lane from now on. */
void lane_enter(mt_lane *lane, mt_stream *st);
void lane_opened(mt_stream *st);
/* The lane has no more to do with `st`; nothing is told. */
void lane_left(mt_stream *st);
/* Established or not, `st` is over. Idempotent. */
void lane_ended(mt_stream *st, int end, int status, const char *detail);
void lane_moved(mt_stream *st, size_t out, size_t in);
void lane_retire(mt_engine *e, mt_lane *lane);
void lanes_prepare(mt_engine *e);
void lanes_timers(mt_engine *e);
/* Tell every tally now. */
void lanes_report(mt_engine *e);
void lanes_stop(mt_engine *e);
void lane_command(mt_engine *e, mt_command *c);
void lane_free_parts(mt_lane *lane);

/* ---- near.c ------------------------------------------------------------------------------- */

typedef struct {
    mt_object o;
    mt_port port;
    uint32_t group;
} mt_door;

void door_open(mt_engine *e, mt_door *door, int fd);
void door_close(mt_engine *e, mt_door *door, int error);
void door_event(mt_engine *e, mt_door *door);
/* -1: there is no place for it. */
int near_place(mt_engine *e, mt_lane *lane);
void near_leave(mt_lane *lane);
/* Where the streams to the peer of `fd` are counted. */
uint32_t *near_load(mt_engine *e, int fd);
/* No tunnel took it, or the peer refused it. */
void near_refused(mt_stream *st, int status, const char *detail);

/* ---- far.c -------------------------------------------------------------------------------- */

#define STOCK_SIZE 64

typedef struct {
    mt_object o;
    bool wanted;
    int count;
    int fds[STOCK_SIZE];
} mt_stock;

void stock_add(mt_engine *e, mt_stock *stock, const int *fds, size_t count);
void stock_clear(mt_stock *stock);
/* True: a lane takes care of the request whose header block was just read. */
bool far_take(mt_tunnel *t, mt_stream *st);
/* The application's socket says something while the connection to it is made. */
void far_dialled(mt_stream *st);
void far_cut(mt_stream *st, const char *detail);
/* Both directions have ended: the socket may serve the stock again; then `st` has none any more. */
void far_keep(mt_stream *st);
void far_timers(mt_engine *e);

#endif
