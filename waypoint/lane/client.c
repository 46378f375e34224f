/* SPDX-License-Identifier: Apache-2.0 */
/* Connections of clients: one request at a time, each of them whole in one read. */
#include "internal.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

int lane_serve(struct lane *lane, int fd, uint64_t origin, const char *data, size_t length)
{
	struct client *client = calloc(1, sizeof(*client));
	int on = 1;

	if (!client)
		return -1;
	/* The end of a long answer must not wait for an acknowledgement; a tunnel's is no TCP. */
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	lane->now = lane_clock();
	client->origin = origin;
	client->keep_alive = true;
	lane_link_open(lane, &client->link, CLIENT, fd);
	lane->client_count++;
	if (!lane_watch(lane, &client->link, EPOLLIN)) {
		lane->client_count--;
		lane_link_release(lane, &client->link); /* the descriptor stays the caller's */
		lane_settle(lane);
		return -1;
	}
	if (length)
		lane_client_read(lane, client, data, length);
	lane_settle(lane);
	return 0;
}

/* --- ends ------------------------------------------------------------------------------------ */

static void stop_waiting(struct client *client)
{
	struct client **link = &client->target->waiting;

	while (*link && *link != client)
		link = &(*link)->next_waiting;
	if (!*link)
		return;
	*link = client->next_waiting;
	if (!*link)
		client->target->waiting_end = link;
}

/* The request under way is over, however it ended. */
static void leave(struct lane *lane, struct client *client)
{
	struct lane_target *target = client->target;

	stop_waiting(client);
	client->entry->users--;
	client->entry = NULL;
	client->target = NULL;
	client->server = NULL;
	lane->crowd[lane->own]--;
	target->active--;
	lane_target_settle(target);
	lane_bytes_free(&client->request);
	lane_bytes_free(&client->shown);
}

static void count(struct lane *lane, const struct client *client, enum lane_failure failure)
{
	struct lane_count one = {
		.entry = client->entry->id,
		.target = client->target->id,
		.status = client->status,
		.failure = failure,
		.received = client->received,
		.sent = client->sent,
		.seconds = lane->now - client->started_at,
	};

	lane_count_end(lane, client->entry, client->target_index, &one);
	lane_record(lane, client, &one);
}

void lane_client_close(struct lane *lane, struct client *client)
{
	lane->client_count--;
	close(lane_link_release(lane, &client->link));
	lane->calls.closed(lane->owner, client->origin);
}

/* The client is gone or must notice that its answer cannot be completed. */
void lane_client_abandon(struct lane *lane, struct client *client, enum lane_failure failure)
{
	struct server *server = client->server;

	if (client->entry) {
		count(lane, client, failure);
		leave(lane, client);
	}
	if (server) {
		server->client = NULL;
		lane_server_close(lane, server);
	}
	lane_client_close(lane, client);
}

/* The same of a request that somebody else tells of; the client must not take it for an end. */
void lane_client_cut(struct lane *lane, struct client *client)
{
	struct linger reset = { .l_onoff = 1 };
	struct server *server = client->server;

	leave(lane, client);
	server->client = NULL;
	lane_server_close(lane, server);
	setsockopt(client->link.fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
	lane_client_close(lane, client);
}

/* Give the connection to Python, with bytes that begin a request of which nothing was sent. */
void lane_hand_over(struct lane *lane, struct client *client, const char *data, size_t length)
{
	uint64_t origin = client->origin;
	struct bytes kept = client->request; /* `data` may lie in it */
	int fd;

	client->request = (struct bytes){ 0 };
	if (client->entry)
		leave(lane, client);
	lane->client_count--;
	fd = lane_link_release(lane, &client->link);
	lane->calls.hand_over(lane->owner, origin, fd, data, length);
	lane_bytes_free(&kept);
}

/* Give both connections to Python in the midst of a request. */
void lane_adopt(struct lane *lane, struct client *client, struct server *server,
		const char *answer, size_t length, enum lane_trouble trouble)
{
	struct bytes request = client->request, unsent;
	uint64_t origin = client->origin, entry = client->entry->id, target = client->target->id;
	uint32_t uses = server->uses;
	int up, down;

	lane_bytes_cut(&server->link.out, server->link.sent);
	unsent = server->link.out;
	client->request = (struct bytes){ 0 };
	server->link.out = (struct bytes){ 0 };
	server->client = NULL;
	client->server = NULL;
	leave(lane, client);
	lane->client_count--;
	down = lane_link_release(lane, &client->link);
	up = lane_link_release(lane, &server->link);
	if (trouble == LANE_CLOSED_UNANSWERED) {
		close(up);
		up = -1;
	}
	lane->calls.adopt(lane->owner, origin, down, request.at, request.length, up, answer, length, entry,
			  target, uses, trouble, unsent.at, unsent.length);
	server->target->servers--;
	lane_target_settle(server->target);
	lane_bytes_free(&request);
	lane_bytes_free(&unsent);
}

/* --- requests -------------------------------------------------------------------------------- */

static struct lane_entry *decide(struct lane *lane, struct client *client, const char *data,
				 size_t length)
{
	char key[MAX_KEY];
	size_t key_length = lane_key(client->caller, &lane->head, key);
	struct lane_entry *entry;
	struct made made;

	if (!key_length)
		return NULL;
	entry = lane_find(client->caller, key, key_length);
	if (entry)
		return entry;
	lane->sent.length = 0;
	if (!lane_write_request(lane, client->caller, &lane->head, &made, &lane->sent) ||
	    !lane_bytes_add(&lane->sent, data + lane->head.head_bytes,
			    length - lane->head.head_bytes))
		return NULL;
	return lane->calls.decide(lane->owner, client->origin, client->caller, key, key_length,
				  data, length, lane->sent.at, lane->sent.length);
}

static struct lane_entry *known(struct lane *lane, struct client *client, const char *data,
				size_t length)
{
	if (lane->paused || lane_is_full(lane) ||
	    lane_scan_request(lane, data, length, &lane->head) != SCAN_PLAIN ||
	    lane->head.head_bytes + lane->head.length != length)
		return NULL;
	if (client->world != lane->world) {
		client->caller = lane->calls.caller(lane->owner, client->origin);
		client->world = lane->world;
	}
	return client->caller ? decide(lane, client, data, length) : NULL;
}

/* `lane->head` is the client's request. */
void lane_start(struct lane *lane, struct client *client, struct server *server)
{
	size_t head = lane->head.head_bytes, before = server->link.out.length;

	client->server = server;
	server->client = client;
	server->in_body = false;
	server->uses++;
	if (!lane_write_request(lane, client->caller, &lane->head, &client->made,
				&server->link.out) ||
	    (lane->tap_count && !lane_bytes_add(&client->shown, server->link.out.at + before,
						server->link.out.length - before)) ||
	    !lane_bytes_add(&server->link.out, client->request.at + head,
			    client->request.length - head)) {
		/* Half a request would be read together with the next one. */
		lane_client_abandon(lane, client, LANE_CLIENT_GONE);
		return;
	}
	lane_queue(lane, &server->link);
}

static void wait_for_server(struct lane *lane, struct client *client)
{
	struct lane_target *target = client->target;

	client->next_waiting = NULL;
	*target->waiting_end = client;
	target->waiting_end = &client->next_waiting;
	target->dials++;
	lane->calls.dial(lane->owner, target->id, target);
}

void lane_client_read(struct lane *lane, struct client *client, const char *data, size_t length)
{
	struct lane_entry *entry = known(lane, client, data, length);
	size_t index = 0;
	struct lane_target *target = entry ? lane_pick(lane, entry, &index) : NULL;
	struct server *server;

	if (!target || !lane_bytes_add(&client->request, data, length)) {
		lane_hand_over(lane, client, data, length);
		return;
	}
	client->entry = entry;
	client->target = target;
	client->target_index = index;
	client->started_at = lane->now;
	client->request_head = lane->head.head_bytes;
	client->received = lane->head.length;
	client->sent = 0;
	client->status = 0;
	client->answered_at = -1;
	client->made = (struct made){ 0 };
	client->is_head = lane->head.is_head;
	client->keep_alive = !lane->head.close && !lane->draining;
	entry->users++;
	target->active++;
	lane->crowd[lane->own]++;
	lane->taken++;
	server = target->idle;
	if (!server) {
		wait_for_server(lane, client);
		return;
	}
	target->idle = server->next_idle;
	target->idle_count--;
	lane_start(lane, client, server);
}

/* The answer is complete; some of it may still wait to be sent. */
void lane_answered(struct lane *lane, struct client *client)
{
	count(lane, client, LANE_FINE);
	leave(lane, client);
	client->link.idle_since = lane->now;
	if (!client->keep_alive) {
		client->closing = true;
		lane_queue(lane, &client->link);
	} else if (!client->link.out.length) {
		lane_watch(lane, &client->link, EPOLLIN);
	}
}

/*
 * Close so that the answer is read: with bytes of the client unread, a reset would follow and make
 * its kernel drop what it has (RFC 9112 §9.6).
 */
static void linger(struct lane *lane, struct client *client)
{
	char byte;

	if (recv(client->link.fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) <= 0 ||
	    shutdown(client->link.fd, SHUT_WR) < 0) {
		lane_client_close(lane, client);
		return;
	}
	client->lingering = true;
	client->link.idle_since = lane->now;
	lane_watch(lane, &client->link, EPOLLIN);
}

/* What still comes is of no interest. */
static void drop(struct lane *lane, struct client *client)
{
	ssize_t got = recv(client->link.fd, lane->buffer, READ_BYTES, MSG_DONTWAIT);

	if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR))
		lane_client_close(lane, client);
}

void lane_client_written(struct lane *lane, struct client *client)
{
	if (client->link.out.length)
		return;
	if (client->server)
		lane_server_resume(lane, client->server);
	else if (client->lingering)
		return;
	else if (client->closing)
		linger(lane, client);
	else if (!client->entry)
		lane_watch(lane, &client->link, EPOLLIN);
}

void lane_client_ready(struct lane *lane, struct client *client, uint32_t events)
{
	ssize_t got;

	if (client->lingering) {
		drop(lane, client);
		return;
	}
	if (events & EPOLLOUT)
		lane_queue(lane, &client->link);
	if (client->entry || client->closing || client->link.out.length) {
		if (events & (EPOLLERR | EPOLLHUP))
			lane_client_abandon(lane, client, LANE_CLIENT_GONE);
		else if (events & EPOLLIN) /* the next request waits for this one's answer */
			lane_watch(lane, &client->link,
				   client->link.watched & ~(uint32_t)EPOLLIN);
		return;
	}
	if (!(events & (EPOLLIN | EPOLLERR | EPOLLHUP)))
		return;
	got = recv(client->link.fd, lane->buffer, READ_BYTES, MSG_DONTWAIT);
	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (got <= 0) {
		lane_client_close(lane, client);
		return;
	}
	lane_client_read(lane, client, lane->buffer, (size_t)got);
}
