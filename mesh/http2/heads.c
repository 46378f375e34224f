/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the meshnode authors */

/*
 * Heads as the lane reads and sends them: what waypoint.h2_head and waypoint.forward_headers make
 * of a request and of an answer. What leaves a doubt here is Python's.
 */

#include "lane.h"

#include <stdio.h>

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

/* --- what is sent ------------------------------------------------------------------------- */

static bool is_request_id(const slice *value)
{
    static const char marks[] = "._:/+=@-";

    if (value->len < 1 || value->len > 128)
        return false;
    for (size_t i = 0; i < value->len; i++) {
        char byte = value->at[i];

        if (!(byte >= '0' && byte <= '9') && !(byte >= 'A' && byte <= 'Z') &&
            !(byte >= 'a' && byte <= 'z') && !strchr(marks, byte))
            return false;
    }
    return true;
}

/* A UUID of version 4 (RFC 9562 §5.4). */
static void put_uuid(mn_lane *lane, char *at)
{
    static const char digits[] = "0123456789abcdef", variants[] = "89ab";
    uint64_t random[2] = {lane_random(lane), lane_random(lane)};

    for (int i = 0; i < 32; i++) {
        unsigned int four = (unsigned int)(random[i / 16] >> (4 * (i % 16))) & 15;

        if (i == 8 || i == 12 || i == 16 || i == 20)
            *at++ = '-';
        *at++ = i == 12 ? '4' : i == 16 ? variants[four & 3] : digits[four];
    }
}

static void put(nghttp2_nv *nv, const char *name, size_t name_len, const char *value, size_t len)
{
    *nv = (nghttp2_nv){(uint8_t *)(uintptr_t)name, (uint8_t *)(uintptr_t)value, name_len, len,
                       NGHTTP2_NV_FLAG_NONE};
}

#define PUT(nv, name, s) put(nv, name, sizeof(name) - 1, (s).at, (s).len)

/* All values of a kind, joined, behind what is in the scratch; `last` behind them. */
static slice join(mn_lane *lane, const head *h, uint8_t kind, const char *comma, slice last)
{
    buf *b = &lane->scratch; /* room was made */
    char *start = b->p + b->len, *at = start;

    for (size_t i = 0; i <= h->count; i++) {
        const slice *value = i == h->count ? &last : &h->fields[i].value;

        if (i < h->count ? h->fields[i].kind != kind : !last.len)
            continue;
        /* An empty first one leaves no comma before x-forwarded-for, as in Python. */
        if (at > start) {
            memcpy(at, comma, 2);
            at += 2;
        }
        memcpy(at, value->at, value->len);
        at += value->len;
    }
    b->len += (size_t)(at - start);
    return (slice){start, (size_t)(at - start)};
}

static size_t put_kind(const head *h, uint8_t kind, nghttp2_nv *nv)
{
    size_t n = 0;

    for (size_t i = 0; i < h->count; i++)
        if (h->fields[i].kind == kind)
            put(&nv[n++], h->fields[i].name.at, h->fields[i].name.len, h->fields[i].value.at,
                h->fields[i].value.len);
    return n;
}

static size_t put_fields(const head *h, nghttp2_nv *nv)
{
    size_t n = 0;

    for (size_t i = 0; i < h->count; i++) {
        const field *f = &h->fields[i];

        if (f->kind <= FIELD_HEAD_ONLY || f->kind == FIELD_CONTENT_TYPE ||
            f->kind == FIELD_GRPC_STATUS)
            put(&nv[n++], f->name.at, f->name.len, f->value.at, f->value.len);
    }
    return n;
}

static slice request_id(mn_lane *lane, const head *h)
{
    char *at;

    for (size_t i = 0; i < h->count; i++)
        if (h->fields[i].kind == FIELD_REQUEST_ID && is_request_id(&h->fields[i].value))
            return h->fields[i].value;
    at = lane->scratch.p + lane->scratch.len;
    put_uuid(lane, at);
    lane->scratch.len += 36;
    return (slice){at, 36};
}

static bool has(const head *h, uint8_t kind)
{
    for (size_t i = 0; i < h->count; i++)
        if (h->fields[i].kind == kind)
            return true;
    return false;
}

size_t lane_request_fields(mn_lane *lane, const mn_caller *caller, head *h)
{
    static const slice scheme = {"http", 4}, trailers = {"trailers", 8}, none = {0};
    slice address = {caller->address.p, caller->address.len};
    slice identity = {caller->identity.p, caller->identity.len};
    nghttp2_nv *nv = lane->nv, *id;

    lane->scratch.len = 0;
    if (!grow(&lane->scratch, 2 * h->bytes + address.len + 256))
        return 0;
    lane->scratch.len = 0;
    PUT(nv++, ":method", h->method);
    PUT(nv++, ":scheme", scheme);
    PUT(nv++, ":authority", h->authority);
    PUT(nv++, ":path", h->path);
    nv += put_fields(h, nv);
    if (has(h, FIELD_COOKIE))
        PUT(nv++, "cookie", join(lane, h, FIELD_COOKIE, "; ", none));
    PUT(nv++, "x-forwarded-for", join(lane, h, FIELD_FORWARDED_FOR, ", ", address));
    id = nv++;
    h->request_id = request_id(lane, h);
    PUT(id, "x-request-id", h->request_id);
    id->flags = NGHTTP2_NV_FLAG_NO_INDEX; /* each is new, and would drive out what is not */
    if (h->parent) {
        nv += put_kind(h, FIELD_PARENT, nv);
        nv += put_kind(h, FIELD_STATE, nv);
    }
    if (identity.len)
        PUT(nv++, "x-forwarded-client-cert", identity);
    if (h->length.at)
        PUT(nv++, "content-length", h->length);
    if (h->te)
        PUT(nv++, "te", trailers);
    return (size_t)(nv - lane->nv);
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

size_t lane_response_fields(mn_lane *lane, const head *h)
{
    static const char digits[] = "0123456789";
    nghttp2_nv *nv = lane->nv;
    char *status;

    lane->scratch.len = 0;
    status = grow(&lane->scratch, 3);
    if (!status)
        return 0;
    status[0] = digits[h->status / 100 % 10];
    status[1] = digits[h->status / 10 % 10];
    status[2] = digits[h->status % 10];
    put(nv++, ":status", 7, status, 3);
    nv += put_fields(h, nv);
    if (h->length.at)
        PUT(nv++, "content-length", h->length);
    return (size_t)(nv - lane->nv);
}
