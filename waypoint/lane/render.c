/* SPDX-License-Identifier: Apache-2.0 */
/* Heads as they are sent on: what waypoint.forward_headers and mesh.http1.writer make of them. */
#include "internal.h"

#include <stdio.h>
#include <stdlib.h>

bool lane_bytes_need(struct bytes *bytes, size_t more)
{
	size_t room = bytes->room ? bytes->room : 1024;
	char *at;

	if (bytes->length + more <= bytes->room)
		return true;
	while (room < bytes->length + more)
		room *= 2;
	at = realloc(bytes->at, room);
	if (!at)
		return false;
	bytes->at = at;
	bytes->room = room;
	return true;
}

bool lane_bytes_add(struct bytes *bytes, const char *data, size_t length)
{
	if (!lane_bytes_need(bytes, length))
		return false;
	if (length)
		memcpy(bytes->at + bytes->length, data, length);
	bytes->length += length;
	return true;
}

void lane_bytes_cut(struct bytes *bytes, size_t front)
{
	bytes->length -= front;
	if (bytes->length)
		memmove(bytes->at, bytes->at + front, bytes->length);
}

void lane_bytes_free(struct bytes *bytes)
{
	free(bytes->at);
	*bytes = (struct bytes){ 0 };
}

/* Room was made for all that follows. */
static char *put(char *at, const char *data, size_t length)
{
	memcpy(at, data, length);
	return at + length;
}

#define PUT(at, text) put(at, text, sizeof(text) - 1)

static char *put_name(char *at, const struct slice *name)
{
	for (size_t i = 0; i < name->length; i++) {
		char byte = name->at[i];

		at[i] = byte >= 'A' && byte <= 'Z' ? (char)(byte | 0x20) : byte;
	}
	return at + name->length;
}

static char *put_field(char *at, const struct field *field)
{
	at = put_name(at, &field->name);
	at = PUT(at, ": ");
	at = put(at, field->value.at, field->value.length);
	return PUT(at, "\r\n");
}

bool lane_is_request_id(const struct slice *value)
{
	static const char marks[] = "._:/+=@-";

	if (value->length < 1 || value->length > 128)
		return false;
	for (size_t i = 0; i < value->length; i++) {
		char byte = value->at[i];

		if (!(byte >= '0' && byte <= '9') && !(byte >= 'A' && byte <= 'Z') &&
		    !(byte >= 'a' && byte <= 'z') && (!byte || !strchr(marks, byte)))
			return false;
	}
	return true;
}

/* A UUID of version 4 (RFC 9562 §5.4). */
static void put_uuid(struct lane *lane, char *at)
{
	static const char digits[] = "0123456789abcdef", variants[] = "89ab";
	uint64_t random[2] = { lane_random(lane), lane_random(lane) };

	for (int i = 0; i < 32; i++) {
		unsigned int four = (unsigned int)(random[i / 16] >> (4 * (i % 16))) & 15;

		if (i == 8 || i == 12 || i == 16 || i == 20)
			*at++ = '-';
		*at++ = i == 12 ? '4' : i == 16 ? variants[four & 3] : digits[four];
	}
}

static size_t request_room(const struct lane_caller *caller, const struct head *head)
{
	size_t room = head->head_bytes + caller->address.length + caller->identity.length + 640;

	return room + 4 * head->field_count;
}

static void put_hex(struct lane *lane, char *at, size_t digits)
{
	uint64_t random = 0;

	for (size_t i = 0; i < digits; i++) {
		if (i % 16 == 0)
			random = lane_random(lane) | 1; /* no id is all zeros */
		at[i] = "0123456789abcdef"[random & 15];
		random >>= 4;
	}
}

static bool by_chance(struct lane *lane, double share)
{
	return (double)(lane_random(lane) >> 11) < share * 9007199254740992.0; /* 2^53 */
}

/* Whether the flags of a context say that it is sampled; they are hexadecimal. */
static bool is_sampled(const struct slice *trace)
{
	char low = trace->at[54];

	return (low <= '9' ? low - '0' : low - 'a' + 10) & 1;
}

static char *put_context(char *at, const struct made *made, bool sampled)
{
	at = PUT(at, "traceparent: 00-");
	at = put(at, made->trace, sizeof(made->trace));
	at = PUT(at, "-");
	at = put(at, made->span, sizeof(made->span));
	return sampled ? PUT(at, "-01\r\n") : PUT(at, "-00\r\n");
}

/* What mesh.telemetry.trace_context makes of a request without a context, or with W3C's. */
static char *put_trace(struct lane *lane, const struct head *head, struct made *made, char *at)
{
	const struct lane_watch *watch = &lane->watch;

	if (!watch->traces)
		return at;
	if (!head->trace.at) {
		if (watch->sampling < 0)
			return at;
		put_hex(lane, made->trace, sizeof(made->trace));
		put_hex(lane, made->span, sizeof(made->span));
		bool sampled = by_chance(lane, watch->sampling);
		made->traced = sampled && watch->exports;
		return put_context(at, made, sampled);
	}
	if (is_sampled(&head->trace) && watch->exports) {
		memcpy(made->trace, head->trace.at + 3, sizeof(made->trace));
		memcpy(made->parent, head->trace.at + 36, sizeof(made->parent));
		put_hex(lane, made->span, sizeof(made->span));
		made->traced = made->has_parent = true;
		at = put_context(at, made, true);
	} else {
		at = PUT(at, "traceparent: ");
		at = put(at, head->trace.at, head->trace.length);
		at = PUT(at, "\r\n");
	}
	for (uint32_t i = 0; i < head->field_count; i++)
		if (head->fields[i].kind == FIELD_STATE)
			at = put_field(at, &head->fields[i]);
	return at;
}

bool lane_write_request(struct lane *lane, const struct lane_caller *caller,
			const struct head *head, struct made *made, struct bytes *out)
{
	const struct slice *id = NULL;
	bool chained = false;
	char *at;

	if (!lane_bytes_need(out, request_room(caller, head)))
		return false;
	at = put(out->at + out->length, head->method.at, head->method.length);
	at = PUT(at, " ");
	at = put(at, head->target.at, head->target.length);
	at = PUT(at, " HTTP/1.1\r\nhost: ");
	at = put(at, head->host.at, head->host.length);
	at = PUT(at, "\r\n");
	for (uint32_t i = 0; i < head->field_count; i++) {
		const struct field *field = &head->fields[i];

		if (field->kind == FIELD_KEPT || field->kind == FIELD_USER_AGENT)
			at = put_field(at, field);
		else if (field->kind == FIELD_REQUEST_ID && !id && lane_is_request_id(&field->value))
			id = &field->value;
	}
	at = PUT(at, "x-forwarded-for: ");
	for (uint32_t i = 0; i < head->field_count; i++) {
		const struct field *field = &head->fields[i];

		if (field->kind != FIELD_FORWARDED_FOR)
			continue;
		/* An empty first one leaves no comma, as in waypoint.forward_headers. */
		if (chained)
			at = PUT(at, ", ");
		at = put(at, field->value.at, field->value.length);
		chained = chained || field->value.length;
	}
	if (chained)
		at = PUT(at, ", ");
	at = put(at, caller->address.at, caller->address.length);
	at = PUT(at, "\r\nx-request-id: ");
	made->has_id = !id;
	made->traced = made->has_parent = false;
	if (!id)
		put_uuid(lane, made->id);
	at = id ? put(at, id->at, id->length) : put(at, made->id, sizeof(made->id));
	at = PUT(at, "\r\n");
	at = put_trace(lane, head, made, at);
	if (caller->identity.length) {
		at = PUT(at, "x-forwarded-client-cert: ");
		at = put(at, caller->identity.at, caller->identity.length);
		at = PUT(at, "\r\n");
	}
	if (head->has_length)
		at += sprintf(at, "content-length: %llu\r\n", (unsigned long long)head->length);
	at = PUT(at, "\r\n");
	out->length = (size_t)(at - out->at);
	return true;
}

/* http.HTTPStatus, from which mesh.http1.writer takes its phrases. */
static const char *phrase(uint32_t status)
{
	switch (status) {
	case 200: return "OK";
	case 201: return "Created";
	case 202: return "Accepted";
	case 204: return "No Content";
	case 206: return "Partial Content";
	case 301: return "Moved Permanently";
	case 302: return "Found";
	case 303: return "See Other";
	case 304: return "Not Modified";
	case 307: return "Temporary Redirect";
	case 308: return "Permanent Redirect";
	case 400: return "Bad Request";
	case 401: return "Unauthorized";
	case 403: return "Forbidden";
	case 404: return "Not Found";
	case 409: return "Conflict";
	case 500: return "Internal Server Error";
	case 502: return "Bad Gateway";
	case 503: return "Service Unavailable";
	default: return NULL;
	}
}

bool lane_write_response(const struct head *head, bool close, struct bytes *out)
{
	const char *text = phrase(head->status);
	char *at;

	if (!text || !lane_bytes_need(out, head->head_bytes + 4 * head->field_count + 256))
		return false;
	at = out->at + out->length;
	at += sprintf(at, "HTTP/1.1 %u %s\r\n", head->status, text);
	for (uint32_t i = 0; i < head->field_count; i++)
		if (head->fields[i].kind == FIELD_KEPT)
			at = put_field(at, &head->fields[i]);
	if (head->has_length)
		at += sprintf(at, "content-length: %llu\r\n", (unsigned long long)head->length);
	if (close)
		at = PUT(at, "connection: close\r\n");
	at = PUT(at, "\r\n");
	out->length = (size_t)(at - out->at);
	return true;
}
