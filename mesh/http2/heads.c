/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the meshnode authors */

/*
 * Heads as the lane reads them: what waypoint.h2_head and waypoint.forward_headers take of a request
 * and of an answer. What leaves a doubt here is Python's.
 */

#include "lane.h"

static uint32_t hash_name(const char *name, size_t len)
{
    uint32_t hash = 0x811c9dc5u;

    for (size_t i = 0; i < len; i++)
        hash = (hash ^ (uint8_t)name[i]) * 0x01000193u;
    return hash ^ hash >> 15;
}

static known_name *slot(mn_lane *lane, const char *name, size_t len)
{
    uint32_t hash = hash_name(name, len);
    known_name *found;

    for (uint32_t at = hash;; at++) {
        found = &lane->names[at % NAMES];
        if (!found->len)
            break;
        if (found->hash == hash && found->len == len && !memcmp(found->text, name, len))
            return found;
    }
    found->hash = hash;
    return found;
}

void lane_name(mn_lane *lane, const char *name, size_t len, uint8_t kind)
{
    known_name *found = slot(lane, name, len);

    if (!found->len)
        lane->name_count++;
    memcpy(found->text, name, len);
    found->len = (uint8_t)len;
    found->kind = kind;
}

int mn_lane_field(mn_lane *lane, const char *name, size_t len, int what)
{
    static const uint8_t kinds[] = {
        [MN_FIELD_HEAD_ONLY] = FIELD_HEAD_ONLY,
        [MN_FIELD_CLAIM] = FIELD_CLAIM,
        [MN_FIELD_UNUSUAL] = FIELD_UNUSUAL,
        [MN_FIELD_PARENT] = FIELD_PARENT,
        [MN_FIELD_STATE] = FIELD_STATE,
    };

    if (!len || len > sizeof lane->names[0].text || lane->name_count > NAMES / 2 ||
        lane_kind(lane, name, len) != FIELD_KEPT)
        return -1;
    lane_name(lane, name, len, kinds[what]);
    return 0;
}

uint8_t lane_kind(const mn_lane *lane, const char *name, size_t len)
{
    uint32_t hash = hash_name(name, len);

    for (uint32_t at = hash;; at++) {
        const known_name *found = &lane->names[at % NAMES];

        if (!found->len)
            return FIELD_KEPT;
        if (found->hash == hash && found->len == len && !memcmp(found->text, name, len))
            return found->kind;
    }
}

bool lane_next_field(const char **at, const char *end, slice *name, slice *value)
{
    if (*at >= end)
        return false;
    name->at = *at;
    name->len = strlen(*at);
    value->at = name->at + name->len + 1;
    value->len = strlen(value->at);
    *at = value->at + value->len + 1;
    return true;
}

static bool is(const slice *s, const char *text)
{
    return s->len == strlen(text) && !memcmp(s->at, text, s->len);
}

static bool parse_length(const slice *value)
{
    if (value->len < 1 || value->len > 18 || (value->len > 1 && value->at[0] == '0'))
        return false;
    for (size_t i = 0; i < value->len; i++)
        if (value->at[i] < '0' || value->at[i] > '9')
            return false;
    return true;
}

static bool is_path(const slice *path)
{
    if (!path->len || path->at[0] != '/')
        return false;
    for (size_t i = 0; i < path->len; i++)
        if (path->at[i] <= ' ' || path->at[i] >= 0x7f || path->at[i] == '#')
            return false;
    return true;
}

static bool pseudo_field(head *h, const slice *name, const slice *value)
{
    if (is(name, ":method"))
        h->method = *value;
    else if (is(name, ":path"))
        h->path = *value;
    else if (is(name, ":authority"))
        h->authority = *value;
    else
        return is(name, ":scheme");
    return true;
}

static void reset(head *h, bool end)
{
    h->method = h->path = h->authority = h->length = (slice){0};
    h->count = h->bytes = h->status = 0;
    h->grpc_status = -1;
    h->te = h->is_grpc = h->parent = h->state = false;
    h->end = end;
}

/* As waypoint.forward_headers: a parameter or a suffix may follow. */
static bool is_grpc(const slice *type)
{
    return type->len >= 16 && !memcmp(type->at, "application/grpc", 16) &&
           (type->len == 16 || type->at[16] == '+' || type->at[16] == ';');
}

static bool is_hex(const char *at, size_t len, bool *nonzero)
{
    *nonzero = false;
    for (size_t i = 0; i < len; i++) {
        if (!(at[i] >= '0' && at[i] <= '9') && !(at[i] >= 'a' && at[i] <= 'f'))
            return false;
        *nonzero = *nonzero || at[i] != '0';
    }
    return true;
}

/* W3C Trace Context §3.2, of version 00. */
static bool is_parent(const slice *v)
{
    bool flags, trace, span;

    return v->len == 55 && !memcmp(v->at, "00-", 3) && is_hex(v->at + 3, 32, &trace) && trace &&
           v->at[35] == '-' && is_hex(v->at + 36, 16, &span) && span && v->at[52] == '-' &&
           is_hex(v->at + 53, 2, &flags);
}

/* False: unusual. */
static bool request_field(head *h, field *f)
{
    switch (f->kind) {
    case FIELD_PARENT:
        if (h->parent || !is_parent(&f->value))
            return false;
        h->parent = true;
        return true;
    case FIELD_STATE:
        h->state = true;
        return true;
    case FIELD_CONTENT_LENGTH:
        if (h->length.at || !parse_length(&f->value))
            return false;
        h->length = f->value;
        return true;
    case FIELD_TE:
        h->te = true;
        return true;
    case FIELD_CONTENT_TYPE:
        if (h->is_grpc)
            return false;
        h->is_grpc = is_grpc(&f->value);
        return true;
    case FIELD_COOKIE:
        return f->value.len > 0;
    case FIELD_HOST:
    case FIELD_UNUSUAL:
        return false;
    default:
        return true;
    }
}

bool lane_read_request(mn_lane *lane, const char *text, size_t len, bool end, head *h)
{
    const char *stop = text + len;
    slice name, value;

    reset(h, end);
    h->bytes = len;
    while (lane_next_field(&text, stop, &name, &value)) {
        field *f = &h->fields[h->count];

        if (name.at[0] == ':') {
            if (!pseudo_field(h, &name, &value))
                return false;
            continue;
        }
        /* Python counts the pseudo-fields too, of which there are four at most here. */
        if (h->count + 4 >= lane->limits.fields || h->count == MAX_FIELDS)
            return false;
        *f = (field){name, value, lane_kind(lane, name.at, name.len)};
        if (!request_field(h, f))
            return false;
        h->count++;
    }
    return h->method.len && h->authority.len && is_path(&h->path) &&
           !is(&h->method, "CONNECT") && (h->parent || !h->state);
}

void lane_note_grpc(int32_t *status, const slice *value)
{
    if (value->len == 1 && value->at[0] >= '0' && value->at[0] <= '9')
        *status = value->at[0] - '0';
    else if (value->len == 2 && value->at[0] >= '0' && value->at[0] <= '9' &&
             value->at[1] >= '0' && value->at[1] <= '9')
        *status = 10 * (value->at[0] - '0') + value->at[1] - '0';
}

/* nghttp2 has seen that there is one, of three digits. */
static uint32_t parse_status(const slice *value)
{
    uint32_t status = 0;

    for (size_t i = 0; i < value->len && i < 3; i++)
        status = status * 10 + (uint32_t)(value->at[i] - '0');
    return status;
}

bool lane_read_response(mn_lane *lane, const char *text, size_t len, bool end, bool is_head,
                        head *h)
{
    static const slice zero = {"0", 1};
    const char *stop = text + len;
    field *f = h->fields;

    reset(h, end);
    while (lane_next_field(&text, stop, &f->name, &f->value)) {
        if (f->name.at[0] == ':') {
            h->status = parse_status(&f->value);
            continue;
        }
        f->kind = lane_kind(lane, f->name.at, f->name.len);
        if (f->kind == FIELD_CONTENT_LENGTH) {
            if (h->length.at || !parse_length(&f->value))
                return false;
            h->length = f->value;
            continue;
        }
        if (f->kind == FIELD_GRPC_STATUS)
            lane_note_grpc(&h->grpc_status, &f->value);
        f->kind = FIELD_KEPT;
        if (++h->count == MAX_FIELDS)
            return false;
        f = &h->fields[h->count];
    }
    h->end = end || is_head || h->status == 204 || h->status == 304 || h->status < 200;
    if (h->end && !is_head && h->status != 304) { /* as waypoint.h2_head.read_response */
        if (h->status == 204 || h->status < 200)
            h->length = (slice){0};
        else if (!h->length.at)
            h->length = zero;
    }
    return h->status >= 100 && h->status != 101;
}
