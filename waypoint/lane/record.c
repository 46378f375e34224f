/* SPDX-License-Identifier: Apache-2.0 */
/* What access log, taps and traces want to know of requests that ended: bytes in a bounded buffer,
 * which Python makes into lines and spans later. */
#include "internal.h"

#include <stdlib.h>
#include <strings.h>
#include <time.h>

enum { KEEP_BYTES = 4096 };

void lane_watch_requests(struct lane *lane, const struct lane_watch *watch)
{
	lane->watch = *watch;
}

int lane_tap_requests(struct lane *lane, const struct lane_tap *taps, size_t count)
{
	if (count > MAX_TAPS)
		return -1;
	for (size_t i = 0; i < count; i++) {
		struct tap *tap = &lane->taps[i];

		/* A longer one is cut: it lets more pass, and Python looks at all of it. */
		*tap = (struct tap){ .status_from = taps[i].status_from,
				     .status_to = taps[i].status_to };
		if (strlen(taps[i].method) < sizeof(tap->method))
			strcpy(tap->method, taps[i].method);
		strncpy(tap->path, taps[i].path, sizeof(tap->path) - 1);
	}
	lane->tap_count = count;
	return 0;
}

uint64_t lane_allow_lines(struct lane *lane, uint64_t lines)
{
	uint64_t left = lane->lines_allowed;

	lane->lines_allowed = lines;
	return left;
}

void lane_take_lost(struct lane *lane, struct lane_lost *lost)
{
	*lost = lane->lost;
	lane->lost = (struct lane_lost){ 0 };
}

/* The answer begins. Keep the request's head until it ends: a record may be wanted then, and policy
 * may change before. */
void lane_keep_head(struct client *client)
{
	struct bytes *request = &client->request;

	request->length = client->request_head;
	if (request->room > 2 * KEEP_BYTES && request->length < KEEP_BYTES) {
		char *at = realloc(request->at, KEEP_BYTES);

		if (at) {
			request->at = at;
			request->room = KEEP_BYTES;
		}
	}
}

/* --- who wants it ---------------------------------------------------------------------------- */

static bool has_failed(const struct lane_count *one)
{
	return one->failure != LANE_FINE || one->status >= 500;
}

static bool is_logged(struct lane *lane, const struct lane_count *one)
{
	if (lane->watch.log == LANE_LOG_NONE)
		return false;
	if (has_failed(one))
		return true;
	return lane->watch.log == LANE_LOG_ALL &&
	       (lane->watch.log_share >= 1 ||
		(double)(lane_random(lane) >> 11) < lane->watch.log_share * 9007199254740992.0);
}

static bool sees(const struct tap *tap, const struct head *head, uint32_t status)
{
	size_t path = strlen(tap->path), method = strlen(tap->method);

	if (status < tap->status_from || status > tap->status_to)
		return false;
	if (method && (method != head->method.length ||
		       memcmp(tap->method, head->method.at, method) != 0))
		return false;
	return path <= head->target.length && !memcmp(tap->path, head->target.at, path);
}

static bool is_tapped(const struct lane *lane, const struct client *client,
		      const struct head *head, uint32_t status)
{
	if (!client->shown.length) /* nobody watched when it began */
		return false;
	for (size_t i = 0; i < lane->tap_count; i++)
		if (sees(&lane->taps[i], head, status))
			return true;
	return false;
}

static uint32_t who_wants(struct lane *lane, const struct client *client,
			  const struct lane_count *one)
{
	uint32_t wanted = client->made.traced ? LANE_TRACED : 0;

	if (is_logged(lane, one)) {
		if (lane->lines_allowed) {
			lane->lines_allowed--;
			wanted |= LANE_LOGGED;
		} else {
			lane->lost.logged++;
		}
	}
	if (!wanted && !client->shown.length)
		return 0;
	if (lane_scan_request(lane, client->request.at, client->request.length,
			      &lane->recorded) != SCAN_PLAIN)
		return 0; /* it was plain when it came */
	return wanted | (is_tapped(lane, client, &lane->recorded, one->status) ? LANE_TAPPED : 0);
}

static void lose(struct lane *lane, uint32_t wanted)
{
	lane->lost.logged += !!(wanted & LANE_LOGGED);
	lane->lost.tapped += !!(wanted & LANE_TAPPED);
	lane->lost.traced += !!(wanted & LANE_TRACED);
}

/* --- what it says ---------------------------------------------------------------------------- */

/* The values of all fields of a kind, joined in one as render.c does it. */
static struct slice joined(struct lane *lane, const struct head *head, uint8_t kind,
			   const char *between)
{
	struct slice found = { 0 };
	struct bytes *into = &lane->joined[kind == FIELD_STATE];

	into->length = 0;
	for (uint32_t i = 0; i < head->field_count; i++) {
		const struct slice *value = &head->fields[i].value;

		if (head->fields[i].kind != kind)
			continue;
		if (!found.length) {
			found = *value;
			continue;
		}
		/* Without memory the first ones have to do. */
		if (!into->length && !lane_bytes_add(into, found.at, found.length))
			return found;
		if (!lane_bytes_add(into, between, strlen(between)) ||
		    !lane_bytes_add(into, value->at, value->length))
			return found;
		found = (struct slice){ into->at, into->length };
	}
	return found;
}

static struct slice request_id(const struct client *client, const struct head *head)
{
	if (client->made.has_id)
		return (struct slice){ client->made.id, sizeof(client->made.id) };
	for (uint32_t i = 0; i < head->field_count; i++)
		if (head->fields[i].kind == FIELD_REQUEST_ID &&
		    lane_is_request_id(&head->fields[i].value))
			return head->fields[i].value;
	return (struct slice){ 0 };
}

/* The last one counts, as in waypoint.forward_headers. */
static struct slice user_agent(const struct head *head)
{
	for (uint32_t i = head->field_count; i-- > 0;)
		if (head->fields[i].kind == FIELD_USER_AGENT)
			return head->fields[i].value;
	return (struct slice){ 0 };
}

static void fill(struct lane *lane, const struct client *client, const struct head *head,
		 uint32_t wanted, struct slice *strings)
{
	const struct made *made = &client->made;

	memset(strings, 0, LANE_STRINGS * sizeof(*strings));
	strings[LANE_METHOD] = head->method;
	strings[LANE_TARGET] = head->target;
	strings[LANE_HOST] = head->host;
	strings[LANE_REQUEST_ID] = request_id(client, head);
	strings[LANE_USER_AGENT] = user_agent(head);
	strings[LANE_FORWARDED_FOR] = joined(lane, head, FIELD_FORWARDED_FOR, ", ");
	if (made->traced) {
		size_t ids = sizeof(made->trace) + sizeof(made->span);

		/* The three lie behind each other. */
		strings[LANE_TRACE].at = made->trace;
		strings[LANE_TRACE].length = ids + (made->has_parent ? sizeof(made->parent) : 0);
		strings[LANE_STATE] = joined(lane, head, FIELD_STATE, ",");
	}
	if (wanted & LANE_TAPPED)
		strings[LANE_HEAD] = (struct slice){ client->shown.at, client->shown.length };
}

static double epoch(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* Keep a record for Python. */
static bool keep(struct lane *lane, struct lane_record *record, const struct slice *strings)
{
	struct bytes *records = &lane->records;
	size_t size = sizeof(*record);
	bool first = !records->length;
	char *at;

	for (int i = 0; i < LANE_STRINGS; i++) {
		record->lengths[i] = (uint32_t)strings[i].length;
		size += strings[i].length;
	}
	record->size = (uint32_t)size;
	if (lane->records_taken > MAX_RECORD_BYTES / 2) {
		lane_bytes_cut(records, lane->records_taken);
		lane->records_taken = 0;
	}
	if (records->length - lane->records_taken + size > MAX_RECORD_BYTES ||
	    !lane_bytes_need(records, size))
		return false;
	at = records->at + records->length;
	memcpy(at, record, sizeof(*record));
	at += sizeof(*record);
	for (int i = 0; i < LANE_STRINGS; i++) {
		if (strings[i].length)
			memcpy(at, strings[i].at, strings[i].length);
		at += strings[i].length;
	}
	records->length += size;
	if (first)
		lane->calls.recorded(lane->owner);
	return true;
}

static const struct lane_line *line_of(const struct client *client, const struct lane_count *one)
{
	const struct lane_entry *entry = client->entry;

	/* What did not end well is told in other words. */
	return entry->lines && one->failure == LANE_FINE ? entry->lines[client->target_index] : NULL;
}

void lane_record(struct lane *lane, const struct client *client, const struct lane_count *one)
{
	uint32_t wanted = who_wants(lane, client, one);
	struct slice strings[LANE_STRINGS];
	const struct lane_line *line;
	struct lane_record record;

	if (!wanted)
		return;
	record = (struct lane_record){
		.entry = one->entry,
		.target = one->target,
		.origin = client->origin,
		.received = one->received,
		.sent = one->sent,
		.started_at = epoch() - one->seconds,
		.seconds = one->seconds,
		.answered_s = client->answered_at < 0 ? -1 :
							client->answered_at - client->started_at,
		.status = one->status,
		.failure = one->failure,
	};
	fill(lane, client, &lane->recorded, wanted, strings);
	line = wanted & LANE_LOGGED ? line_of(client, one) : NULL;
	if (line) {
		wanted &= ~(uint32_t)LANE_LOGGED;
		if (!lane_write_line(lane, line, &record, strings))
			lane->lost.logged++;
	}
	record.wanted = wanted;
	if (wanted && !keep(lane, &record, strings))
		lose(lane, wanted);
}

/* --- reading --------------------------------------------------------------------------------- */

size_t lane_take_records(struct lane *lane, char *into, size_t room, size_t most)
{
	struct bytes *records = &lane->records;
	size_t taken = 0;

	while (most-- && lane->records_taken < records->length) {
		struct lane_record record;
		const char *at = records->at + lane->records_taken;

		memcpy(&record, at, sizeof(record));
		if (taken + record.size > room && taken)
			break;
		if (record.size > room) {
			lose(lane, record.wanted);
		} else {
			memcpy(into + taken, at, record.size);
			taken += record.size;
		}
		lane->records_taken += record.size;
	}
	if (lane->records_taken == records->length)
		records->length = lane->records_taken = 0;
	return taken;
}

void lane_free_records(struct lane *lane)
{
	lane_bytes_free(&lane->records);
	lane_bytes_free(&lane->lines);
	for (size_t i = 0; i < 2; i++)
		lane_bytes_free(&lane->joined[i]);
	lane->records_taken = 0;
}
