/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the meshnode authors */

/* What became of the requests of the lane, in numbers. */

#include "lane.h"

static size_t bucket(const mn_lane *lane, double value)
{
    size_t found = 0;

    while (found < lane->bound_count && lane->bounds[found] < value)
        found++;
    return found;
}

void lane_count(mn_lane *lane, const crossing *x, uint32_t failure)
{
    double seconds = lane_clock() - x->began_at;
    tally **link = &x->entry->tallies;
    mn_count *c;

    for (; *link; link = &(*link)->next) {
        c = &(*link)->count;
        if (c->target == x->target->number && c->status == x->status &&
            c->grpc_status == x->grpc_status && c->failure == failure)
            break;
    }
    if (!*link) {
        *link = calloc(1, sizeof **link);
        if (!*link)
            return;
        c = &(*link)->count;
        c->entry = x->entry->number;
        c->target = x->target->number;
        c->status = x->status;
        c->grpc_status = x->grpc_status;
        c->failure = failure;
    }
    c = &(*link)->count;
    c->count++;
    c->received += x->received;
    c->sent += x->sent;
    c->seconds += seconds;
    c->buckets[bucket(lane, seconds * 1e3)]++;
    c->received_buckets[bucket(lane, (double)x->received)]++;
    c->sent_buckets[bucket(lane, (double)x->sent)]++;
}

static size_t take_of(entry *e, mn_count *into, size_t room)
{
    size_t taken = 0;

    while (e->tallies && taken < room) {
        tally *t = e->tallies;

        into[taken++] = t->count;
        e->tallies = t->next;
        free(t);
    }
    return taken;
}

size_t mn_lane_take(mn_lane *lane, mn_count *into, size_t room)
{
    size_t taken = 0;

    for (mn_caller *caller = lane->callers; caller; caller = caller->next)
        for (size_t i = 0; i < CHAINS; i++)
            for (entry *e = caller->chains[i]; e; e = e->next)
                taken += take_of(e, into + taken, room - taken);
    for (entry *e = lane->retired; e; e = e->older)
        taken += take_of(e, into + taken, room - taken);
    return taken;
}
