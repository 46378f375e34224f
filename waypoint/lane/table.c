/* SPDX-License-Identifier: Apache-2.0 */
/* What is known: callers, the decisions about their requests, and endpoints. */
#include "internal.h"

#include <stdlib.h>

/* The seed is the lane's own: clients choose the keys, and must not make them meet. */
static uint32_t hash_of(uint64_t seed, const char *key, size_t length)
{
	uint64_t hash = seed ^ length;

	while (length >= 8) {
		uint64_t word;

		memcpy(&word, key, 8);
		hash = (hash ^ word) * 0x9e3779b97f4a7c15u;
		hash ^= hash >> 32;
		key += 8;
		length -= 8;
	}
	for (size_t i = 0; i < length; i++)
		hash = (hash ^ (uint8_t)key[i]) * 0x100000001b3u;
	return (uint32_t)(hash ^ (hash >> 32));
}

static bool key_add(char *key, size_t *used, const char *data, size_t length, char end)
{
	if (*used + length + 1 > MAX_KEY)
		return false;
	memcpy(key + *used, data, length);
	*used += length;
	key[(*used)++] = end;
	return true;
}

/* Method, path, host and the fields that policy or routes look at; 0: too long. No part can hold
 * the byte that ends it. */
size_t lane_key(const struct lane_caller *caller, const struct head *head, char *key)
{
	const char *query = memchr(head->target.at, '?', head->target.length);
	size_t path = query && !caller->key_query ? (size_t)(query - head->target.at) :
						    head->target.length;
	size_t used = 0;

	if (!key_add(key, &used, head->method.at, head->method.length, ' ') ||
	    !key_add(key, &used, head->target.at, path, ' ') ||
	    !key_add(key, &used, head->host.at, head->host.length, '\n'))
		return 0;
	for (size_t name = 0; name < caller->name_count; name++) {
		for (uint32_t i = 0; i < head->field_count; i++) {
			const struct field *field = &head->fields[i];

			if (!lane_name_is(&field->name, caller->names[name].at))
				continue;
			if (!key_add(key, &used, field->value.at, field->value.length, '\r'))
				return 0;
		}
		if (!key_add(key, &used, "", 0, '\n'))
			return 0;
	}
	return used;
}

struct lane_entry *lane_find(struct lane_caller *caller, const char *key, size_t length)
{
	uint32_t hash = hash_of(caller->lane->seed, key, length);
	struct lane_entry *entry = caller->chains[hash % 256];

	for (; entry; entry = entry->next)
		if (entry->hash == hash && entry->key_length == length &&
		    !memcmp(entry->key, key, length))
			return entry;
	return NULL;
}

struct lane_caller *lane_add_caller(struct lane *lane, const char *address, size_t address_length,
				    const char *identity, size_t identity_length)
{
	struct lane_caller *caller = calloc(1, sizeof(*caller));

	if (!caller)
		return NULL;
	caller->lane = lane;
	caller->next = lane->callers;
	lane->callers = caller;
	lane_bytes_add(&caller->address, address, address_length);
	lane_bytes_add(&caller->identity, identity, identity_length);
	return caller;
}

void lane_key_header(struct lane_caller *caller, const char *name, size_t length)
{
	struct bytes *into;

	if (caller->name_count == MAX_KEY_HEADERS)
		return; /* Python does not ask for more */
	into = &caller->names[caller->name_count++];
	lane_bytes_add(into, name, length);
	lane_bytes_add(into, "", 1);
}

void lane_key_query(struct lane_caller *caller)
{
	caller->key_query = true;
}

/* Keys are the clients' own words: how much is kept of them must have an end. */
static size_t cost(size_t key_length, size_t target_count)
{
	return ENTRY_BYTES + key_length + 3 * target_count * sizeof(void *);
}

static void retire(struct lane *lane, struct lane_entry *entry)
{
	lane->known_bytes -= cost(entry->key_length, entry->target_count);
	for (size_t i = 0; i < entry->target_count; i++) {
		entry->targets[i]->entries--;
		lane_target_settle(entry->targets[i]);
	}
	entry->target_count = 0;
	free(entry->lines);
	entry->lines = NULL;
	entry->older = lane->retired;
	lane->retired = entry;
}

static void forget_entries(struct lane_caller *caller)
{
	for (size_t i = 0; i < 256; i++) {
		struct lane_entry *entry = caller->chains[i];

		while (entry) {
			struct lane_entry *next = entry->next;

			retire(caller->lane, entry);
			entry = next;
		}
		caller->chains[i] = NULL;
	}
	caller->entry_count = 0;
}

static void free_entry(struct lane_entry *entry)
{
	free(entry->targets);
	free(entry->by_target);
	free(entry->lines);
	free(entry);
}

struct lane_entry *lane_add_entry(struct lane_caller *caller, const char *key, size_t key_length,
				  uint64_t id, struct lane_target **targets, size_t count)
{
	size_t size = sizeof(struct lane_entry) + key_length, bytes = cost(key_length, count);
	struct lane *lane = caller->lane;
	struct lane_entry *entry, **chain;

	if (caller->entry_count >= MAX_ENTRIES)
		forget_entries(caller);
	if (lane->known_bytes + bytes > MAX_KNOWN_BYTES)
		for (struct lane_caller *each = lane->callers; each; each = each->next)
			forget_entries(each);
	entry = calloc(1, size);
	if (!entry)
		return NULL;
	entry->targets = calloc(count, sizeof(*targets));
	entry->by_target = calloc(count, sizeof(*entry->by_target));
	if (!entry->targets || !entry->by_target) {
		free_entry(entry);
		return NULL;
	}
	entry->id = id;
	entry->hash = hash_of(lane->seed, key, key_length);
	entry->key_length = key_length;
	memcpy(entry->key, key, key_length);
	entry->target_count = count;
	for (size_t i = 0; i < count; i++) {
		entry->targets[i] = targets[i];
		targets[i]->entries++;
	}
	chain = &caller->chains[entry->hash % 256];
	entry->next = *chain;
	*chain = entry;
	caller->entry_count++;
	lane->known_bytes += bytes;
	return entry;
}

void lane_forget(struct lane *lane)
{
	struct lane_caller *caller = lane->callers;

	lane->world++;
	lane->callers = NULL;
	while (caller) {
		struct lane_caller *next = caller->next;

		forget_entries(caller);
		lane_bytes_free(&caller->address);
		lane_bytes_free(&caller->identity);
		for (size_t i = 0; i < caller->name_count; i++)
			lane_bytes_free(&caller->names[i]);
		free(caller);
		caller = next;
	}
	lane_forget_lines(lane);
}

/* --- endpoints ------------------------------------------------------------------------------- */

struct lane_target *lane_add_target(struct lane *lane, uint64_t id)
{
	struct lane_target *target = calloc(1, sizeof(*target));

	if (!target)
		return NULL;
	target->lane = lane;
	target->id = id;
	target->waiting_end = &target->waiting;
	target->next = lane->targets;
	lane->targets = target;
	return target;
}

int lane_target_in_use(const struct lane_target *target)
{
	return target->active || target->dials || target->servers || target->entries;
}

/* Free a target that Python gave up, once nothing refers to it. */
void lane_target_settle(struct lane_target *target)
{
	struct lane_target **link = &target->lane->targets;

	if (!target->dropped || lane_target_in_use(target))
		return;
	while (*link && *link != target)
		link = &(*link)->next;
	if (*link)
		*link = target->next;
	free(target);
}

void lane_drop_target(struct lane_target *target)
{
	struct lane *lane = target->lane;

	target->dropped = true;
	target->dials++; /* keeps it while its connections are closed */
	while (target->idle)
		lane_server_close(lane, target->idle);
	target->dials--;
	lane_target_settle(target);
	lane_settle(lane);
}

uint32_t lane_target_active(const struct lane_target *target)
{
	return target->active;
}

void lane_target_elsewhere(struct lane_target *target, uint32_t active)
{
	target->elsewhere = active;
}

static uint32_t load(const struct lane_target *target)
{
	return target->active + target->elsewhere;
}

uint32_t lane_target_idle(const struct lane_target *target)
{
	return target->idle_count;
}

/* The less loaded of two at random; NULL: leave it to Python. */
struct lane_target *lane_pick(struct lane *lane, const struct lane_entry *entry, size_t *index)
{
	struct lane_target *one = entry->targets[0], *other;

	*index = 0;

	if (entry->target_count > 1) {
		uint64_t random = lane_random(lane);
		size_t first = (uint32_t)random % entry->target_count;
		size_t second = (random >> 32) % (entry->target_count - 1);

		second += second >= first;
		one = entry->targets[*index = first];
		other = entry->targets[second];
		if (load(other) < load(one))
			one = entry->targets[*index = second];
	}
	return load(one) < lane->limits.target_requests ? one : NULL;
}

size_t lane_known_bytes(const struct lane *lane)
{
	return lane->known_bytes;
}

/* Free retired entries that nobody uses and that were counted to the end. */
void lane_sweep(struct lane *lane)
{
	struct lane_entry **link = &lane->retired;

	while (*link) {
		struct lane_entry *entry = *link;

		if (entry->users || entry->counted) {
			link = &entry->older;
			continue;
		}
		*link = entry->older;
		lane->calls.gone(lane->owner, entry->id);
		free_entry(entry);
	}
}
