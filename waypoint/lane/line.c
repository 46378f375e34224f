/* SPDX-License-Identifier: Apache-2.0 */
/* Lines of the access log. What they say and in which order is mesh.telemetry.request_log's; here
 * only the values of one request are put between its words. */
#include "internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

struct lane_line *lane_add_line(struct lane *lane, const char *text, size_t length,
				const uint32_t *ends, const uint32_t *slots, size_t count)
{
	struct lane_line *line = calloc(1, sizeof(*line) + length);

	if (!line)
		return NULL;
	line->ends = calloc(2 * count, sizeof(*ends));
	if (!line->ends) {
		free(line);
		return NULL;
	}
	line->slots = line->ends + count;
	line->count = count;
	memcpy(line->text, text, length);
	memcpy(line->ends, ends, count * sizeof(*ends));
	memcpy(line->slots, slots, count * sizeof(*slots));
	line->next = lane->known_lines;
	lane->known_lines = line;
	return line;
}

void lane_use_line(struct lane_entry *entry, uint64_t target, const struct lane_line *line)
{
	if (!entry->lines && entry->target_count)
		entry->lines = calloc(entry->target_count, sizeof(line));
	for (size_t i = 0; entry->lines && i < entry->target_count; i++)
		if (entry->targets[i]->id == target)
			entry->lines[i] = line;
}

/* No entry names any of them any more. */
void lane_forget_lines(struct lane *lane)
{
	while (lane->known_lines) {
		struct lane_line *line = lane->known_lines;

		lane->known_lines = line->next;
		free(line->ends);
		free(line);
	}
}

void lane_style_lines(struct lane *lane, const struct lane_line_style *style)
{
	lane->style = *style;
}

size_t lane_take_lines(struct lane *lane, const char **lines)
{
	struct bytes taken = lane->lines;

	lane->lines = lane->lines_taken;
	lane->lines.length = 0;
	lane->lines_taken = taken;
	*lines = taken.at;
	return taken.length;
}

/* --- values ---------------------------------------------------------------------------------- */

static const char digits[] = "0123456789abcdef";

/* As json.dumps does it: every byte is a character of Latin-1. */
static char *put_escaped(char *at, const struct slice *value)
{
	for (size_t i = 0; i < value->length; i++) {
		uint8_t byte = (uint8_t)value->at[i];

		if (byte >= 0x20 && byte < 0x7f && byte != '"' && byte != '\\') {
			*at++ = (char)byte;
		} else if (byte == '"' || byte == '\\' || byte == '\t') {
			*at++ = '\\';
			*at++ = byte == '\t' ? 't' : (char)byte;
		} else {
			memcpy(at, "\\u00", 4);
			at[4] = digits[byte >> 4];
			at[5] = digits[byte & 15];
			at += 6;
		}
	}
	return at;
}

static char *put_number(char *at, uint64_t number)
{
	char reversed[20];
	size_t length = 0;

	do
		reversed[length++] = (char)('0' + number % 10);
	while (number /= 10);
	while (length)
		*at++ = reversed[--length];
	return at;
}

/* Milliseconds, rounded as Python does it: to the nearest, of two the even one. */
static char *put_milliseconds(const struct lane *lane, char *at, double seconds)
{
	double thousand = seconds * 1000;

	if (!lane->style.decimals)
		return put_number(at, (uint64_t)llrint(thousand < 0 ? 0 : thousand));
	at += sprintf(at, "%.*f", (int)lane->style.decimals, thousand);
	while (at[-1] == '0' && at[-2] != '.')
		at--;
	return at;
}

static char *put_instant(struct lane *lane, char *at, double instant)
{
	double second = floor(instant);
	long micros = lrint((instant - second) * 1e6);

	if (micros >= 1000000) {
		second++;
		micros -= 1000000;
	}
	if (second != lane->second) {
		time_t whole = (time_t)second;
		struct tm parts;

		gmtime_r(&whole, &parts);
		strftime(lane->second_text, sizeof(lane->second_text), "%Y-%m-%dT%H:%M:%S.", &parts);
		lane->second = second;
	}
	memcpy(at, lane->second_text, 20);
	at[20] = (char)('0' + micros / 100000);
	at[21] = (char)('0' + micros / 10000 % 10);
	at[22] = (char)('0' + micros / 1000 % 10);
	at[23] = 'Z';
	return at + 24;
}

static char *put_text(const struct lane *lane, char *at, const struct slice *value)
{
	if (value->length)
		return put_escaped(at, value);
	if (lane->style.dash)
		*at++ = '-';
	return at;
}

static char *put_slot(struct lane *lane, char *at, uint32_t slot, const struct lane_record *record,
		      const struct slice *strings)
{
	switch ((enum lane_slot)slot) {
	case LANE_SLOT_START: return put_instant(lane, at, record->started_at);
	case LANE_SLOT_METHOD: return put_text(lane, at, &strings[LANE_METHOD]);
	case LANE_SLOT_TARGET: return put_text(lane, at, &strings[LANE_TARGET]);
	case LANE_SLOT_HOST: return put_text(lane, at, &strings[LANE_HOST]);
	case LANE_SLOT_REQUEST_ID: return put_text(lane, at, &strings[LANE_REQUEST_ID]);
	case LANE_SLOT_USER_AGENT: return put_text(lane, at, &strings[LANE_USER_AGENT]);
	case LANE_SLOT_FORWARDED_FOR:
		at = put_escaped(at, &strings[LANE_FORWARDED_FOR]);
		if (strings[LANE_FORWARDED_FOR].length) {
			*at++ = ',';
			*at++ = ' ';
		}
		return at;
	case LANE_SLOT_STATUS: return put_number(at, record->status);
	case LANE_SLOT_RECEIVED: return put_number(at, record->received);
	case LANE_SLOT_SENT: return put_number(at, record->sent);
	case LANE_SLOT_SECONDS: return put_milliseconds(lane, at, record->seconds);
	case LANE_SLOT_ANSWERED: return put_milliseconds(lane, at, record->answered_s);
	case LANE_SLOT_END: break;
	}
	return at;
}

bool lane_write_line(struct lane *lane, const struct lane_line *line,
		     const struct lane_record *record, const struct slice *strings)
{
	struct bytes *lines = &lane->lines;
	size_t most = line->ends[line->count - 1] + line->count * 64;
	bool first = !lines->length;
	uint32_t begin = 0;
	char *at;

	for (int i = 0; i < LANE_HEAD; i++)
		most += 6 * strings[i].length; /* if every byte of it is escaped */
	if (lines->length + most > MAX_LINE_BYTES || !lane_bytes_need(lines, most))
		return false;
	at = lines->at + lines->length;
	for (size_t i = 0; i < line->count; i++) {
		memcpy(at, line->text + begin, line->ends[i] - begin);
		at += line->ends[i] - begin;
		begin = line->ends[i];
		at = put_slot(lane, at, line->slots[i], record, strings);
	}
	*at++ = '\n';
	lines->length = (size_t)(at - lines->at);
	if (first)
		lane->calls.recorded(lane->owner);
	return true;
}

/* --- for tests ------------------------------------------------------------------------------- */

size_t lane_render_line(struct lane *lane, const struct lane_line *line, const char *record,
			char *into, size_t room)
{
	struct slice strings[LANE_STRINGS];
	struct lane_record fixed;
	const char *at = record + sizeof(fixed), *lines;
	size_t length;

	memcpy(&fixed, record, sizeof(fixed));
	for (int i = 0; i < LANE_STRINGS; i++) {
		strings[i] = (struct slice){ at, fixed.lengths[i] };
		at += fixed.lengths[i];
	}
	if (!lane_write_line(lane, line, &fixed, strings))
		return 0;
	length = lane_take_lines(lane, &lines);
	if (length > room)
		return 0;
	memcpy(into, lines, length);
	return length;
}
