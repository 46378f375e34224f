/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the meshnode authors */
/*
 * The chained CNI plugin (CNI 1.0): holds up the start of a pod until the agent has it captured.
 *
 * It decides nothing and reads of its configuration only what it needs to reach the agent: strings
 * and numbers at the top level. The agent gets everything and answers "OK" or "ERR CODE TEXT".
 * ADD prints `prevResult` byte by byte as it came. It fails closed: without an agent no pod starts,
 * but for the namespaces in `excludeNamespaces`, of which the agent itself has need. DEL never
 * fails: a pod must be able to go.
 */
#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define MAX_CONFIG (1 << 20)
#define MAX_ANSWER 4096
#define DEFAULT_TIMEOUT_S 30
#define VERSIONS "\"0.3.0\",\"0.3.1\",\"0.4.0\",\"1.0.0\",\"1.1.0\""

/* Codes of the CNI specification, "Error". */
enum { INVALID_ENVIRONMENT = 4, IO_FAILURE = 5, DECODE = 6, INVALID_CONFIG = 7, TRY_LATER = 11,
       PLUGIN_UNAVAILABLE = 50 };

struct slice {
	const char *at;
	size_t size;
};

static char config[MAX_CONFIG + 1];
static char version[32] = "1.0.0";

static const char *env(const char *name)
{
	const char *value = getenv(name);
	return value ? value : "";
}

static void print_json_text(const char *text)
{
	for (; *text; text++) {
		unsigned char c = (unsigned char)*text;
		if (c == '"' || c == '\\')
			printf("\\%c", c);
		else if (c < 0x20)
			printf("\\u%04x", c);
		else
			putchar(c);
	}
}

static _Noreturn void fail(int code, const char *form, ...)
{
	char text[1024];
	va_list list;

	va_start(list, form);
	vsnprintf(text, sizeof text, form, list);
	va_end(list);
	printf("{\"cniVersion\":\"%s\",\"code\":%d,\"msg\":\"meshnode: ", version, code);
	print_json_text(text);
	printf("\"}\n");
	exit(1);
}

/* ---- the little JSON that is needed ------------------------------------------------------- */

static const char *skip_space(const char *p)
{
	while (*p == ' ' || *p == '\t' || *p == '\n' || *p == '\r')
		p++;
	return p;
}

/* Past the string that begins at `p`; NULL if it does not end. */
static const char *skip_string(const char *p)
{
	for (p++; *p && *p != '"'; p++)
		if (*p == '\\' && !*++p)
			return NULL;
	return *p ? p + 1 : NULL;
}

/* Past the value that begins at `p`; NULL if it does not end. Brackets are counted, not matched
 * by kind: whoever wrote the configuration had it checked by the runtime. */
static const char *skip_value(const char *p)
{
	int depth = 0;

	do {
		p = skip_space(p);
		if (*p == '"') {
			p = skip_string(p);
			if (!p)
				return NULL;
		} else if (*p == '{' || *p == '[') {
			depth++;
			p++;
		} else if (*p == '}' || *p == ']') {
			depth--;
			p++;
		} else if (*p == ',' || *p == ':') {
			p++;
		} else if (*p) {
			while (*p && !strchr(" \t\r\n,:{}[]\"", *p))
				p++;
		} else {
			return NULL;
		}
	} while (depth > 0);
	return depth == 0 ? p : NULL;
}

/* The value of a key at the top level; size 0 if there is none. */
static struct slice lookup(const char *key)
{
	struct slice none = {NULL, 0};
	size_t size = strlen(key);
	const char *p = skip_space(config);

	if (*p++ != '{')
		fail(DECODE, "the configuration is no JSON object");
	for (;;) {
		const char *name = skip_space(p), *end, *value;
		if (*name == '}')
			return none;
		if (*name != '"' || !(end = skip_string(name)))
			fail(DECODE, "the configuration is broken JSON");
		value = skip_space(end);
		if (*value++ != ':')
			fail(DECODE, "the configuration is broken JSON");
		value = skip_space(value);
		p = skip_value(value);
		if (!p)
			fail(DECODE, "the configuration is broken JSON");
		if ((size_t)(end - name) == size + 2 && !strncmp(name + 1, key, size))
			return (struct slice){value, (size_t)(p - value)};
		p = skip_space(p);
		if (*p == ',')
			p++;
	}
}

/* A string without escapes; returns whether the key was there. */
static int lookup_text(const char *key, char *into, size_t room)
{
	struct slice found = lookup(key);

	if (!found.size)
		return 0;
	if (found.size < 2 || *found.at != '"' || found.size - 2 >= room ||
	    memchr(found.at, '\\', found.size))
		fail(INVALID_CONFIG, "%s must be a plain text of less than %zu bytes", key, room);
	memcpy(into, found.at + 1, found.size - 2);
	into[found.size - 2] = 0;
	return 1;
}

/* ---- the agent ---------------------------------------------------------------------------- */

static long long now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000LL + t.tv_nsec / 1000000;
}

/* Wait for `events` until `end`; 0 in time, -1 too late. */
static int wait_for(int fd, short events, long long end)
{
	for (;;) {
		struct pollfd one = {.fd = fd, .events = events};
		long long left = end - now_ms();
		int n = poll(&one, 1, left > 0 ? (int)left : 0);
		if (n > 0)
			return 0;
		if (n == 0)
			return -1;
		if (errno != EINTR)
			return -1;
	}
}

/* Connect; the path may be longer than an address of a unix socket, so go to its directory. */
static int dial(char *path)
{
	struct sockaddr_un to = {.sun_family = AF_UNIX};
	char *slash = strrchr(path, '/');
	int fd;

	if (*path != '/' || !slash || !slash[1] || strlen(slash + 1) >= sizeof to.sun_path)
		fail(INVALID_CONFIG, "agentSocket must be an absolute path");
	strcpy(to.sun_path, slash + 1);
	*slash = 0;
	if (chdir(slash == path ? "/" : path)) {
		*slash = '/';
		return -1;
	}
	*slash = '/';
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd >= 0 && connect(fd, (struct sockaddr *)&to, sizeof to)) {
		int why = errno;
		close(fd);
		errno = why;
		return -1;
	}
	return fd;
}

static int send_all(int fd, const char *data, size_t size, long long end)
{
	while (size) {
		ssize_t n = send(fd, data, size, MSG_NOSIGNAL);
		if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
			if (wait_for(fd, POLLOUT, end))
				return -1;
			continue;
		}
		if (n < 0)
			return -1;
		data += n;
		size -= (size_t)n;
	}
	return 0;
}

/* Command and environment, each ended by a zero byte, then the configuration. */
static int ask(int fd, const char *command, long long end)
{
	static const char *const names[] = {
		"CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS",
	};
	size_t i;

	if (send_all(fd, command, strlen(command) + 1, end))
		return -1;
	for (i = 0; i < sizeof names / sizeof *names; i++)
		if (send_all(fd, env(names[i]), strlen(env(names[i])) + 1, end))
			return -1;
	if (send_all(fd, config, strlen(config), end))
		return -1;
	return shutdown(fd, SHUT_WR);
}

/* The agent's answer; -1 if none came in time. */
static int hear(int fd, char *answer, size_t room, long long end)
{
	size_t size = 0;

	while (size + 1 < room) {
		ssize_t n;
		if (wait_for(fd, POLLIN, end))
			return -1;
		n = read(fd, answer + size, room - 1 - size);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			continue;
		if (n < 0)
			return -1;
		if (n == 0)
			break;
		size += (size_t)n;
	}
	answer[size] = 0;
	return size ? 0 : -1;
}

/* Ask the agent; returns only if it agrees. */
static void must_agree(const char *command, int code)
{
	static char answer[MAX_ANSWER];
	char path[4096], *text;
	struct slice limit = lookup("timeoutSeconds");
	long timeout = limit.size ? strtol(limit.at, NULL, 10) : DEFAULT_TIMEOUT_S;
	long long end;
	int fd, found;

	if (timeout < 1 || timeout > 3600)
		fail(INVALID_CONFIG, "timeoutSeconds must be 1 to 3600");
	end = now_ms() + timeout * 1000LL;
	if (!lookup_text("agentSocket", path, sizeof path))
		fail(INVALID_CONFIG, "agentSocket is missing");
	/* An agent that is being replaced is back within seconds. */
	while ((fd = dial(path)) < 0 && now_ms() < end)
		poll(NULL, 0, 100);
	if (fd < 0)
		fail(code, "no agent answers at %s (%s): the pod would not be in the mesh; "
		     "is the meshnode-agent pod of this node running?", path, strerror(errno));
	if (ask(fd, command, end) || hear(fd, answer, sizeof answer, end))
		fail(code, "the agent at %s did not answer within %ld s; its log says why",
		     path, timeout);
	if (!strncmp(answer, "OK", 2))
		return;
	if (strncmp(answer, "ERR ", 4))
		fail(IO_FAILURE, "the agent at %s said nonsense", path);
	found = (int)strtol(answer + 4, &text, 10);
	text[strcspn(text, "\n")] = 0;
	fail(found > 0 ? found : code, "%s", *text == ' ' ? text + 1 : text);
}

/* ---- commands ----------------------------------------------------------------------------- */

/* Whether the pod is in a namespace that starts without us: CNI_ARGS has K8S_POD_NAMESPACE=x. */
static int is_excluded(void)
{
	static const char key[] = "K8S_POD_NAMESPACE=";
	char list[4096];
	const char *args = env("CNI_ARGS"), *name = NULL, *p;
	size_t size;

	if (!lookup_text("excludeNamespaces", list, sizeof list))
		return 0;
	for (p = args; p; p = strchr(p, ';')) {
		p += *p == ';';
		if (!strncmp(p, key, sizeof key - 1))
			name = p + sizeof key - 1;
	}
	if (!name)
		return 0;
	size = strcspn(name, ";");
	for (p = list; *p; p += *p == ',') {
		size_t length = strcspn(p, ",");
		if (length == size && size && !strncmp(p, name, size))
			return 1;
		p += length;
	}
	return 0;
}

static void add(void)
{
	struct slice before = lookup("prevResult");

	if (!before.size)
		fail(INVALID_CONFIG, "there is no prevResult: this plugin must be chained after "
		     "the one that makes the pod's interface");
	if (!is_excluded())
		must_agree("ADD", TRY_LATER);
	fwrite(before.at, 1, before.size, stdout);
	putchar('\n');
}

/* Tell the agent if it is there; the pod goes in any case. */
static void del(void)
{
	static char answer[MAX_ANSWER];
	char path[4096];
	long long end = now_ms() + 2000;
	int fd;

	if (!lookup_text("agentSocket", path, sizeof path))
		return;
	fd = dial(path);
	if (fd >= 0 && !ask(fd, "DEL", end))
		(void)hear(fd, answer, sizeof answer, end);
}

int main(void)
{
	const char *command = env("CNI_COMMAND");
	size_t size = fread(config, 1, MAX_CONFIG, stdin);

	config[size] = 0;
	if (!strcmp(command, "VERSION")) {
		printf("{\"cniVersion\":\"1.1.0\",\"supportedVersions\":[" VERSIONS "]}\n");
		return 0;
	}
	if (ferror(stdin) || strlen(config) != size || size == MAX_CONFIG)
		fail(IO_FAILURE, "the configuration on standard input cannot be read");
	lookup_text("cniVersion", version, sizeof version);
	if (!strcmp(command, "ADD"))
		add();
	else if (!strcmp(command, "DEL"))
		del();
	else if (!strcmp(command, "CHECK"))
		is_excluded() ? (void)0 : must_agree("CHECK", TRY_LATER);
	else if (!strcmp(command, "STATUS"))
		must_agree("STATUS", PLUGIN_UNAVAILABLE);
	else if (strcmp(command, "GC"))
		fail(INVALID_ENVIRONMENT, "CNI_COMMAND is \"%s\"", command);
	return 0;
}
