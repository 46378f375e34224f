/* SPDX-License-Identifier: Apache-2.0 */
/* Heads that are plain. What passes here, mesh.http1 reads alike; whatever leaves a doubt, is rare
 * or is refused there is "unusual" here, and mesh.http1 has the last word on it. */
#include "internal.h"

/* 1: token (RFC 9110 §5.6.2); 2: text of a value (no control characters); 4: of a target, without
 * '#'; 8: of a host. */
static uint8_t classes[256];

__attribute__((constructor)) static void fill(void)
{
	const char *marks = "!#$%&'*+-.^_`|~";

	for (int byte = 0; byte < 256; byte++) {
		bool alnum = (byte >= '0' && byte <= '9') || (byte >= 'a' && byte <= 'z') ||
			     (byte >= 'A' && byte <= 'Z');

		if (alnum)
			classes[byte] |= 1 | 8;
		if (byte == '\t' || (byte >= 0x20 && byte != 0x7f))
			classes[byte] |= 2;
		if (byte > 0x20 && byte < 0x7f && byte != '#')
			classes[byte] |= 4;
	}
	for (; *marks; marks++)
		classes[(uint8_t)*marks] |= 1;
	for (marks = "-._"; *marks; marks++)
		classes[(uint8_t)*marks] |= 8;
}

static bool all(const char *at, size_t length, uint8_t class)
{
	uint8_t common = class;

	for (size_t i = 0; i < length; i++)
		common &= classes[(uint8_t)at[i]];
	return common != 0;
}

static char lower(char byte)
{
	return byte >= 'A' && byte <= 'Z' ? (char)(byte | 0x20) : byte;
}

bool lane_name_is(const struct slice *name, const char *wanted)
{
	size_t i;

	for (i = 0; i < name->length; i++)
		if (lower(name->at[i]) != wanted[i]) /* the end of `wanted` differs too */
			return false;
	return wanted[i] == '\0';
}

static bool parse_number(const struct slice *value, uint64_t *number)
{
	if (value->length < 1 || value->length > 18)
		return false;
	*number = 0;
	for (size_t i = 0; i < value->length; i++) {
		if (value->at[i] < '0' || value->at[i] > '9')
			return false;
		*number = *number * 10 + (uint64_t)(value->at[i] - '0');
	}
	return true;
}

/* A name or an IPv4 address, with an optional port. */
static bool is_host(const struct slice *host)
{
	const char *colon = memchr(host->at, ':', host->length);
	size_t name = colon ? (size_t)(colon - host->at) : host->length;

	if (!name || !all(host->at, name, 8))
		return false;
	if (!colon)
		return true;
	if (host->length - name - 1 > 5)
		return false;
	for (size_t i = name + 1; i < host->length; i++)
		if (host->at[i] < '0' || host->at[i] > '9')
			return false;
	return true;
}

static bool one_of(const struct slice *name, const char *const *names)
{
	for (; *names; names++)
		if (lane_name_is(name, *names))
			return true;
	return false;
}

/* Framing and connection, the same in both directions. False: unusual. */
static bool common_field(struct head *head, struct field *field)
{
	static const char *const unusual[] = { "transfer-encoding", "te", "upgrade", "expect",
					       NULL };

	if (lane_name_is(&field->name, "content-length")) {
		field->kind = FIELD_DROPPED;
		if (head->has_length || !parse_number(&field->value, &head->length))
			return false;
		head->has_length = true;
		return true;
	}
	if (lane_name_is(&field->name, "connection")) {
		field->kind = FIELD_DROPPED;
		if (lane_name_is(&field->value, "close"))
			head->close = true;
		else if (!lane_name_is(&field->value, "keep-alive"))
			return false;
		return true;
	}
	if (lane_name_is(&field->name, "keep-alive") ||
	    lane_name_is(&field->name, "proxy-connection")) {
		field->kind = FIELD_DROPPED;
		return true;
	}
	return !one_of(&field->name, unusual);
}

static bool begins(const struct slice *name, const char *prefix)
{
	size_t length = strlen(prefix);

	return name->length >= length && !strncasecmp(name->at, prefix, length);
}

/*
 * Whether a field may be one of waypoint.forward_headers.IDENTITY_FIELDS that is not in the list
 * below: a family of names, or another spelling. Python knows them all.
 */
static bool may_claim(const struct slice *name)
{
	return memchr(name->at, '_', name->length) || begins(name, "x-envoy-") ||
	       begins(name, "x-ssl-") || begins(name, "x-istio-") || begins(name, "x-client-") ||
	       begins(name, "l5d-") || begins(name, "ssl-");
}

static bool all_hex(const char *at, size_t length, bool *some)
{
	*some = false;
	for (size_t i = 0; i < length; i++) {
		if (!(at[i] >= '0' && at[i] <= '9') && !(at[i] >= 'a' && at[i] <= 'f'))
			return false;
		*some = *some || at[i] != '0';
	}
	return true;
}

/* The one traceparent of version 0 (W3C Trace Context §3.2). */
static bool is_trace(struct head *head, const struct slice *value)
{
	const char *at = value->at;
	bool trace, span, flags;

	if (head->trace.at || value->length != 55 || memcmp(at, "00-", 3) != 0 || at[35] != '-' ||
	    at[52] != '-' || !all_hex(at + 3, 32, &trace) || !all_hex(at + 36, 16, &span) ||
	    !all_hex(at + 53, 2, &flags))
		return false;
	head->trace = *value;
	return trace && span;
}

static bool trace_field(struct head *head, struct field *field)
{
	head->has_trace_fields = true;
	if (lane_name_is(&field->name, "traceparent")) {
		field->kind = FIELD_TRACE;
		return is_trace(head, &field->value);
	}
	field->kind = FIELD_STATE;
	return lane_name_is(&field->name, "tracestate"); /* forms of B3 are Python's */
}

static bool request_field(struct head *head, struct field *field)
{
	/* waypoint.forward_headers.IDENTITY_FIELDS */
	static const char *const identity[] = { "x-forwarded-client-cert", "x-meshnode-principal",
						"x-envoy-internal",        "x-envoy-peer-metadata",
						"x-envoy-peer-metadata-id", "l5d-client-id",
						NULL };
	/* mesh.telemetry.trace_context.TRACE_FIELDS; those of B3 begin alike */
	static const char *const traces[] = { "traceparent", "tracestate", "b3", NULL };

	switch (lower(field->name.at[0])) {
	case 'h':
		if (!lane_name_is(&field->name, "host"))
			return true;
		if (head->host.at || !is_host(&field->value))
			return false;
		head->host = field->value;
		field->kind = FIELD_DROPPED;
		return true;
	case 't':
	case 'b':
		if (one_of(&field->name, traces))
			return trace_field(head, field);
		return common_field(head, field);
	case 'u':
		if (lane_name_is(&field->name, "user-agent"))
			field->kind = FIELD_USER_AGENT;
		return common_field(head, field);
	case 'x':
		if (lane_name_is(&field->name, "x-forwarded-for"))
			field->kind = FIELD_FORWARDED_FOR;
		else if (lane_name_is(&field->name, "x-request-id"))
			field->kind = FIELD_REQUEST_ID;
		else if (one_of(&field->name, identity))
			field->kind = FIELD_DROPPED;
		else if (may_claim(&field->name))
			return false;
		else if (field->name.length > 5 && lower(field->name.at[2]) == 'b' &&
			 field->name.at[3] == '3')
			return false;
		return true;
	case 'l':
		if (one_of(&field->name, identity))
			field->kind = FIELD_DROPPED;
		else if (may_claim(&field->name))
			return false;
		return true;
	case 's':
		return !may_claim(&field->name) && common_field(head, field);
	case 'c': /* a gRPC call needs HTTP/2 */
		if (lane_name_is(&field->name, "content-type") && field->value.length >= 16 &&
		    !memcmp(field->value.at, "application/grpc", 16))
			return false;
		return common_field(head, field);
	default:
		return common_field(head, field);
	}
}

static bool response_field(struct head *head, struct field *field)
{
	return common_field(head, field) && !lane_name_is(&field->name, "host");
}

/* One field line; `*at` moves behind it. */
static bool scan_field(const char **at, const char *end, struct field *field)
{
	const char *line_end = memchr(*at, '\r', (size_t)(end - *at));
	const char *colon, *value, *value_end;

	if (!line_end || line_end + 1 >= end || line_end[1] != '\n')
		return false;
	colon = memchr(*at, ':', (size_t)(line_end - *at));
	if (!colon || colon == *at || !all(*at, (size_t)(colon - *at), 1))
		return false;
	value = colon + 1;
	value_end = line_end;
	while (value < value_end && (*value == ' ' || *value == '\t'))
		value++;
	while (value < value_end && (value_end[-1] == ' ' || value_end[-1] == '\t'))
		value_end--;
	if (!all(value, (size_t)(value_end - value), 2))
		return false;
	*field = (struct field){ { *at, (size_t)(colon - *at) },
				 { value, (size_t)(value_end - value) },
				 FIELD_KEPT };
	*at = line_end + 2;
	return true;
}

static enum scanned scan_fields(const struct lane_limits *limits, const char *at, const char *end,
				struct head *head, bool (*judge)(struct head *, struct field *))
{
	/* `end` is behind the last field's CRLF. */
	while (at < end) {
		struct field *field = &head->fields[head->field_count];

		if (head->field_count == limits->fields || head->field_count == MAX_FIELDS)
			return SCAN_UNUSUAL;
		if (!scan_field(&at, end, field) || !judge(head, field))
			return SCAN_UNUSUAL;
		head->field_count++;
	}
	return SCAN_PLAIN;
}

static void reset(struct head *head)
{
	memset(&head->method, 0, sizeof(head->method));
	memset(&head->target, 0, sizeof(head->target));
	memset(&head->host, 0, sizeof(head->host));
	memset(&head->trace, 0, sizeof(head->trace));
	head->field_count = head->status = 0;
	head->length = 0;
	head->has_length = head->close = head->is_head = head->has_trace_fields = false;
}

static bool scan_request_line(const char *at, const char *end, struct head *head)
{
	static const char version[] = " HTTP/1.1";
	const char *space = memchr(at, ' ', (size_t)(end - at));
	const size_t tail = sizeof(version) - 1;

	if (!space || space == at || (size_t)(end - space) < 2 + tail)
		return false;
	for (const char *byte = at; byte < space; byte++)
		if (*byte < 'A' || *byte > 'Z')
			return false;
	head->method = (struct slice){ at, (size_t)(space - at) };
	head->target = (struct slice){ space + 1, (size_t)(end - space) - 1 - tail };
	if (lane_name_is(&head->method, "connect") || memcmp(end - tail, version, tail) != 0)
		return false;
	head->is_head = lane_name_is(&head->method, "head");
	return head->target.at[0] == '/' && all(head->target.at, head->target.length, 4);
}

/* Contexts of traces: followed if somebody does, and only behind a parent of their own. */
static bool may_follow(const struct lane *lane, const struct head *head)
{
	return !head->has_trace_fields || (lane->watch.traces && head->trace.at);
}

enum scanned lane_scan_request(const struct lane *lane, const char *data, size_t length,
			       struct head *head)
{
	const struct lane_limits *limits = &lane->limits;
	const char *end = memmem(data, length, "\r\n\r\n", 4);
	const char *line;

	reset(head);
	if (!end)
		return SCAN_PARTIAL;
	line = memchr(data, '\r', length); /* not behind `end` */
	head->head_bytes = (size_t)(end - data) + 4;
	if ((size_t)(end - data) > limits->head_bytes || (size_t)(line - data) > limits->line_bytes ||
	    line[1] != '\n' || !scan_request_line(data, line, head))
		return SCAN_UNUSUAL;
	if (scan_fields(limits, line + 2, end + 2, head, request_field) != SCAN_PLAIN)
		return SCAN_UNUSUAL;
	return head->host.at && may_follow(lane, head) ? SCAN_PLAIN : SCAN_UNUSUAL;
}

static bool scan_status_line(const char *at, const char *end, struct head *head)
{
	if (end - at < 12 || memcmp(at, "HTTP/1.1 ", 9) != 0)
		return false;
	for (int i = 9; i < 12; i++) {
		if (at[i] < '0' || at[i] > '9')
			return false;
		head->status = head->status * 10 + (uint32_t)(at[i] - '0');
	}
	if (end - at > 12 && at[12] != ' ')
		return false;
	return head->status >= 200 && all(at, (size_t)(end - at), 2);
}

enum scanned lane_scan_response(const struct lane_limits *limits, const char *data, size_t length,
				bool is_head, struct head *head)
{
	const char *end = memmem(data, length, "\r\n\r\n", 4);
	const char *line;

	reset(head);
	if (!end)
		return length > limits->head_bytes ? SCAN_UNUSUAL : SCAN_PARTIAL;
	line = memchr(data, '\r', length);
	head->head_bytes = (size_t)(end - data) + 4;
	if ((size_t)(end - data) > limits->head_bytes || line[1] != '\n' ||
	    !scan_status_line(data, line, head))
		return SCAN_UNUSUAL;
	if (scan_fields(limits, line + 2, end + 2, head, response_field) != SCAN_PLAIN)
		return SCAN_UNUSUAL;
	head->is_head = is_head;
	if (head->status == 204)
		head->has_length = false; /* RFC 9110 §8.6: none is sent on */
	if (head->status == 204 || head->status == 304 || is_head)
		return SCAN_PLAIN;
	return head->has_length ? SCAN_PLAIN : SCAN_UNUSUAL;
}
