/* SPDX-License-Identifier: Apache-2.0 */
/* The lane itself: one epoll set, writes in a row at the end of each turn, and what is overdue. */
#include "internal.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { EVENTS = 128, UNWATCHED = 1u << 31 };

double lane_clock(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* xorshift128+: for request ids and the choice of endpoints, not for secrets. */
uint64_t lane_random(struct lane *lane)
{
	uint64_t one = lane->random[0], two = lane->random[1];

	lane->random[0] = two;
	one ^= one << 23;
	lane->random[1] = one ^ two ^ (one >> 18) ^ (two >> 5);
	return lane->random[1] + two;
}

struct lane *lane_new(const struct lane_limits *limits, const struct lane_calls *calls,
		      const double *bounds, size_t bound_count, void *owner)
{
	struct lane *lane = calloc(1, sizeof(*lane));

	if (!lane)
		return NULL;
	lane->limits = *limits;
	lane->crowd = &lane->alone;
	lane->crowd_count = 1;
	lane->calls = *calls;
	lane->owner = owner;
	lane->queued_end = &lane->queued;
	lane->bound_count = bound_count < BUCKETS ? bound_count : BUCKETS - 1;
	for (size_t i = 0; i < lane->bound_count; i++)
		lane->bounds[i] = bounds[i];
	lane->now = lane_clock();
	lane->world = 1;
	lane->watch.sampling = -1;
	lane->poller = epoll_create1(EPOLL_CLOEXEC);
	if (lane->poller < 0 ||
	    getrandom(&lane->seed, sizeof(lane->seed), 0) != sizeof(lane->seed) ||
	    getrandom(lane->random, sizeof(lane->random), 0) != sizeof(lane->random)) {
		if (lane->poller >= 0)
			close(lane->poller);
		free(lane);
		return NULL;
	}
	return lane;
}

int lane_descriptor(const struct lane *lane)
{
	return lane->poller;
}

size_t lane_clients(const struct lane *lane)
{
	return lane->client_count;
}

uint64_t lane_taken(const struct lane *lane)
{
	return lane->taken;
}

void lane_join(struct lane *lane, uint32_t *crowd, size_t count, size_t own)
{
	crowd[own] = lane->crowd[lane->own];
	lane->crowd = crowd;
	lane->crowd_count = count;
	lane->own = own;
}

bool lane_is_full(const struct lane *lane)
{
	uint32_t size = 0;

	for (size_t i = 0; i < lane->crowd_count; i++)
		size += lane->crowd[i];
	return size >= lane->limits.requests;
}

/* --- links ----------------------------------------------------------------------------------- */

/* Wait for these events; for none at all, not even an end, with `UNWATCHED`. */
bool lane_watch(struct lane *lane, struct link *link, uint32_t events)
{
	struct epoll_event event = { .events = events, .data.ptr = link };
	int action = link->watched == UNWATCHED ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;

	if (events == link->watched)
		return true;
	link->watched = events;
	if (events == UNWATCHED)
		action = EPOLL_CTL_DEL;
	return epoll_ctl(lane->poller, action, link->fd, &event) == 0;
}

void lane_link_open(struct lane *lane, struct link *link, enum kind kind, int fd)
{
	link->kind = kind;
	link->fd = fd;
	link->watched = UNWATCHED;
	link->idle_since = lane->now;
	link->next = lane->links;
	if (lane->links)
		lane->links->previous = link;
	lane->links = link;
}

/* The struct lives until the end of the turn: events and the queue may still name it. */
int lane_link_release(struct lane *lane, struct link *link)
{
	int fd = link->fd;

	lane_watch(lane, link, UNWATCHED);
	if (link->previous)
		link->previous->next = link->next;
	else
		lane->links = link->next;
	if (link->next)
		link->next->previous = link->previous;
	link->fd = -1;
	link->dead = true;
	link->next_dead = lane->dead;
	lane->dead = link;
	lane_bytes_free(&link->out);
	return fd;
}

void lane_queue(struct lane *lane, struct link *link)
{
	if (link->queued)
		return;
	link->queued = true;
	link->next_queued = NULL;
	*lane->queued_end = link;
	lane->queued_end = &link->next_queued;
}

/* Send what there is. False: the peer is gone. */
bool lane_flush(struct lane *lane, struct link *link)
{
	bool moved = !link->stuck_since;

	while (link->sent < link->out.length) {
		ssize_t sent = send(link->fd, link->out.at + link->sent,
				    link->out.length - link->sent, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (sent < 0 && errno == EINTR)
			continue;
		if (sent < 0 && errno == EAGAIN)
			break;
		if (sent < 0)
			return false;
		link->sent += (size_t)sent;
		moved = true;
	}
	if (link->sent < link->out.length) {
		if (moved)
			link->stuck_since = lane->now;
		return lane_watch(lane, link, (link->watched & EPOLLIN) | EPOLLOUT);
	}
	lane_bytes_free(&link->out);
	link->sent = 0;
	link->stuck_since = 0;
	if (link->watched & EPOLLOUT && link->watched != UNWATCHED)
		lane_watch(lane, link, link->watched & ~(uint32_t)EPOLLOUT);
	return true;
}

static void flush_link(struct lane *lane, struct link *link)
{
	bool alive = lane_flush(lane, link);

	if (link->kind == SERVER) {
		struct server *server = (struct server *)link;

		if (!alive) { /* an answer may have come before; then its end is read */
			server->broken = true;
			lane_bytes_free(&link->out);
			link->sent = 0;
			if (!server->client)
				lane_server_close(lane, server);
			else if (!server->in_body)
				lane_watch(lane, link, EPOLLIN);
		}
		return;
	}
	if (!alive)
		lane_client_abandon(lane, (struct client *)link, LANE_CLIENT_GONE);
	else
		lane_client_written(lane, (struct client *)link);
}

static bool is_overdue(const struct lane *lane, const struct client *client)
{
	const struct link *link = &client->link;
	double idle_s = client->lingering ? lane->limits.linger_s : lane->limits.client_idle_s;

	return !client->entry && link->idle_since + idle_s < lane->now;
}

static bool is_stuck(const struct lane *lane, const struct link *link)
{
	return link->stuck_since && link->stuck_since + lane->limits.write_s < lane->now;
}

static void free_client(struct client *client)
{
	lane_bytes_free(&client->request);
	lane_bytes_free(&client->shown);
}

static void free_dead(struct lane *lane)
{
	while (lane->dead) {
		struct link *link = lane->dead;

		lane->dead = link->next_dead;
		if (link->kind == CLIENT)
			free_client((struct client *)link);
		else
			lane_bytes_free(&((struct server *)link)->in);
		free(link);
	}
}

void lane_settle(struct lane *lane)
{
	while (lane->queued) {
		struct link *link = lane->queued;

		lane->queued = link->next_queued;
		if (!lane->queued)
			lane->queued_end = &lane->queued;
		link->queued = false;
		if (!link->dead)
			flush_link(lane, link);
	}
	free_dead(lane);
}

/* --- turns ----------------------------------------------------------------------------------- */

void lane_poll(struct lane *lane)
{
	struct epoll_event events[EVENTS];
	int count = epoll_wait(lane->poller, events, EVENTS, 0);

	lane->now = lane_clock();
	/* First of all close idle connections that have something to say: taken for an answer it
	 * would belong to a request of this very turn. */
	for (int i = 0; i < count; i++) {
		struct link *link = events[i].data.ptr;

		if (link->kind == SERVER && !link->dead && !((struct server *)link)->client)
			lane_server_ready(lane, (struct server *)link, events[i].events);
	}
	for (int i = 0; i < count; i++) {
		struct link *link = events[i].data.ptr;

		if (link->dead)
			continue;
		if (link->kind == CLIENT)
			lane_client_ready(lane, (struct client *)link, events[i].events);
		else
			lane_server_ready(lane, (struct server *)link, events[i].events);
	}
	lane_settle(lane);
}

void lane_tick(struct lane *lane)
{
	struct link *link, *next;

	lane->now = lane_clock();
	for (link = lane->links; link; link = next) {
		next = link->next;
		if (link->dead) /* with the one before it; its own `next` still holds */
			continue;
		if (link->kind == CLIENT) {
			struct client *client = (struct client *)link;

			if (is_stuck(lane, link))
				lane_client_abandon(lane, client, LANE_CLIENT_STUCK);
			else if (is_overdue(lane, client))
				lane_client_close(lane, client);
		} else {
			struct server *server = (struct server *)link;

			if (!server->client &&
			    link->idle_since + lane->limits.server_idle_s < lane->now)
				lane_server_close(lane, server);
		}
	}
	lane_sweep(lane);
	lane_settle(lane);
}

void lane_pause(struct lane *lane, int paused)
{
	lane->paused = paused;
}

void lane_drain(struct lane *lane)
{
	struct link *link, *next;

	lane->draining = true;
	for (link = lane->links; link; link = next) {
		struct client *client = (struct client *)link;

		next = link->next;
		if (link->kind != CLIENT)
			continue;
		client->keep_alive = false;
		if (client->entry)
			continue;
		client->closing = true;
		if (!link->out.length)
			lane_client_close(lane, client);
	}
	lane_settle(lane);
}

void lane_cut(struct lane *lane)
{
	lane->now = lane_clock();
	while (lane->links) {
		struct link *link = lane->links;
		struct server *server = (struct server *)link;

		if (link->kind == CLIENT)
			lane_client_abandon(lane, (struct client *)link, LANE_CLIENT_GONE);
		else if (server->client)
			lane_client_abandon(lane, server->client, LANE_CLIENT_GONE);
		else
			lane_server_close(lane, server);
	}
	lane_settle(lane);
}

void lane_free(struct lane *lane)
{
	lane_cut(lane);
	lane_forget(lane);
	while (lane->targets) {
		struct lane_target *target = lane->targets;

		lane->targets = target->next;
		free(target);
	}
	while (lane->retired) {
		struct lane_count count;

		while (lane_take(lane, &count, 1))
			;
		lane_sweep(lane);
	}
	lane_bytes_free(&lane->sent);
	lane_free_records(lane);
	close(lane->poller);
	free(lane);
}
