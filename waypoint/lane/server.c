/* SPDX-License-Identifier: Apache-2.0 */
/* Connections to endpoints: idle, or answering one request. */
#include "internal.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

enum { UNWATCHED = 1u << 31 };

static void leave_idle(struct server *server)
{
	struct server **link = &server->target->idle;

	while (*link && *link != server)
		link = &(*link)->next_idle;
	if (*link) {
		*link = server->next_idle;
		server->target->idle_count--;
	}
}

void lane_server_close(struct lane *lane, struct server *server)
{
	leave_idle(server);
	close(lane_link_release(lane, &server->link));
	server->target->servers--;
	lane_target_settle(server->target);
}

/* Take the client that waits longest; `lane->head` becomes its request. */
static bool start_waiting(struct lane *lane, struct server *server)
{
	struct lane_target *target = server->target;
	struct client *client = target->waiting;

	if (!client)
		return false;
	target->waiting = client->next_waiting;
	if (!target->waiting)
		target->waiting_end = &target->waiting;
	/* Callers may have been forgotten meanwhile; the decision still stands, as it does for
	 * requests that were sent. Python writes the request then. */
	if (client->world != lane->world ||
	    lane_scan_request(lane, client->request.at, client->request.length,
			      &lane->head) != SCAN_PLAIN) {
		lane_hand_over(lane, client, client->request.at, client->request.length);
		return start_waiting(lane, server);
	}
	lane_start(lane, client, server);
	return true;
}

static void become_idle(struct lane *lane, struct server *server)
{
	struct lane_target *target = server->target;

	if (start_waiting(lane, server))
		return;
	if (target->dropped || lane->draining) {
		lane_server_close(lane, server);
		return;
	}
	server->link.idle_since = lane->now;
	server->next_idle = target->idle;
	target->idle = server;
	target->idle_count++;
}

void lane_connected(struct lane_target *target, int fd)
{
	struct lane *lane = target->lane;
	struct client *client = target->waiting;
	struct server *server = fd < 0 ? NULL : calloc(1, sizeof(*server));

	lane->now = lane_clock();
	if (server) {
		server->target = target;
		target->servers++;
		lane_link_open(lane, &server->link, SERVER, fd);
		if (lane_watch(lane, &server->link, EPOLLIN)) {
			become_idle(lane, server);
			client = NULL;
		} else {
			lane_server_close(lane, server);
		}
	} else if (fd >= 0) {
		close(fd);
	}
	if (client) /* in vain: Python tries, and answers */
		lane_hand_over(lane, client, client->request.at, client->request.length);
	target->dials--;
	lane_target_settle(target);
	lane_settle(lane);
}

/* --- answers --------------------------------------------------------------------------------- */

static void finish(struct lane *lane, struct server *server, bool clean)
{
	struct client *client = server->client;

	server->client = NULL;
	server->in_body = false;
	client->server = NULL;
	lane_answered(lane, client);
	if (clean && server->keep_alive && !server->broken)
		become_idle(lane, server);
	else
		lane_server_close(lane, server);
}

/* Send what the client is owed and, behind it, `data`. What does not fit is kept. */
static bool send_through(struct lane *lane, struct client *client, const char *data, size_t length)
{
	struct bytes *out = &client->link.out;
	size_t owed = out->length - client->link.sent, done;
	struct iovec parts[2] = { { out->at + client->link.sent, owed }, { (void *)data, length } };
	struct msghdr message = { .msg_iov = parts, .msg_iovlen = 2 };
	ssize_t sent;

	if (length <= JOIN_BYTES || client->link.watched & EPOLLOUT) {
		if (!lane_bytes_add(out, data, length))
			return false;
		lane_queue(lane, &client->link);
		return true;
	}
	sent = sendmsg(client->link.fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
	if (sent < 0 && errno != EAGAIN && errno != EINTR)
		return false;
	done = sent > 0 ? (size_t)sent : 0;
	if (done)
		client->link.stuck_since = 0;
	client->link.sent += done < owed ? done : owed;
	done = done > owed ? done - owed : 0;
	if (client->link.sent == out->length)
		out->length = client->link.sent = 0;
	if (!lane_bytes_add(out, data + done, length - done))
		return false;
	if (out->length)
		lane_queue(lane, &client->link);
	else
		lane_bytes_free(out);
	return true;
}

static void relay(struct lane *lane, struct server *server, const char *data, size_t length)
{
	struct client *client = server->client;
	size_t body = length < server->left ? length : (size_t)server->left;

	if (body && !send_through(lane, client, data, body)) {
		lane_client_abandon(lane, client, LANE_CLIENT_GONE);
		return;
	}
	server->left -= body;
	client->sent += body;
	if (!server->left) {
		if (!body)
			lane_queue(lane, &client->link);
		finish(lane, server, length == body);
	} else if (client->link.out.length > JOIN_BYTES) { /* the kernel's buffers are full */
		lane_watch(lane, &server->link, UNWATCHED); /* an end would be told for ever */
	}
}

void lane_server_resume(struct lane *lane, struct server *server)
{
	/* The rest of a request may still have to go out, and may have been tried meanwhile. */
	if (server->link.watched == UNWATCHED || !(server->link.watched & EPOLLIN))
		lane_watch(lane, &server->link,
			   EPOLLIN | (server->link.out.length ? (uint32_t)EPOLLOUT : 0));
}

static bool has_body(const struct client *client, uint32_t status)
{
	return !client->is_head && status != 204 && status != 304;
}

static void read_head(struct lane *lane, struct server *server, const char *data, size_t length)
{
	struct client *client = server->client;
	enum scanned found;

	if (server->in.length) {
		if (!lane_bytes_add(&server->in, data, length)) {
			lane_client_abandon(lane, client, LANE_SERVER_CUT);
			return;
		}
		data = server->in.at;
		length = server->in.length;
	}
	found = lane_scan_response(&lane->limits, data, length, client->is_head, &lane->head);
	if (found == SCAN_PARTIAL && (server->in.length || lane_bytes_add(&server->in, data, length)))
		return;
	if (found != SCAN_PLAIN ||
	    !lane_write_response(&lane->head, !client->keep_alive, &client->link.out)) {
		lane_adopt(lane, client, server, data, length, LANE_UNUSUAL_ANSWER);
		return;
	}
	client->status = lane->head.status;
	client->answered_at = lane->now;
	lane_keep_head(client);
	server->keep_alive = !lane->head.close;
	server->left = has_body(client, client->status) ? lane->head.length : 0;
	server->in_body = true;
	server->link.idle_since = lane->now;
	struct bytes kept = server->in; /* `data` may lie in it */
	server->in = (struct bytes){ 0 };
	relay(lane, server, data + lane->head.head_bytes, length - lane->head.head_bytes);
	lane_bytes_free(&kept);
}

static void ended(struct lane *lane, struct server *server)
{
	struct client *client = server->client;

	if (server->in_body)
		lane_client_abandon(lane, client, LANE_SERVER_CUT);
	else if (server->in.length)
		lane_adopt(lane, client, server, server->in.at, server->in.length,
			   LANE_UNUSUAL_ANSWER);
	else
		lane_adopt(lane, client, server, NULL, 0, LANE_CLOSED_UNANSWERED);
}

void lane_server_ready(struct lane *lane, struct server *server, uint32_t events)
{
	ssize_t got;

	if (events & EPOLLOUT)
		lane_queue(lane, &server->link);
	if (!(events & (EPOLLIN | EPOLLERR | EPOLLHUP)))
		return;
	if (!server->client) { /* its end, or bytes that nobody asked for */
		lane_server_close(lane, server);
		return;
	}
	got = recv(server->link.fd, lane->buffer, READ_BYTES, MSG_DONTWAIT);
	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (got <= 0)
		ended(lane, server);
	else if (server->in_body)
		relay(lane, server, lane->buffer, (size_t)got);
	else
		read_head(lane, server, lane->buffer, (size_t)got);
}

/* --- for tests ------------------------------------------------------------------------------- */

static size_t hand_out(struct bytes *out, char *into, size_t room)
{
	size_t length = out->length <= room ? out->length : 0;

	if (length)
		memcpy(into, out->at, length);
	lane_bytes_free(out);
	return length;
}

size_t lane_render_request(struct lane *lane, struct lane_caller *caller, const char *data,
			   size_t length, char *into, size_t room)
{
	struct bytes out = { 0 };
	struct made made;

	if (lane_scan_request(lane, data, length, &lane->head) != SCAN_PLAIN ||
	    !lane_write_request(lane, caller, &lane->head, &made, &out))
		return 0;
	return hand_out(&out, into, room);
}

size_t lane_render_response(struct lane *lane, const char *data, size_t length, int is_head,
			    char *into, size_t room, uint64_t *body)
{
	struct bytes out = { 0 };

	if (lane_scan_response(&lane->limits, data, length, is_head, &lane->head) != SCAN_PLAIN ||
	    !lane_write_response(&lane->head, false, &out))
		return 0;
	*body = lane->head.length;
	return hand_out(&out, into, room);
}
