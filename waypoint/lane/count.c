/* SPDX-License-Identifier: Apache-2.0 */
/* What became of requests, in numbers. */
#include "internal.h"

#include <stdlib.h>

static size_t bucket(const struct lane *lane, double value)
{
	size_t found = 0;

	while (found < lane->bound_count && lane->bounds[found] < value)
		found++;
	return found;
}

static struct tally *add_tally(struct lane *lane, struct lane_entry *entry, size_t index,
			       const struct lane_count *one)
{
	struct tally *tally = calloc(1, sizeof(*tally));

	if (!tally)
		return NULL;
	tally->count.entry = one->entry;
	tally->count.target = one->target;
	tally->count.status = one->status;
	tally->count.failure = one->failure;
	tally->index = index;
	tally->next = entry->tallies;
	entry->tallies = tally;
	tally->same = entry->by_target[index];
	entry->by_target[index] = tally;
	if (!entry->counted) {
		entry->counted = true;
		entry->next_counted = lane->counted;
		lane->counted = entry;
	}
	return tally;
}

void lane_count_end(struct lane *lane, struct lane_entry *entry, size_t index,
		    const struct lane_count *one)
{
	struct tally *tally = entry->by_target[index];

	while (tally && (tally->count.status != one->status || tally->count.failure != one->failure))
		tally = tally->same;
	if (!tally)
		tally = add_tally(lane, entry, index, one);
	if (!tally)
		return;
	tally->count.count++;
	tally->count.received += one->received;
	tally->count.sent += one->sent;
	tally->count.seconds += one->seconds;
	tally->count.buckets[bucket(lane, one->seconds * 1e3)]++;
	tally->count.received_buckets[bucket(lane, (double)one->received)]++;
	tally->count.sent_buckets[bucket(lane, (double)one->sent)]++;
}

static size_t take_of(struct lane_entry *entry, struct lane_count *into, size_t room)
{
	size_t taken = 0;

	while (entry->tallies && taken < room) {
		struct tally *tally = entry->tallies;

		into[taken++] = tally->count;
		entry->tallies = tally->next;
		entry->by_target[tally->index] = NULL;
		free(tally);
	}
	return taken;
}

size_t lane_take(struct lane *lane, struct lane_count *into, size_t room)
{
	size_t taken = 0;

	while (lane->counted && taken < room) {
		struct lane_entry *entry = lane->counted;

		taken += take_of(entry, into + taken, room - taken);
		if (entry->tallies)
			break;
		lane->counted = entry->next_counted;
		entry->counted = false;
	}
	return taken;
}
