/* SPDX-License-Identifier: Apache-2.0 */
#include "shared.h"

#include <sched.h>
#include <stdbool.h>
#include <string.h>

enum {
	MAX_WORKERS = 64,
	COUNTS = 4096, /* powers of two */
	BUCKETS = 65536,
	WINDOW = 32, /* places that a key may have */
	SPINS = 100000,
	TRIES = 4,
};

static const uint64_t MAGIC = 0x316d656d6e6d7770; /* of this layout */

struct head {
	uint64_t magic;
	uint32_t workers;
	uint32_t lock; /* worker + 1, or 0 */
	char secret[16];
};

struct count {
	uint64_t key;
	uint64_t holders; /* bit per worker */
	int64_t cells[];
};

struct bucket {
	uint64_t key;
	int64_t full_at_ns;
};

static size_t count_bytes(uint32_t workers)
{
	return sizeof(struct count) + workers * sizeof(int64_t);
}

size_t shared_bytes(uint32_t workers)
{
	if (!workers || workers > MAX_WORKERS)
		return 0;
	return sizeof(struct head) + BUCKETS * sizeof(struct bucket) + COUNTS * count_bytes(workers);
}

void shared_init(void *base, uint32_t workers, const char *secret)
{
	struct head *head = base;

	memcpy(head->secret, secret, sizeof(head->secret));
	head->workers = workers;
	head->magic = MAGIC;
}

const char *shared_secret(const void *base)
{
	return ((const struct head *)base)->secret;
}

uint32_t shared_workers(const void *base, size_t bytes)
{
	const struct head *head = base;

	if (bytes < sizeof(*head) || head->magic != MAGIC || !shared_bytes(head->workers) ||
	    bytes < shared_bytes(head->workers))
		return 0;
	return head->workers;
}

static struct bucket *bucket_at(void *base, uint64_t place)
{
	return (struct bucket *)((char *)base + sizeof(struct head)) + place % BUCKETS;
}

/* `workers` is passed on: what another worker may write must not decide where we read. */
static struct count *count_at(const void *base, uint32_t workers, uint64_t place)
{
	size_t start = sizeof(struct head) + BUCKETS * sizeof(struct bucket);

	return (struct count *)((char *)(uintptr_t)base + start +
				place % COUNTS * count_bytes(workers));
}

static uint32_t workers_of(const void *base)
{
	uint32_t workers = ((const struct head *)base)->workers;

	return workers && workers <= MAX_WORKERS ? workers : 1;
}

static bool take_lock(void *base, uint32_t worker)
{
	uint32_t *lock = &((struct head *)base)->lock;

	for (int spin = 0; spin < SPINS; spin++) {
		uint32_t nobody = 0;

		if (__atomic_compare_exchange_n(lock, &nobody, worker + 1, false, __ATOMIC_SEQ_CST,
						__ATOMIC_RELAXED))
			return true;
		sched_yield();
	}
	return false;
}

static void leave_lock(void *base)
{
	__atomic_store_n(&((struct head *)base)->lock, 0, __ATOMIC_SEQ_CST);
}

int32_t shared_find(void *base, uint64_t key, uint32_t worker)
{
	uint32_t workers = workers_of(base);
	int32_t found = -1;

	if (worker >= workers || !take_lock(base, worker))
		return -1;
	for (uint64_t step = 0; step < WINDOW; step++) {
		struct count *count = count_at(base, workers, key + step);
		int32_t place = (int32_t)((key + step) % COUNTS);

		uint64_t holders = __atomic_load_n(&count->holders, __ATOMIC_SEQ_CST);

		if (count->key == key && holders) {
			found = place;
			break;
		}
		if (found < 0 && !holders)
			found = place;
	}
	if (found >= 0) {
		struct count *count = count_at(base, workers, (uint64_t)found);

		count->key = key;
		__atomic_store_n(&count->cells[worker], 0, __ATOMIC_SEQ_CST);
		__atomic_fetch_or(&count->holders, UINT64_C(1) << worker, __ATOMIC_SEQ_CST);
	}
	leave_lock(base);
	return found;
}

void shared_drop(void *base, int32_t place, uint32_t worker)
{
	uint32_t workers = workers_of(base);
	struct count *count;

	if (place < 0 || worker >= workers)
		return;
	count = count_at(base, workers, (uint64_t)place);
	__atomic_store_n(&count->cells[worker], 0, __ATOMIC_SEQ_CST);
	if (!take_lock(base, worker))
		return; /* the place is lost until the worker ends */
	__atomic_fetch_and(&count->holders, ~(UINT64_C(1) << worker), __ATOMIC_SEQ_CST);
	leave_lock(base);
}

int64_t shared_sum(const void *base, int32_t place)
{
	uint32_t workers = workers_of(base);
	struct count *count = count_at(base, workers, (uint64_t)place);
	uint64_t sum = 0; /* of numbers that another worker may have made up */

	for (uint32_t worker = 0; worker < workers; worker++)
		sum += (uint64_t)__atomic_load_n(&count->cells[worker], __ATOMIC_SEQ_CST);
	return (int64_t)sum;
}

int shared_add(void *base, int32_t place, uint32_t worker, int64_t most)
{
	struct count *count = count_at(base, workers_of(base), (uint64_t)place);

	/* Two that meet at the last place may both step back: then they try again. */
	for (int try = 0; try < TRIES; try++) {
		int64_t sum;

		__atomic_fetch_add(&count->cells[worker], 1, __ATOMIC_SEQ_CST);
		sum = shared_sum(base, place);
		if (sum <= most)
			return 1;
		__atomic_fetch_sub(&count->cells[worker], 1, __ATOMIC_SEQ_CST);
		if (shared_sum(base, place) >= most)
			return 0;
	}
	return 0;
}

void shared_sub(void *base, int32_t place, uint32_t worker, int64_t many)
{
	struct count *count = count_at(base, workers_of(base), (uint64_t)place);

	__atomic_fetch_sub(&count->cells[worker], many, __ATOMIC_SEQ_CST);
}

uint32_t shared_forget(void *base, uint32_t worker)
{
	uint32_t workers = workers_of(base), held = 0, mine = worker + 1;

	if (worker >= workers)
		return 0;
	__atomic_compare_exchange_n(&((struct head *)base)->lock, &mine, 0, false, __ATOMIC_SEQ_CST,
				    __ATOMIC_RELAXED);
	for (uint64_t place = 0; place < COUNTS; place++) {
		struct count *count = count_at(base, workers, place);
		uint64_t bit = UINT64_C(1) << worker;

		__atomic_store_n(&count->cells[worker], 0, __ATOMIC_SEQ_CST);
		if (__atomic_fetch_and(&count->holders, ~bit, __ATOMIC_SEQ_CST) & bit)
			held++;
	}
	return held;
}

/* The bucket of a key; of a new one the first that is full, else the one that is full soonest. */
static struct bucket *find_bucket(void *base, uint64_t key, int64_t now_ns)
{
	for (int try = 0; try < TRIES; try++) {
		struct bucket *best = bucket_at(base, key);
		int64_t soonest = INT64_MAX;
		uint64_t old;

		for (uint64_t step = 0; step < WINDOW; step++) {
			struct bucket *bucket = bucket_at(base, key + step);
			int64_t full_at_ns;

			if (__atomic_load_n(&bucket->key, __ATOMIC_ACQUIRE) == key)
				return bucket;
			full_at_ns = __atomic_load_n(&bucket->full_at_ns, __ATOMIC_RELAXED);
			if (soonest > now_ns && full_at_ns < soonest) {
				soonest = full_at_ns;
				best = bucket;
			}
		}
		old = __atomic_load_n(&best->key, __ATOMIC_ACQUIRE);
		if (__atomic_compare_exchange_n(&best->key, &old, key, false, __ATOMIC_SEQ_CST,
						__ATOMIC_RELAXED)) {
			if (soonest > now_ns) /* nobody's was full: it starts anew */
				__atomic_store_n(&best->full_at_ns, 0, __ATOMIC_SEQ_CST);
			return best;
		}
	}
	return bucket_at(base, key);
}

static int64_t ahead_of(int64_t full_at_ns, int64_t now_ns)
{
	int64_t ahead = full_at_ns > now_ns ? full_at_ns - now_ns : 0;

	return ahead < INT64_MAX / 4 ? ahead : INT64_MAX / 4;
}

int64_t shared_take(void *base, uint64_t key, int64_t cost_ns, int64_t depth_ns, int64_t now_ns)
{
	struct bucket *bucket = find_bucket(base, key, now_ns);
	int64_t full_at_ns = __atomic_load_n(&bucket->full_at_ns, __ATOMIC_ACQUIRE);

	for (;;) {
		int64_t ahead = ahead_of(full_at_ns, now_ns);

		if (ahead > depth_ns - cost_ns)
			return depth_ns - cost_ns - ahead;
		if (__atomic_compare_exchange_n(&bucket->full_at_ns, &full_at_ns,
						now_ns + ahead + cost_ns, false, __ATOMIC_ACQ_REL,
						__ATOMIC_ACQUIRE))
			return depth_ns - cost_ns - ahead;
	}
}

int64_t shared_charge(void *base, uint64_t key, int64_t cost_ns, int64_t now_ns)
{
	struct bucket *bucket = find_bucket(base, key, now_ns);
	int64_t full_at_ns = __atomic_load_n(&bucket->full_at_ns, __ATOMIC_ACQUIRE);

	for (;;) {
		int64_t ahead = ahead_of(full_at_ns, now_ns);

		if (__atomic_compare_exchange_n(&bucket->full_at_ns, &full_at_ns,
						now_ns + ahead + cost_ns, false, __ATOMIC_ACQ_REL,
						__ATOMIC_ACQUIRE))
			return ahead + cost_ns;
	}
}
