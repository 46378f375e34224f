// SPDX-License-Identifier: Apache-2.0
/* HTTP load of the benchmarks; the other side is http_serve.c. One thread, one line of JSON.
 *
 *   http_load [OPTION]... ADDRESS PORT PATH [HEADER VALUE]...
 *
 *   -2        HTTP/2 with prior knowledge instead of HTTP/1.1
 *   -c N      connections, -m N  requests at a time on each (HTTP/2)
 *   -w S      seconds that are not counted, -s S  seconds that are
 *   -r N      requests per second: each has its instant, whether the earlier ones are answered or
 *             not, and its time runs from that instant. 0: each answer is followed by a request
 *   -b N      POST a body of N bytes (HTTP/2)
 *   -p N      ping-pong (HTTP/2): a POST per slot whose body never ends, messages of N bytes, each
 *             sent when the one before came back. A message counts as a request
 *
 * Times are microseconds. Exit status 1: the network failed it, or an answer was no success.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <nghttp2/nghttp2.h>
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
	MAX_CONNECTIONS = 4096,
	MAX_FIELDS = 24,
	READ_BYTES = 256 * 1024,
	HEAD_BYTES = 16 * 1024,
	EVENTS = 256,
	WINDOW_BYTES = 16 * 1024 * 1024,
	STALL_MS = 10000, /* silence that counts as a failure */
};

static const double PATIENCE_US = 5e6; /* for what was due at a fixed rate and is not answered */

/* One request at a time. */
struct slot {
	struct connection *connection;
	double begin;
	size_t to_send; /* of the body or of the message under way */
	size_t to_come; /* of the message that is echoed */
	int32_t id;
	int good, ending;
};

struct connection {
	int fd;
	int writing; /* waits until it can write */
	int dirty; /* has something to send */
	nghttp2_session *h2;
	struct slot *slots;
	char *out;
	size_t out_length, out_room;
	char head[HEAD_BYTES];
	size_t head_length;
	uint64_t body; /* bytes of an answer still to come */
};

static struct {
	int http2, connections, streams;
	double warm_s, seconds, rate;
	size_t body, message;
	const char *path;
} want = { .connections = 1, .streams = 1, .seconds = 1 };

static nghttp2_nv fields[MAX_FIELDS];
static size_t field_count;
static char request_text[HEAD_BYTES];
static size_t request_length;
static struct connection *connections;
static struct slot **idle; /* ring of slots that wait for an instant */
static size_t idle_first, idle_count, slot_count;
static double *samples;
static size_t sample_count;
static uint64_t answered, active;
static double count_from, count_until;
static char buffer[READ_BYTES];
static int poller;

static _Noreturn void die(const char *what)
{
	perror(what);
	exit(1);
}

static _Noreturn void refuse(const char *what, const char *text, size_t length)
{
	fprintf(stderr, "%s: %.*s\n", what, (int)(length < 200 ? length : 200), text);
	exit(1);
}

static void *need(void *memory)
{
	if (!memory)
		die("malloc");
	return memory;
}

static double now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec * 1e6 + (double)now.tv_nsec / 1e3;
}

/* --- sending --------------------------------------------------------------------------------- */

static void collect(struct connection *connection, const void *data, size_t length)
{
	if (connection->out_length + length > connection->out_room) {
		connection->out_room = 2 * (connection->out_length + length);
		connection->out = need(realloc(connection->out, connection->out_room));
	}
	memcpy(connection->out + connection->out_length, data, length);
	connection->out_length += length;
}

static void flush(struct connection *connection)
{
	struct epoll_event event = { .events = EPOLLIN, .data.ptr = connection };
	size_t done = 0;
	int writing;

	while (done < connection->out_length) {
		ssize_t sent = send(connection->fd, connection->out + done,
				    connection->out_length - done, MSG_NOSIGNAL);

		if (sent < 0 && errno == EAGAIN)
			break;
		if (sent < 0)
			die("send");
		done += (size_t)sent;
	}
	connection->out_length -= done;
	if (done && connection->out_length)
		memmove(connection->out, connection->out + done, connection->out_length);
	writing = connection->out_length > 0;
	if (writing == connection->writing)
		return;
	connection->writing = writing;
	event.events |= writing ? EPOLLOUT : 0;
	if (epoll_ctl(poller, EPOLL_CTL_MOD, connection->fd, &event) < 0)
		die("epoll_ctl");
}

static void pump(struct connection *connection)
{
	ssize_t count = 0;

	connection->dirty = 0;
	do {
		const uint8_t *data;

		while (connection->h2 && connection->out_length < READ_BYTES) {
			count = nghttp2_session_mem_send(connection->h2, &data);
			if (count < 0)
				refuse("nghttp2", nghttp2_strerror((int)count), 100);
			if (count == 0)
				break;
			collect(connection, data, (size_t)count);
		}
		flush(connection);
	} while (count > 0 && !connection->out_length);
}

/* --- requests -------------------------------------------------------------------------------- */

static ssize_t give_body(nghttp2_session *session, int32_t id, uint8_t *into, size_t room,
			 uint32_t *flags, nghttp2_data_source *source, void *connection)
{
	struct slot *slot = source->ptr;
	size_t count = slot->to_send < room ? slot->to_send : room;

	(void)session;
	(void)id;
	(void)connection;
	if (count == 0 && want.message && !slot->ending)
		return NGHTTP2_ERR_DEFERRED;
	memset(into, 'x', count);
	slot->to_send -= count;
	if (slot->to_send == 0 && (!want.message || slot->ending))
		*flags |= NGHTTP2_DATA_FLAG_EOF;
	return (ssize_t)count;
}

static void begin_http2(struct slot *slot)
{
	nghttp2_data_provider body = { .source.ptr = slot, .read_callback = give_body };
	int has_body = want.body || want.message;

	slot->to_send = want.message ? want.message : want.body;
	slot->to_come = want.message;
	slot->id = nghttp2_submit_request(slot->connection->h2, NULL, fields, field_count,
					  has_body ? &body : NULL, slot);
	if (slot->id < 0)
		refuse("nghttp2", nghttp2_strerror(slot->id), 100);
}

static void begin(struct slot *slot, double at)
{
	slot->begin = at;
	slot->good = 0;
	active++;
	slot->connection->dirty = 1;
	if (slot->connection->h2)
		begin_http2(slot);
	else
		collect(slot->connection, request_text, request_length);
}

/* What was due at a fixed rate counts by its instant, whenever it was answered. */
static void count(double begin_us, double end_us)
{
	double when = want.rate > 0 ? begin_us : end_us;

	answered++;
	if (when >= count_from && when < count_until && sample_count < MAX_SAMPLES)
		samples[sample_count++] = end_us - begin_us;
}

static void end(struct slot *slot)
{
	double now = now_us();

	active--;
	if (want.message)
		return;
	count(slot->begin, now);
	if (want.rate > 0)
		idle[(idle_first + idle_count++) % slot_count] = slot;
	else if (now < count_until)
		begin(slot, now);
}

/* A message came back, or a part of it. */
static void echoed(struct slot *slot, size_t length)
{
	while (length > 0) {
		size_t part = slot->to_come < length ? slot->to_come : length;
		double now;

		slot->to_come -= part;
		length -= part;
		if (slot->to_come)
			return;
		now = now_us();
		count(slot->begin, now);
		slot->begin = now;
		slot->ending = now >= count_until;
		slot->to_send = slot->ending ? 0 : want.message;
		slot->to_come = want.message;
		nghttp2_session_resume_data(slot->connection->h2, slot->id);
	}
}

/* --- HTTP/1.1 -------------------------------------------------------------------------------- */

static void read_head(struct connection *connection)
{
	const char *length = strcasestr(connection->head, "\r\ncontent-length:");

	if (strncmp(connection->head, "HTTP/1.1 200", 12) != 0 || !length)
		refuse("answer", connection->head, strlen(connection->head));
	connection->body = strtoull(length + 17, NULL, 10);
}

static void take_http1(struct connection *connection, const char *data, size_t length)
{
	while (length > 0) {
		size_t room = HEAD_BYTES - 1 - connection->head_length, part, before;
		char *found;

		if (connection->body) {
			part = connection->body < length ? connection->body : length;
			connection->body -= part;
			data += part;
			length -= part;
			if (!connection->body)
				end(&connection->slots[0]);
			continue;
		}
		before = connection->head_length;
		part = length < room ? length : room;
		if (!part)
			refuse("answer", connection->head, before);
		memcpy(connection->head + before, data, part);
		connection->head_length += part;
		found = memmem(connection->head, connection->head_length, "\r\n\r\n", 4);
		if (!found) {
			data += part;
			length -= part;
			continue;
		}
		found[2] = '\0';
		part = (size_t)(found + 4 - connection->head) - before;
		data += part;
		length -= part;
		connection->head_length = 0;
		read_head(connection);
		if (!connection->body)
			end(&connection->slots[0]);
	}
}

static void write_line(const char *first, const char *between, const char *last)
{
	size_t room = sizeof(request_text) - request_length;
	int used = snprintf(request_text + request_length, room, "%s%s%s\r\n", first, between, last);

	if (used < 0 || (size_t)used >= room)
		refuse("the request is too long", first, strlen(first));
	request_length += (size_t)used;
}

static void write_request(int argc, char **argv)
{
	write_line("GET ", want.path, " HTTP/1.1");
	write_line("Host: ", "web.shop", "");
	for (int i = 0; i + 1 < argc; i += 2)
		write_line(argv[i], ": ", argv[i + 1]);
	write_line("", "", "");
}

/* --- HTTP/2 ---------------------------------------------------------------------------------- */

static void add_field(const char *name, const char *value)
{
	nghttp2_nv field = { (uint8_t *)(uintptr_t)name, (uint8_t *)(uintptr_t)value, strlen(name),
			     strlen(value), NGHTTP2_NV_FLAG_NO_COPY_NAME |
			     NGHTTP2_NV_FLAG_NO_COPY_VALUE };

	if (field_count == MAX_FIELDS)
		refuse("too many header fields", name, strlen(name));
	fields[field_count++] = field;
}

static void write_fields(int argc, char **argv)
{
	add_field(":method", want.body || want.message ? "POST" : "GET");
	add_field(":scheme", "http");
	add_field(":authority", "web.shop");
	add_field(":path", want.path);
	for (int i = 0; i + 1 < argc; i += 2) {
		for (char *letter = argv[i]; *letter; letter++)
			*letter |= *letter >= 'A' && *letter <= 'Z' ? 32 : 0;
		add_field(argv[i], argv[i + 1]);
	}
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name,
		     size_t name_length, const uint8_t *value, size_t length, uint8_t flags,
		     void *connection)
{
	struct slot *slot = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
	const char *text = (const char *)value;

	(void)flags;
	(void)connection;
	if (slot && name_length == 7 && !memcmp(name, ":status", 7)) {
		if (length != 3 || memcmp(text, "200", 3) != 0)
			refuse("status", text, length);
		slot->good = 1;
	}
	if (name_length == 11 && !memcmp(name, "grpc-status", 11) && (length != 1 || *text != '0'))
		refuse("grpc-status", text, length);
	return 0;
}

static int on_data(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *data,
		   size_t length, void *connection)
{
	struct slot *slot = nghttp2_session_get_stream_user_data(session, id);

	(void)flags;
	(void)data;
	(void)connection;
	if (slot && want.message)
		echoed(slot, length);
	return 0;
}

static int on_close(nghttp2_session *session, int32_t id, uint32_t error, void *connection)
{
	struct slot *slot = nghttp2_session_get_stream_user_data(session, id);

	(void)connection;
	if (!slot)
		return 0;
	if (error || !slot->good)
		refuse("stream ended", nghttp2_http2_strerror(error), 100);
	end(slot);
	return 0;
}

static void start_http2(struct connection *connection)
{
	nghttp2_session_callbacks *calls;
	nghttp2_settings_entry settings[] = {
		{ NGHTTP2_SETTINGS_ENABLE_PUSH, 0 },
		{ NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, WINDOW_BYTES },
	};

	if (nghttp2_session_callbacks_new(&calls))
		die("nghttp2");
	nghttp2_session_callbacks_set_on_header_callback(calls, on_header);
	nghttp2_session_callbacks_set_on_data_chunk_recv_callback(calls, on_data);
	nghttp2_session_callbacks_set_on_stream_close_callback(calls, on_close);
	if (nghttp2_session_client_new(&connection->h2, calls, connection))
		die("nghttp2");
	nghttp2_session_callbacks_del(calls);
	nghttp2_submit_settings(connection->h2, NGHTTP2_FLAG_NONE, settings, 2);
	nghttp2_session_set_local_window_size(connection->h2, NGHTTP2_FLAG_NONE, 0, WINDOW_BYTES);
}

/* --- running --------------------------------------------------------------------------------- */

static void dial(struct connection *connection, const char *address, const char *port)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port)) };
	struct epoll_event event = { .events = EPOLLIN, .data.ptr = connection };
	int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || inet_pton(AF_INET, address, &to.sin_addr) != 1)
		die("address");
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (connect(fd, (struct sockaddr *)&to, sizeof(to)) < 0)
		die("connect");
	if (fcntl(fd, F_SETFL, O_NONBLOCK) < 0 || epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event) < 0)
		die("epoll");
	connection->fd = fd;
	connection->slots = need(calloc((size_t)want.streams, sizeof(struct slot)));
	for (int i = 0; i < want.streams; i++) {
		connection->slots[i].connection = connection;
		idle[idle_count++] = &connection->slots[i];
	}
	if (want.http2)
		start_http2(connection);
}

static void receive(struct connection *connection)
{
	ssize_t got = recv(connection->fd, buffer, sizeof(buffer), 0);

	if (got < 0 && errno == EAGAIN)
		return;
	if (got < 0)
		die("recv");
	if (got == 0)
		refuse("the peer hung up", "", 0);
	connection->dirty = 1;
	if (!connection->h2) {
		take_http1(connection, buffer, (size_t)got);
		return;
	}
	got = nghttp2_session_mem_recv(connection->h2, (uint8_t *)buffer, (size_t)got);
	if (got < 0)
		refuse("nghttp2", nghttp2_strerror((int)got), 100);
}

static struct slot *take_idle(void)
{
	struct slot *slot = idle[idle_first];

	idle_first = (idle_first + 1) % slot_count;
	idle_count--;
	return slot;
}

static void pump_all(void)
{
	for (int i = 0; i < want.connections; i++) {
		if (connections[i].dirty)
			pump(&connections[i]);
	}
}

/* Returns how long to wait for an answer. */
static double begin_what_is_due(double *due)
{
	double now = now_us(), step = 1e6 / want.rate;

	while (*due <= now && *due < count_until && idle_count) {
		begin(take_idle(), *due);
		*due += step;
	}
	return *due < count_until && idle_count ? *due - now : STALL_MS * 1e3;
}

static void wait_for_answers(double wait_us)
{
	struct epoll_event events[EVENTS];
	struct timespec wait = { .tv_sec = (time_t)(wait_us / 1e6) };
	int ready;

	wait.tv_nsec = (long)((wait_us - (double)wait.tv_sec * 1e6) * 1e3);
	ready = epoll_pwait2(poller, events, EVENTS, &wait, NULL);
	if (ready < 0 && errno != EINTR)
		die("epoll");
	if (ready == 0 && wait_us >= STALL_MS * 1e3)
		refuse("no answer", "", 0);
	for (int i = 0; i < ready; i++) {
		struct connection *connection = events[i].data.ptr;

		if (events[i].events & EPOLLOUT)
			connection->dirty = 1;
		if (events[i].events & ~(uint32_t)EPOLLOUT)
			receive(connection);
	}
}

static void run(void)
{
	double start = now_us(), due = start, wait_us = STALL_MS * 1e3;

	count_from = start + want.warm_s * 1e6;
	count_until = count_from + want.seconds * 1e6;
	while (want.rate <= 0 && idle_count)
		begin(take_idle(), now_us());
	for (;;) {
		double now = now_us();

		if (want.rate > 0)
			wait_us = begin_what_is_due(&due);
		else if (now >= count_until && !want.message)
			return;
		if (!active && (want.rate > 0 ? due : now) >= count_until)
			return;
		if (now >= count_until + PATIENCE_US)
			refuse("requests without an answer", want.path, strlen(want.path));
		pump_all();
		wait_for_answers(wait_us > 0 ? wait_us : 0);
	}
}

static int by_size(const void *left, const void *right)
{
	double difference = *(const double *)left - *(const double *)right;

	return (difference > 0) - (difference < 0);
}

static double percentile(double share)
{
	size_t rank = (size_t)(share * (double)sample_count);

	return samples[rank < sample_count ? rank : sample_count - 1];
}

static int report(void)
{
	if (!sample_count) {
		fprintf(stderr, "nothing was answered in time\n");
		return 1;
	}
	qsort(samples, sample_count, sizeof(*samples), by_size);
	printf("{\"answered\": %llu, \"per_s\": %.3f, \"p50_us\": %.3f, \"p99_us\": %.3f, "
	       "\"p999_us\": %.3f}\n",
	       (unsigned long long)answered, (double)sample_count / want.seconds, percentile(0.5),
	       percentile(0.99), percentile(0.999));
	return 0;
}

static int usage(void)
{
	fprintf(stderr, "usage: http_load [-2] [-c N] [-m N] [-w S] [-s S] [-r N] [-b N] [-p N] "
			"ADDRESS PORT PATH [HEADER VALUE]...\n");
	return 2;
}

static int parse(int argc, char **argv)
{
	int option;

	while ((option = getopt(argc, argv, "+2c:m:w:s:r:b:p:")) != -1) {
		switch (option) {
		case '2': want.http2 = 1; break;
		case 'c': want.connections = atoi(optarg); break;
		case 'm': want.streams = atoi(optarg); break;
		case 'w': want.warm_s = atof(optarg); break;
		case 's': want.seconds = atof(optarg); break;
		case 'r': want.rate = atof(optarg); break;
		case 'b': want.body = strtoull(optarg, NULL, 10); break;
		case 'p': want.message = strtoull(optarg, NULL, 10); break;
		default: return -1;
		}
	}
	if (want.connections < 1 || want.connections > MAX_CONNECTIONS || want.streams < 1)
		return -1;
	if (!want.http2 && (want.streams != 1 || want.body || want.message))
		return -1;
	if (want.seconds <= 0 || (want.message && want.rate > 0))
		return -1;
	return optind + 3 <= argc ? optind : -1;
}

int main(int argc, char **argv)
{
	int first = parse(argc, argv);

	if (first < 0)
		return usage();
	want.path = argv[first + 2];
	if (want.http2)
		write_fields(argc - first - 3, argv + first + 3);
	else
		write_request(argc - first - 3, argv + first + 3);
	slot_count = (size_t)want.connections * (size_t)want.streams;
	idle = need(calloc(slot_count, sizeof(*idle)));
	samples = need(malloc(MAX_SAMPLES * sizeof(*samples)));
	connections = need(calloc((size_t)want.connections, sizeof(*connections)));
	poller = epoll_create1(EPOLL_CLOEXEC);
	if (poller < 0)
		die("epoll");
	for (int i = 0; i < want.connections; i++)
		dial(&connections[i], argv[first], argv[first + 1]);
	run();
	return report();
}
