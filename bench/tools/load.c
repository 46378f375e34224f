// SPDX-License-Identifier: Apache-2.0
/* Load generator of the benchmarks; the other side is serve.c. One thread, one line of JSON.
 *
 *   load rtt     ADDRESS PORT BYTES SECONDS          there and back, one message at a time
 *   load connect ADDRESS PORT PARALLEL SECONDS COUNT connect, one byte there and back, close;
 *                                                    ends at the first of both limits
 *   load flow    ADDRESS PORT STREAMS SECONDS        send at full speed; counts what arrived
 *   load idle    ADDRESS PORT COUNT                  open, say so, hold until a signal
 *
 * Times are microseconds of CLOCK_MONOTONIC. Exit status 1: the network failed it.
 */
#define _GNU_SOURCE
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
	MAX_SAMPLES = 4 * 1000 * 1000,
	MAX_MESSAGE = 1024 * 1024,
	FLOW_BYTES = 128 * 1024,
	MAX_PARALLEL = 1024,
	IDLE_PARALLEL = 64,
	STALL_MS = 10000, /* silence that counts as a failure */
	WARM_UP_SHARE = 10, /* the first tenth of the time is not counted */
};

static struct sockaddr_storage target;
static socklen_t target_length;
static double *samples;
static size_t sample_count;
static char message[MAX_MESSAGE];

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static double now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec * 1e6 + (double)now.tv_nsec / 1e3;
}

static void resolve(const char *address, const char *port)
{
	struct addrinfo hints = { .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV };
	struct addrinfo *found;
	int error;

	hints.ai_socktype = SOCK_STREAM;
	error = getaddrinfo(address, port, &hints, &found);
	if (error) {
		fprintf(stderr, "%s: %s\n", address, gai_strerror(error));
		exit(2);
	}
	memcpy(&target, found->ai_addr, found->ai_addrlen);
	target_length = found->ai_addrlen;
	freeaddrinfo(found);
}

static int new_socket(int flags)
{
	int one = 1;
	int fd = socket(target.ss_family, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);

	if (fd < 0)
		die("socket");
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	return fd;
}

static int dial(void)
{
	struct timeval patience = { .tv_sec = STALL_MS / 1000 };
	int fd = new_socket(0);

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	if (connect(fd, (struct sockaddr *)&target, target_length) < 0)
		die("connect");
	return fd;
}

static void send_exactly(int fd, const char *data, size_t length)
{
	while (length > 0) {
		ssize_t sent = send(fd, data, length, MSG_NOSIGNAL);

		if (sent < 0)
			die("send");
		data += sent;
		length -= (size_t)sent;
	}
}

static void receive_exactly(int fd, char *data, size_t length)
{
	while (length > 0) {
		ssize_t got = recv(fd, data, length, 0);

		if (got < 0)
			die("recv");
		if (got == 0) {
			fprintf(stderr, "the peer hung up\n");
			exit(1);
		}
		data += got;
		length -= (size_t)got;
	}
}

static void take_sample(double value)
{
	if (sample_count < MAX_SAMPLES)
		samples[sample_count++] = value;
}

static int by_size(const void *left, const void *right)
{
	double difference = *(const double *)left - *(const double *)right;

	return (difference > 0) - (difference < 0);
}

/* Nearest rank; samples must be sorted. */
static double percentile(double share)
{
	size_t rank = (size_t)(share * (double)sample_count);

	if (sample_count == 0)
		return 0;
	return samples[rank < sample_count ? rank : sample_count - 1];
}

static void print_samples(double elapsed_us, unsigned long failed)
{
	qsort(samples, sample_count, sizeof(*samples), by_size);
	printf("{\"count\": %zu, \"failed\": %lu, \"per_s\": %.3f, \"p50_us\": %.3f, \"p99_us\": %.3f, "
	       "\"min_us\": %.3f, \"max_us\": %.3f}\n",
	       sample_count, failed, (double)sample_count / elapsed_us * 1e6, percentile(0.50),
	       percentile(0.99), percentile(0), percentile(1));
}

/* -- rtt ----------------------------------------------------------------------------------- */

static int measure_rtt(size_t bytes, double seconds)
{
	double begin, counted, end;
	int fd = dial();

	if (bytes == 0 || bytes > MAX_MESSAGE)
		return 2;
	message[0] = 'e';
	send_exactly(fd, message, 1);
	receive_exactly(fd, message, 1);
	begin = now_us();
	counted = begin + seconds * 1e6 / WARM_UP_SHARE;
	end = begin + seconds * 1e6;
	while (begin < end) {
		double after;

		send_exactly(fd, message, bytes);
		receive_exactly(fd, message, bytes);
		after = now_us();
		if (begin >= counted)
			take_sample(after - begin);
		begin = after;
	}
	close(fd);
	print_samples(end - counted, 0);
	return sample_count > 0 ? 0 : 1;
}

/* -- connect ------------------------------------------------------------------------------- */

struct attempt {
	double begin;
	int fd;
	int asked;
};

static void begin_attempt(int poller, struct attempt *attempt)
{
	struct epoll_event event = { .events = EPOLLOUT, .data.ptr = attempt };

	attempt->begin = now_us();
	attempt->asked = 0;
	attempt->fd = new_socket(SOCK_NONBLOCK);
	if (connect(attempt->fd, (struct sockaddr *)&target, target_length) < 0 && errno != EINPROGRESS)
		die("connect");
	if (epoll_ctl(poller, EPOLL_CTL_ADD, attempt->fd, &event) < 0)
		die("epoll_ctl");
}

/* Returns 1 when the answer is here, -1 when there will be none, 0 when it goes on. */
static int step(int poller, struct attempt *attempt)
{
	struct epoll_event event = { .events = EPOLLIN, .data.ptr = attempt };
	char byte = 'e';

	if (!attempt->asked) {
		if (send(attempt->fd, &byte, 1, MSG_NOSIGNAL) != 1)
			return -1;
		attempt->asked = 1;
		if (epoll_ctl(poller, EPOLL_CTL_MOD, attempt->fd, &event) < 0)
			die("epoll_ctl");
		return 0;
	}
	return recv(attempt->fd, &byte, 1, 0) == 1 ? 1 : -1;
}

static int measure_connects(int parallel, double seconds, unsigned long limit)
{
	static struct attempt attempts[MAX_PARALLEL];
	struct epoll_event events[MAX_PARALLEL];
	unsigned long begun = 0, failed = 0, open = 0;
	double begin = now_us(), end = begin + seconds * 1e6;
	int poller = epoll_create1(EPOLL_CLOEXEC);

	if (poller < 0 || parallel < 1 || parallel > MAX_PARALLEL)
		return 2;
	for (; open < (unsigned long)parallel && begun < limit; open++, begun++)
		begin_attempt(poller, &attempts[open]);
	while (open > 0) {
		int count = epoll_wait(poller, events, MAX_PARALLEL, STALL_MS);

		if (count <= 0)
			die("no answer");
		for (int i = 0; i < count; i++) {
			struct attempt *attempt = events[i].data.ptr;
			int outcome = step(poller, attempt);

			if (outcome == 0)
				continue;
			failed += outcome < 0;
			if (outcome > 0)
				take_sample(now_us() - attempt->begin);
			close(attempt->fd);
			open--;
			if (now_us() < end && begun < limit) {
				begin_attempt(poller, attempt);
				open++, begun++;
			}
		}
	}
	print_samples(now_us() - begin, failed);
	return 0;
}

/* -- flow ---------------------------------------------------------------------------------- */

static int open_flows(int poller, int *fds, int streams)
{
	for (int i = 0; i < streams; i++) {
		struct epoll_event event = { .events = EPOLLOUT, .data.u32 = (uint32_t)i };

		fds[i] = dial();
		message[0] = 's';
		send_exactly(fds[i], message, 1);
		if (fcntl(fds[i], F_SETFL, O_NONBLOCK) < 0)
			return -1;
		if (epoll_ctl(poller, EPOLL_CTL_ADD, fds[i], &event) < 0)
			return -1;
	}
	return 0;
}

static void push_until(int poller, const int *fds, double end)
{
	struct epoll_event events[MAX_PARALLEL];

	while (now_us() < end) {
		int count = epoll_wait(poller, events, MAX_PARALLEL, STALL_MS);

		if (count <= 0)
			die("nothing can be sent");
		for (int i = 0; i < count; i++) {
			ssize_t sent = send(fds[events[i].data.u32], message, FLOW_BYTES, MSG_NOSIGNAL);

			if (sent < 0 && errno != EAGAIN)
				die("send");
		}
	}
}

/* Only what the other side has read counts, and the time ends when the last of it said so. */
static int measure_flow(int streams, double seconds)
{
	int fds[MAX_PARALLEL];
	uint64_t count, total = 0;
	int poller = epoll_create1(EPOLL_CLOEXEC);
	double begin;

	if (poller < 0 || streams < 1 || streams > MAX_PARALLEL)
		return 2;
	begin = now_us();
	if (open_flows(poller, fds, streams) < 0)
		die("streams");
	push_until(poller, fds, begin + seconds * 1e6);
	for (int i = 0; i < streams; i++) {
		if (shutdown(fds[i], SHUT_WR) < 0 || fcntl(fds[i], F_SETFL, 0) < 0)
			die("shutdown");
	}
	for (int i = 0; i < streams; i++) {
		receive_exactly(fds[i], (char *)&count, sizeof(count));
		total += be64toh(count);
		close(fds[i]);
	}
	seconds = (now_us() - begin) / 1e6;
	printf("{\"bytes\": %llu, \"seconds\": %.6f, \"gbit_per_s\": %.4f}\n",
	       (unsigned long long)total, seconds, (double)total * 8 / seconds / 1e9);
	return 0;
}

/* -- idle ---------------------------------------------------------------------------------- */

static _Noreturn void hold_idle(unsigned long wanted)
{
	static struct attempt attempts[IDLE_PARALLEL];
	struct epoll_event events[IDLE_PARALLEL];
	unsigned long begun = 0, open = 0;
	int poller = epoll_create1(EPOLL_CLOEXEC);

	for (; begun < IDLE_PARALLEL && begun < wanted; begun++)
		begin_attempt(poller, &attempts[begun]);
	while (open < wanted) {
		int count = epoll_wait(poller, events, IDLE_PARALLEL, STALL_MS);

		if (count <= 0)
			die("no answer");
		for (int i = 0; i < count; i++) {
			struct attempt *attempt = events[i].data.ptr;
			int outcome = step(poller, attempt);

			if (outcome < 0)
				die("connection lost");
			if (outcome == 0)
				continue;
			open++; /* it stays open: only this program's end closes it */
			epoll_ctl(poller, EPOLL_CTL_DEL, attempt->fd, NULL);
			if (begun < wanted) {
				begin_attempt(poller, attempt);
				begun++;
			}
		}
	}
	printf("{\"open\": %lu}\n", open);
	fflush(stdout);
	for (;;)
		pause();
}

int main(int argc, char **argv)
{
	if (argc < 5) {
		fprintf(stderr, "usage: load rtt|connect|flow|idle ADDRESS PORT NUMBER...\n");
		return 2;
	}
	samples = malloc(MAX_SAMPLES * sizeof(*samples));
	if (!samples)
		die("malloc");
	resolve(argv[2], argv[3]);
	if (!strcmp(argv[1], "rtt") && argc == 6)
		return measure_rtt((size_t)atol(argv[4]), atof(argv[5]));
	if (!strcmp(argv[1], "connect") && argc == 7)
		return measure_connects(atoi(argv[4]), atof(argv[5]), strtoul(argv[6], NULL, 10));
	if (!strcmp(argv[1], "flow") && argc == 6)
		return measure_flow(atoi(argv[4]), atof(argv[5]));
	if (!strcmp(argv[1], "idle") && argc == 5)
		hold_idle(strtoul(argv[4], NULL, 10));
	fprintf(stderr, "load: wrong arguments for %s\n", argv[1]);
	return 2;
}
