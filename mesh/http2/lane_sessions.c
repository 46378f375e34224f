/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the meshnode authors */

/* A lane, and who takes part in it. */

#include "lane.h"

#include <sys/random.h>

void lane_touch(mn_session *s)
{
    mn_lane *lane = s->lane;

    if (!lane || s->touched)
        return;
    s->touched = true;
    s->touched_next = NULL;
    *lane->touched_end = s;
    lane->touched_end = &s->touched_next;
}

static void untouch(mn_session *s)
{
    mn_session **link = &s->lane->touched;

    if (!s->touched)
        return;
    while (*link != s)
        link = &(*link)->touched_next;
    *link = s->touched_next;
    if (!*link)
        s->lane->touched_end = link;
    s->touched = false;
}

size_t mn_lane_touched(mn_lane *lane, uint64_t *into, size_t room)
{
    size_t count = 0;

    while (lane->touched && count < room) {
        into[count++] = lane->touched->number;
        untouch(lane->touched);
    }
    return count;
}

/* The end of mn_receive(). */
void lane_received(mn_session *s)
{
    if (s->out.len || s->ready.next != &s->ready)
        lane_touch(s);
}

void mn_lane_enter(mn_lane *lane, mn_session *s, uint64_t number, mn_target *target)
{
    mn_session **link;

    if (s->lane)
        return;
    s->lane = lane;
    s->number = number;
    s->world = lane->world - 1; /* its caller is not known yet */
    s->lane_prev = NULL;
    s->lane_next = lane->sessions;
    if (lane->sessions)
        lane->sessions->lane_prev = s;
    lane->sessions = s;
    s->target = target;
    if (!target)
        return;
    for (link = &target->sessions; *link; link = &(*link)->target_next)
        ;
    s->target_next = NULL;
    *link = s;
}

void mn_lane_caller_is(mn_session *s, mn_caller *caller)
{
    if (!s->lane)
        return;
    s->caller = caller;
    s->world = s->lane->world;
}

void mn_lane_retire(mn_session *s)
{
    mn_session **link;

    if (!s->target)
        return;
    for (link = &s->target->sessions; *link != s; link = &(*link)->target_next)
        ;
    *link = s->target_next;
    s->target = NULL;
}

static stream *crossing_stream(const mn_session *s)
{
    stream *st = s->all;

    while (st && !st->x)
        st = st->all_next;
    return st;
}

static void leave(mn_session *s)
{
    uint32_t code = s->has_answered ? MN_CLOSED_REUSED : MN_CLOSED;
    stream *st;

    s->pending = NULL;
    mn_lane_retire(s);
    while ((st = crossing_stream(s)))
        lane_lost(s, st, code);
    untouch(s);
    if (s->lane_next)
        s->lane_next->lane_prev = s->lane_prev;
    if (s->lane_prev)
        s->lane_prev->lane_next = s->lane_next;
    else
        s->lane->sessions = s->lane_next;
    s->lane = NULL;
    s->caller = NULL;
}

void mn_lane_leave(mn_session *s)
{
    s->dead = 1; /* nothing is said on it any more */
    if (s->lane)
        leave(s);
}

size_t mn_lane_streams(const mn_session *s, int32_t *into, size_t room)
{
    size_t count = 0;

    for (const stream *st = s->all; st && count < room; st = st->all_next)
        if (st->x)
            into[count++] = st->id;
    return count;
}

const char *mn_lane_head(const mn_session *s, int32_t id, size_t *len)
{
    const stream *st = s->dead ? NULL : find(s, id);

    if (!st || !st->x)
        return NULL;
    *len = st->x->head_len;
    return st->x->head;
}

size_t mn_lane_render(mn_session *s, const char *text, size_t len, int end_stream, char *into,
                      size_t room)
{
    mn_lane *lane = s->lane;
    size_t n, used = 0;

    if (!lane || !s->caller || s->world != lane->world ||
        !lane_read_request(lane, text, len, end_stream, &lane->head))
        return 0;
    n = lane_request_fields(lane, s->caller, &lane->head);
    for (size_t i = 0; i < n; i++) {
        const nghttp2_nv *nv = &lane->nv[i];

        if (used + nv->namelen + nv->valuelen + 2 > room)
            return 0;
        memcpy(into + used, nv->name, nv->namelen);
        used += nv->namelen;
        into[used++] = '\0';
        memcpy(into + used, nv->value, nv->valuelen);
        used += nv->valuelen;
        into[used++] = '\0';
    }
    return used;
}

/* --- life --------------------------------------------------------------------------------- */

mn_lane *mn_lane_new(const mn_lane_limits *limits, const double *bounds, size_t count)
{
    static const struct {
        const char *name;
        uint8_t kind;
    } known[] = {
        {"x-forwarded-for", FIELD_FORWARDED_FOR},
        {"x-request-id", FIELD_REQUEST_ID},
        {"content-type", FIELD_CONTENT_TYPE},
        {"content-length", FIELD_CONTENT_LENGTH},
        {"cookie", FIELD_COOKIE},
        {"host", FIELD_HOST},
        {"te", FIELD_TE},
        {"expect", FIELD_EXPECT},
        {"grpc-status", FIELD_GRPC_STATUS},
    };
    mn_lane *lane = calloc(1, sizeof *lane);

    if (!lane)
        return NULL;
    lane->limits = *limits;
    lane->crowd = &lane->alone;
    lane->crowd_count = 1;
    lane->bound_count = count < BUCKETS ? count : BUCKETS - 1;
    memcpy(lane->bounds, bounds, lane->bound_count * sizeof *bounds);
    lane->touched_end = &lane->touched;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        lane_name(lane, known[i].name, strlen(known[i].name), known[i].kind);
    if (getrandom(&lane->seed, sizeof lane->seed, 0) != sizeof lane->seed ||
        getrandom(lane->random, sizeof lane->random, 0) != sizeof lane->random ||
        !(lane->random[0] | lane->random[1])) {
        free(lane);
        return NULL;
    }
    return lane;
}

void mn_lane_join(mn_lane *lane, uint32_t *crowd, size_t count, size_t own)
{
    crowd[own] = lane->crowd[lane->own];
    lane->crowd = crowd;
    lane->crowd_count = count;
    lane->own = own;
}

bool lane_is_full(const mn_lane *lane)
{
    uint32_t size = 0;

    for (size_t i = 0; i < lane->crowd_count; i++)
        size += lane->crowd[i];
    return size >= lane->limits.requests;
}

void mn_lane_free(mn_lane *lane)
{
    mn_target *target, *next;

    if (!lane)
        return;
    while (lane->sessions)
        leave(lane->sessions);
    lane_forget_callers(lane);
    lane_free_retired(lane);
    for (target = lane->targets; target; target = next) {
        next = target->next;
        free(target);
    }
    free(lane->scratch.p);
    free(lane);
}

void mn_lane_tell(mn_lane *lane, int what, uint32_t failed_calls)
{
    lane->tell = (uint32_t)what;
    lane->failed_calls = failed_calls;
}

void mn_lane_forget(mn_lane *lane)
{
    lane->world++;
    for (mn_session *s = lane->sessions; s; s = s->lane_next)
        s->caller = NULL;
    lane_forget_callers(lane);
}
