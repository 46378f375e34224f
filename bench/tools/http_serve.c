// SPDX-License-Identifier: Apache-2.0
/* Web server of the benchmarks: `http_serve PORT`, one thread, HTTP/1.1 and HTTP/2 without TLS.
 *
 *   /bytes/N...   an answer of N bytes; any other path: 128 bytes
 *   application/grpc (HTTP/2 only): the request's body comes back, grpc-status 0 in trailers;
 *   from a path that ends in /Stream piece by piece, else when it is whole
 *
 * Trusts its clients: it is no server for anything else.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <nghttp2/nghttp2.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
	READ_BYTES = 256 * 1024,
	HEAD_BYTES = 64 * 1024,
	MAX_ANSWER = 2 * 1024 * 1024,
	SMALL_ANSWER = 128,
	EVENTS = 256,
	BACKLOG = 4096,
	WINDOW_BYTES = 16 * 1024 * 1024,
};

static const char PREFACE[] = "PRI * HTTP/2.0";

struct peer {
	int fd;
	int writing; /* waits until it can write */
	nghttp2_session *h2;
	char *head; /* HTTP/1.1: what was read of a request */
	size_t head_length;
	uint64_t skip; /* bytes of a request's body still to come */
	char *out; /* what could not be sent yet */
	size_t out_length, out_room;
};

struct stream {
	uint64_t answer_bytes;
	int is_grpc;
	int is_live; /* answers before the request has ended */
	int has_ended;
	uint8_t *echo;
	size_t echo_length, sent;
};

static char buffer[READ_BYTES], payload[MAX_ANSWER];
static int poller;

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static void *need(void *memory)
{
	if (!memory)
		die("malloc");
	return memory;
}

static void watch(struct peer *peer, int writing)
{
	struct epoll_event event = { .events = EPOLLIN | (writing ? EPOLLOUT : 0) };

	if (peer->writing == writing)
		return;
	peer->writing = writing;
	event.data.ptr = peer;
	if (epoll_ctl(poller, EPOLL_CTL_MOD, peer->fd, &event) < 0)
		die("epoll_ctl");
}

static void collect(struct peer *peer, const char *data, size_t length)
{
	if (peer->out_length + length > peer->out_room) {
		peer->out_room = 2 * (peer->out_length + length);
		peer->out = need(realloc(peer->out, peer->out_room));
	}
	memcpy(peer->out + peer->out_length, data, length);
	peer->out_length += length;
}

static int flush(struct peer *peer)
{
	size_t done = 0;

	while (done < peer->out_length) {
		ssize_t sent = send(peer->fd, peer->out + done, peer->out_length - done,
				    MSG_NOSIGNAL);

		if (sent < 0 && errno == EAGAIN)
			break;
		if (sent < 0)
			return -1;
		done += (size_t)sent;
	}
	peer->out_length -= done;
	if (done)
		memmove(peer->out, peer->out + done, peer->out_length);
	watch(peer, peer->out_length > 0);
	return 0;
}

static uint64_t answer_bytes(const char *path)
{
	uint64_t bytes;

	if (strncmp(path, "/bytes/", 7) != 0)
		return SMALL_ANSWER;
	bytes = strtoull(path + 7, NULL, 10);
	return bytes > MAX_ANSWER ? MAX_ANSWER : bytes;
}

/* --- HTTP/1.1 ------------------------------------------------------------------------------- */

static void answer_http1(struct peer *peer, const char *head)
{
	const char *path = strchr(head, ' ');
	const char *length = strcasestr(head, "\r\ncontent-length:");
	uint64_t bytes = answer_bytes(path ? path + 1 : "");
	char lines[256];
	int count;

	peer->skip = length ? strtoull(length + 17, NULL, 10) : 0;
	count = snprintf(lines, sizeof(lines),
			 "HTTP/1.1 200 OK\r\nserver: bench\r\ncontent-type: text/plain\r\n"
			 "content-length: %llu\r\n\r\n",
			 (unsigned long long)bytes);
	collect(peer, lines, (size_t)count);
	collect(peer, payload, bytes);
}

static int read_http1(struct peer *peer, char *data, size_t length)
{
	while (length > 0) {
		char *end, *whole = data;
		size_t used;

		if (peer->skip) {
			used = peer->skip < length ? peer->skip : length;
			peer->skip -= used;
			data += used;
			length -= used;
			continue;
		}
		if (peer->head_length) {
			if (peer->head_length + length > HEAD_BYTES)
				return -1;
			memcpy(peer->head + peer->head_length, data, length);
			whole = peer->head;
		}
		end = memmem(whole, peer->head_length + length, "\r\n\r\n", 4);
		if (!end) {
			if (!peer->head)
				peer->head = need(malloc(HEAD_BYTES));
			if (!peer->head_length && length <= HEAD_BYTES)
				memcpy(peer->head, data, length);
			peer->head_length += length;
			return peer->head_length > HEAD_BYTES ? -1 : 0;
		}
		end[2] = '\0';
		used = (size_t)(end + 4 - whole) - peer->head_length;
		peer->head_length = 0;
		answer_http1(peer, whole);
		data += used;
		length -= used;
	}
	return flush(peer);
}

/* --- HTTP/2 --------------------------------------------------------------------------------- */

static ssize_t give_body(nghttp2_session *session, int32_t id, uint8_t *into, size_t room,
			 uint32_t *flags, nghttp2_data_source *source, void *peer)
{
	struct stream *stream = source->ptr;
	uint64_t total = stream->is_grpc ? stream->echo_length : stream->answer_bytes;
	size_t left = (size_t)(total - stream->sent), count = left < room ? left : room;
	const char *from = stream->is_grpc ? (const char *)stream->echo : payload;
	nghttp2_nv trailer = { (uint8_t *)"grpc-status", (uint8_t *)"0", 11, 1,
			       NGHTTP2_NV_FLAG_NONE };

	(void)peer;
	if (count)
		memcpy(into, from + stream->sent, count);
	stream->sent += count;
	if (stream->is_live && !stream->has_ended) {
		if (stream->sent == total)
			stream->echo_length = stream->sent = 0;
		return count ? (ssize_t)count : NGHTTP2_ERR_DEFERRED;
	}
	if (stream->sent == total) {
		*flags |= NGHTTP2_DATA_FLAG_EOF;
		if (stream->is_grpc) {
			*flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
			nghttp2_submit_trailer(session, id, &trailer, 1);
		}
	}
	return (ssize_t)count;
}

static int on_begin(nghttp2_session *session, const nghttp2_frame *frame, void *peer)
{
	struct stream *stream = need(calloc(1, sizeof(*stream)));

	(void)peer;
	stream->answer_bytes = SMALL_ANSWER;
	nghttp2_session_set_stream_user_data(session, frame->hd.stream_id, stream);
	return 0;
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name,
		     size_t name_length, const uint8_t *value, size_t length, uint8_t flags,
		     void *peer)
{
	struct stream *stream =
		nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);

	(void)flags;
	(void)peer;
	if (!stream)
		return 0;
	if (name_length == 5 && !memcmp(name, ":path", 5)) {
		stream->answer_bytes = answer_bytes((const char *)value);
		stream->is_live = length > 7 && !memcmp(value + length - 7, "/Stream", 7);
	}
	if (name_length == 12 && !memcmp(name, "content-type", 12))
		stream->is_grpc = length >= 16 && !memcmp(value, "application/grpc", 16);
	return 0;
}

static int on_data(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *data,
		   size_t length, void *peer)
{
	struct stream *stream = nghttp2_session_get_stream_user_data(session, id);

	(void)flags;
	(void)peer;
	if (stream && stream->is_grpc) {
		stream->echo = need(realloc(stream->echo, stream->echo_length + length));
		memcpy(stream->echo + stream->echo_length, data, length);
		stream->echo_length += length;
	}
	if (stream && stream->is_live)
		nghttp2_session_resume_data(session, id);
	return 0;
}

static int answer_http2(nghttp2_session *session, int32_t id, struct stream *stream)
{
	nghttp2_data_provider body = { .source.ptr = stream, .read_callback = give_body };
	char length[24];
	nghttp2_nv head[3] = {
		{ (uint8_t *)":status", (uint8_t *)"200", 7, 3, NGHTTP2_NV_FLAG_NONE },
		{ (uint8_t *)"content-type", (uint8_t *)"text/plain", 12, 10,
		  NGHTTP2_NV_FLAG_NONE },
		{ (uint8_t *)"content-length", (uint8_t *)length, 14, 0, NGHTTP2_NV_FLAG_NONE },
	};

	head[2].valuelen = (size_t)snprintf(length, sizeof(length), "%llu",
					    (unsigned long long)stream->answer_bytes);
	if (stream->is_grpc) {
		head[1].value = (uint8_t *)"application/grpc";
		head[1].valuelen = 16;
	}
	return nghttp2_submit_response(session, id, head, stream->is_grpc ? 2 : 3, &body);
}

static int on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *peer)
{
	int ended = frame->hd.flags & NGHTTP2_FLAG_END_STREAM;
	struct stream *stream;

	(void)peer;
	if (frame->hd.type != NGHTTP2_HEADERS && frame->hd.type != NGHTTP2_DATA)
		return 0;
	stream = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
	if (!stream)
		return 0;
	stream->has_ended = ended;
	if (stream->is_live && ended)
		nghttp2_session_resume_data(session, frame->hd.stream_id);
	else if (ended || (stream->is_live && frame->hd.type == NGHTTP2_HEADERS))
		return answer_http2(session, frame->hd.stream_id, stream);
	return 0;
}

static int on_close(nghttp2_session *session, int32_t id, uint32_t error, void *peer)
{
	struct stream *stream = nghttp2_session_get_stream_user_data(session, id);

	(void)error;
	(void)peer;
	if (stream) {
		free(stream->echo);
		free(stream);
	}
	return 0;
}

static void start_http2(struct peer *peer)
{
	nghttp2_session_callbacks *calls;
	nghttp2_settings_entry settings[] = {
		{ NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, 1000 },
		{ NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, WINDOW_BYTES },
	};

	if (nghttp2_session_callbacks_new(&calls))
		die("nghttp2");
	nghttp2_session_callbacks_set_on_begin_headers_callback(calls, on_begin);
	nghttp2_session_callbacks_set_on_header_callback(calls, on_header);
	nghttp2_session_callbacks_set_on_data_chunk_recv_callback(calls, on_data);
	nghttp2_session_callbacks_set_on_frame_recv_callback(calls, on_frame);
	nghttp2_session_callbacks_set_on_stream_close_callback(calls, on_close);
	if (nghttp2_session_server_new(&peer->h2, calls, peer))
		die("nghttp2");
	nghttp2_session_callbacks_del(calls);
	nghttp2_submit_settings(peer->h2, NGHTTP2_FLAG_NONE, settings, 2);
	nghttp2_session_set_local_window_size(peer->h2, NGHTTP2_FLAG_NONE, 0, WINDOW_BYTES);
}

static int pump_http2(struct peer *peer)
{
	ssize_t count;

	do {
		const uint8_t *data;

		do {
			count = nghttp2_session_mem_send(peer->h2, &data);
			if (count < 0)
				return -1;
			collect(peer, (const char *)data, (size_t)count);
		} while (count > 0 && peer->out_length < READ_BYTES);
		if (flush(peer) < 0)
			return -1;
	} while (count > 0 && !peer->out_length);
	return 0;
}

/* --- both ----------------------------------------------------------------------------------- */

static void hang_up(struct peer *peer)
{
	close(peer->fd);
	nghttp2_session_del(peer->h2);
	free(peer->head);
	free(peer->out);
	free(peer);
}

static int take(struct peer *peer, char *data, size_t length)
{
	if (!peer->h2 && !peer->head && length >= sizeof(PREFACE) - 1 &&
	    !memcmp(data, PREFACE, sizeof(PREFACE) - 1))
		start_http2(peer);
	if (!peer->h2)
		return read_http1(peer, data, length);
	if (nghttp2_session_mem_recv(peer->h2, (uint8_t *)data, length) < 0)
		return -1;
	return pump_http2(peer);
}

static void serve(struct peer *peer, uint32_t events)
{
	if (events & EPOLLOUT) {
		if ((peer->h2 ? pump_http2(peer) : flush(peer)) < 0) {
			hang_up(peer);
			return;
		}
	}
	if (events & ~(uint32_t)EPOLLOUT) {
		ssize_t got = recv(peer->fd, buffer, sizeof(buffer), 0);

		if (got < 0 && errno == EAGAIN)
			return;
		if (got <= 0 || take(peer, buffer, (size_t)got) < 0)
			hang_up(peer);
	}
}

static void accept_all(int listener)
{
	for (;;) {
		int one = 1;
		int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
		struct epoll_event event = { .events = EPOLLIN };
		struct peer *peer;

		if (fd < 0 && (errno == EAGAIN || errno == ECONNABORTED))
			return;
		if (fd < 0)
			die("accept");
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		peer = need(calloc(1, sizeof(*peer)));
		peer->fd = fd;
		event.data.ptr = peer;
		if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event) < 0)
			die("epoll_ctl");
	}
}

static int listen_on(uint16_t port)
{
	struct sockaddr_in any = { .sin_family = AF_INET, .sin_port = htons(port) };
	int one = 1;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		die("socket");
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, (struct sockaddr *)&any, sizeof(any)) < 0 || listen(fd, BACKLOG) < 0)
		die("listen");
	return fd;
}

int main(int argc, char **argv)
{
	struct epoll_event events[EVENTS], listening = { .events = EPOLLIN };
	int listener;

	if (argc != 2) {
		fprintf(stderr, "usage: http_serve PORT\n");
		return 2;
	}
	memset(payload, 'x', sizeof(payload));
	poller = epoll_create1(EPOLL_CLOEXEC);
	listener = listen_on((uint16_t)atoi(argv[1]));
	if (poller < 0 || epoll_ctl(poller, EPOLL_CTL_ADD, listener, &listening) < 0)
		die("epoll");
	for (;;) {
		int count = epoll_wait(poller, events, EVENTS, -1);

		for (int i = 0; i < count; i++) {
			if (events[i].data.ptr)
				serve(events[i].data.ptr, events[i].events);
			else
				accept_all(listener);
		}
	}
}
