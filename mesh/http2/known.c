/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the meshnode authors */

/* What the lane knows: callers, the decisions about their requests, endpoints. */

#include "lane.h"

#include <sys/random.h>
#include <time.h>

double lane_clock(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* xorshift128+; for request ids and the choice of endpoints, not for secrets. */
uint64_t lane_random(mn_lane *lane)
{
    uint64_t a = lane->random[0], b = lane->random[1];

    lane->random[0] = b;
    a ^= a << 23;
    lane->random[1] = a ^ b ^ (a >> 18) ^ (b >> 5);
    return lane->random[1] + b;
}

/* The seed is the lane's own: clients choose the keys, and must not make them meet. */
static uint32_t hash_of(uint64_t seed, const char *key, size_t len)
{
    uint64_t hash = seed ^ len;

    for (; len >= 8; len -= 8, key += 8) {
        uint64_t word;

        memcpy(&word, key, 8);
        hash = (hash ^ word) * 0x9e3779b97f4a7c15u;
        hash ^= hash >> 32;
    }
    for (size_t i = 0; i < len; i++)
        hash = (hash ^ (uint8_t)key[i]) * 0x100000001b3u;
    return (uint32_t)(hash ^ hash >> 32);
}

static bool key_add(mn_lane *lane, size_t *used, const char *data, size_t len, char end)
{
    if (*used + len + 1 > MAX_KEY)
        return false;
    memcpy(lane->key + *used, data, len);
    *used += len;
    lane->key[(*used)++] = end;
    return true;
}

/* The fields of one name that policy or routes look at. */
static bool key_fields(mn_lane *lane, size_t *used, const buf *name, const head *h)
{
    for (size_t i = 0; i < h->count; i++) {
        const field *f = &h->fields[i];

        if (f->name.len == name->len && !memcmp(f->name.at, name->p, name->len) &&
            !key_add(lane, used, f->value.at, f->value.len, '\r'))
            return false;
    }
    return key_add(lane, used, "", 0, '\n');
}

/* No part can hold the byte that ends it: nghttp2 lets no control characters pass. gRPC needs
 * HTTP/2 whatever the port says, so it is decided apart. */
size_t lane_key(mn_lane *lane, const mn_caller *caller, const head *h)
{
    const char *query = memchr(h->path.at, '?', h->path.len);
    size_t used = 0;
    size_t path = query && !caller->key_query ? (size_t)(query - h->path.at) : h->path.len;

    if (!key_add(lane, &used, h->is_grpc ? "g" : "", h->is_grpc, ' ') ||
        !key_add(lane, &used, h->method.at, h->method.len, ' ') ||
        !key_add(lane, &used, h->path.at, path, ' ') ||
        !key_add(lane, &used, h->authority.at, h->authority.len, '\n'))
        return 0;
    for (size_t i = 0; i < caller->name_count; i++)
        if (!key_fields(lane, &used, &caller->names[i], h))
            return 0;
    return used;
}

entry *lane_find(const mn_caller *caller, const char *key, size_t len)
{
    uint32_t hash = hash_of(caller->lane->seed, key, len);
    entry *e = caller->chains[hash % CHAINS];

    while (e && (e->hash != hash || e->key_len != len || memcmp(e->key, key, len) != 0))
        e = e->next;
    return e;
}

/* --- callers ------------------------------------------------------------------------------ */

static void caller_free(mn_caller *caller)
{
    free(caller->address.p);
    free(caller->identity.p);
    for (size_t i = 0; i < caller->name_count; i++)
        free(caller->names[i].p);
    free(caller);
}

mn_caller *mn_lane_caller(mn_lane *lane, const char *address, size_t address_len,
                          const char *identity, size_t identity_len)
{
    mn_caller *caller = calloc(1, sizeof *caller);

    if (!caller)
        return NULL;
    if (append(&caller->address, address, address_len) ||
        append(&caller->identity, identity, identity_len)) {
        caller_free(caller);
        return NULL;
    }
    caller->lane = lane;
    caller->next = lane->callers;
    lane->callers = caller;
    return caller;
}

int mn_caller_key_field(mn_caller *caller, const char *name, size_t len)
{
    if (caller->name_count == MAX_KEY_FIELDS ||
        append(&caller->names[caller->name_count], name, len))
        return -1;
    caller->name_count++;
    return 0;
}

void mn_caller_key_query(mn_caller *caller)
{
    caller->key_query = true;
}

/* --- entries ------------------------------------------------------------------------------ */

/* Keys are the clients' own words: how much is kept of them must have an end. */
static size_t cost(size_t key_len, size_t target_count)
{
    return ENTRY_BYTES + key_len + target_count * sizeof(mn_target *);
}

static void forget_entries(mn_caller *caller)
{
    mn_lane *lane = caller->lane;

    for (size_t i = 0; i < CHAINS; i++) {
        entry *e = caller->chains[i], *next;

        caller->chains[i] = NULL;
        for (; e; e = next) {
            next = e->next;
            lane->known_bytes -= cost(e->key_len, e->target_count);
            for (size_t k = 0; k < e->target_count; k++)
                e->targets[k]->entries--;
            e->target_count = 0;
            e->older = lane->retired;
            lane->retired = e;
        }
    }
    caller->entry_count = 0;
}

void lane_forget_callers(mn_lane *lane)
{
    mn_caller *caller = lane->callers, *next;

    lane->callers = NULL;
    for (; caller; caller = next) {
        next = caller->next;
        forget_entries(caller);
        caller_free(caller);
    }
}

static entry *entry_new(mn_lane *lane, size_t key_len, mn_target **targets, size_t count)
{
    entry *e = calloc(1, sizeof *e + key_len);

    if (!e)
        return NULL;
    e->targets = calloc(count, sizeof *targets);
    if (!e->targets) {
        free(e);
        return NULL;
    }
    memcpy(e->targets, targets, count * sizeof *targets);
    memcpy(e->key, lane->key, key_len);
    e->target_count = count;
    e->key_len = key_len;
    for (size_t i = 0; i < count; i++)
        targets[i]->entries++;
    return e;
}

int mn_lane_learn(mn_session *s, const char *text, size_t len, int end_stream, uint64_t number,
                  mn_target **targets, size_t count)
{
    mn_lane *lane = s->lane;
    mn_caller *caller = s->caller;
    size_t key_len, bytes;
    entry *e, **chain;

    if (!lane || !caller || s->world != lane->world || !count ||
        !lane_read_request(lane, text, len, end_stream, &lane->head))
        return -1;
    key_len = lane_key(lane, caller, &lane->head);
    if (!key_len || lane_find(caller, lane->key, key_len))
        return -1;
    bytes = cost(key_len, count);
    if (caller->entry_count >= MAX_ENTRIES)
        forget_entries(caller);
    if (lane->known_bytes + bytes > MAX_KNOWN_BYTES)
        for (mn_caller *each = lane->callers; each; each = each->next)
            forget_entries(each);
    e = entry_new(lane, key_len, targets, count);
    if (!e)
        return -1;
    e->number = number;
    e->hash = hash_of(lane->seed, e->key, key_len);
    chain = &caller->chains[e->hash % CHAINS];
    e->next = *chain;
    *chain = e;
    caller->entry_count++;
    lane->known_bytes += bytes;
    return 0;
}

static void entry_free(entry *e)
{
    while (e->tallies) {
        tally *t = e->tallies;

        e->tallies = t->next;
        free(t);
    }
    free(e->targets);
    free(e);
}

/* Requests under way were ended before. */
void lane_free_retired(mn_lane *lane)
{
    while (lane->retired) {
        entry *e = lane->retired;

        lane->retired = e->older;
        entry_free(e);
    }
}

size_t mn_lane_gone(mn_lane *lane, uint64_t *into, size_t room)
{
    entry **link = &lane->retired;
    size_t count = 0;

    while (*link && count < room) {
        entry *e = *link;

        if (e->users || e->tallies) {
            link = &e->older;
            continue;
        }
        *link = e->older;
        into[count++] = e->number;
        entry_free(e);
    }
    return count;
}

/* --- endpoints ---------------------------------------------------------------------------- */

mn_target *mn_lane_target(mn_lane *lane, uint64_t number)
{
    mn_target *target = calloc(1, sizeof *target);

    if (!target)
        return NULL;
    target->lane = lane;
    target->number = number;
    target->next = lane->targets;
    lane->targets = target;
    return target;
}

uint32_t mn_target_active(const mn_target *target)
{
    return target->active;
}

void mn_target_tell(mn_target *target, uint32_t active)
{
    target->elsewhere = active;
}

void mn_target_reserve(mn_target *target, int reserved)
{
    target->reserved = reserved;
}

int mn_target_drop(mn_target *target)
{
    mn_target **link = &target->lane->targets;

    if (target->active || target->entries || target->sessions)
        return -1;
    while (*link != target)
        link = &(*link)->next;
    *link = target->next;
    free(target);
    return 0;
}

static uint32_t load(const mn_target *target)
{
    return target->active + target->elsewhere;
}

/* The less loaded of two at random; NULL: leave it to Python. */
mn_target *lane_pick(mn_lane *lane, const entry *e)
{
    mn_target *one = e->targets[0], *other;

    if (e->target_count > 1) {
        uint64_t random = lane_random(lane);
        size_t first = (uint32_t)random % e->target_count;
        size_t second = (random >> 32) % (e->target_count - 1);

        one = e->targets[first];
        other = e->targets[second >= first ? second + 1 : second];
        if (load(other) < load(one))
            one = other;
    }
    return load(one) < lane->limits.target_requests && !one->reserved ? one : NULL;
}

size_t mn_lane_known_bytes(const mn_lane *lane)
{
    return lane->known_bytes;
}

uint64_t mn_lane_taken(const mn_lane *lane)
{
    return lane->taken;
}
