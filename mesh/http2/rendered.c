/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the meshnode authors */

/* Heads as the lane sends them: what waypoint.forward_headers and waypoint.h2_head write. */

#include "lane.h"

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
