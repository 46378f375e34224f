// SPDX-License-Identifier: Apache-2.0
/* Server of the benchmarks: `serve PORT`, one thread, IPv4 and IPv6.
 *
 * The first byte of a connection says what it wants:
 *   e  echo: everything, this byte included, comes back
 *   s  sink: read to the end, then answer with the count of bytes read (8 bytes, big endian)
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { READ_BYTES = 256 * 1024, EVENTS = 256, BACKLOG = 4096 };

struct peer {
	uint64_t received;
	int fd;
	char wish; /* 0 until the first byte is here */
};

static char buffer[READ_BYTES];

static void die(const char *what)
{
	perror(what);
	exit(1);
}

/* Send all of it; a full socket is waited for. Returns -1 if the peer is gone. */
static int send_all(int fd, const char *data, size_t length)
{
	while (length > 0) {
		ssize_t sent = send(fd, data, length, MSG_NOSIGNAL);

		if (sent < 0 && errno == EAGAIN) {
			struct pollfd writable = { .fd = fd, .events = POLLOUT };

			if (poll(&writable, 1, -1) < 0)
				return -1;
			continue;
		}
		if (sent < 0)
			return -1;
		data += sent;
		length -= (size_t)sent;
	}
	return 0;
}

static void hang_up(struct peer *peer)
{
	close(peer->fd);
	free(peer);
}

static void finish(struct peer *peer)
{
	uint64_t count = htobe64(peer->received);

	if (peer->wish == 's')
		send_all(peer->fd, (const char *)&count, sizeof(count));
	hang_up(peer);
}

static void serve(struct peer *peer)
{
	ssize_t got = recv(peer->fd, buffer, sizeof(buffer), 0);

	if (got < 0 && errno == EAGAIN)
		return;
	if (got < 0) {
		hang_up(peer);
		return;
	}
	if (got == 0) {
		finish(peer);
		return;
	}
	if (peer->wish == 0)
		peer->wish = buffer[0];
	peer->received += (uint64_t)got;
	if (peer->wish == 'e' && send_all(peer->fd, buffer, (size_t)got) < 0)
		hang_up(peer);
}

static void accept_all(int listener, int poller)
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
		peer = calloc(1, sizeof(*peer));
		if (!peer)
			die("calloc");
		peer->fd = fd;
		event.data.ptr = peer;
		if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event) < 0)
			die("epoll_ctl");
	}
}

static int listen_on(uint16_t port)
{
	struct sockaddr_in6 any = { .sin6_family = AF_INET6, .sin6_port = htons(port) };
	int one = 1, zero = 0;
	int fd = socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		die("socket");
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof(zero));
	if (bind(fd, (struct sockaddr *)&any, sizeof(any)) < 0)
		die("bind");
	if (listen(fd, BACKLOG) < 0)
		die("listen");
	return fd;
}

int main(int argc, char **argv)
{
	struct epoll_event events[EVENTS], listening = { .events = EPOLLIN };
	int listener, poller = epoll_create1(EPOLL_CLOEXEC);

	if (argc != 2) {
		fprintf(stderr, "usage: serve PORT\n");
		return 2;
	}
	if (poller < 0)
		die("epoll_create1");
	listener = listen_on((uint16_t)atoi(argv[1]));
	if (epoll_ctl(poller, EPOLL_CTL_ADD, listener, &listening) < 0)
		die("epoll_ctl");
	for (;;) {
		int count = epoll_wait(poller, events, EVENTS, -1);

		for (int i = 0; i < count; i++) {
			if (events[i].data.ptr)
				serve(events[i].data.ptr);
			else
				accept_all(listener, poller);
		}
	}
}
