/* board_server: the side of rank 0; see board.h. One thread polls all connections. A request is handled when all of it is
 * there; one that waits keeps its client on the wanted key until another client's request brings what is missing. */
#define _GNU_SOURCE
#include "comm/board.h"

#include "base/clock.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define MOST_BYTES ((uint64_t)1 << 31) /* of one request */
#define SEND_S     10                  /* a client that takes no bytes for so long is dropped */

struct client {
	struct client *next;
	int fd;
	bool greeted, waits; /* for an answer to `request` */
	int guards;          /* rank + 1; 0: no rank's guard */
	struct mt_board_request request;
	char *data;  /* owned: what has come of the request's data */
	size_t have; /* bytes of the request and its data so far */
};

/* A gather under way, a value, or a message. */
struct entry {
	struct entry *next;
	enum mt_board_kind kind;
	char key[MT_BOARD_KEY];
	char *data; /* owned */
	size_t bytes;
	int came; /* gather: parts so far */
};

struct mt_board_server {
	int listener, bell, port;
	uint64_t token;
	pthread_t thread;
	_Atomic bool stop;
	double stop_s;
	struct client *clients; /* owned */
	struct entry *entries;  /* owned, in the order they came */
	bool over;              /* a rank ended the job: */
	struct mt_board_verdict verdict;
};

static void unlink_client(struct mt_board_server *s, struct client *c)
{
	struct client **at = &s->clients;
	while (*at != c)
		at = &(*at)->next;
	*at = c->next;
	close(c->fd);
	free(c->data);
	free(c);
}

static bool send_all(int fd, const void *data, size_t bytes)
{
	for (const char *at = data; bytes > 0;) {
		ssize_t n = send(fd, at, bytes, MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		at += n;
		bytes -= (size_t)n;
	}
	return true;
}

/* A client that cannot be answered is shut down, so that its next poll drops it. */
static void answer(const struct mt_board_server *s, struct client *c, const void *data, size_t bytes)
{
	struct mt_board_reply reply = {.token = s->token, .bytes = bytes};
	c->waits = false;
	if (!send_all(c->fd, &reply, sizeof reply) || !send_all(c->fd, data, bytes))
		shutdown(c->fd, SHUT_RDWR);
}

static struct entry *find(const struct mt_board_server *s, enum mt_board_kind kind, const char *key)
{
	struct entry *e = s->entries;
	while (e && (e->kind != kind || strcmp(e->key, key) != 0))
		e = e->next;
	return e;
}

static void forget(struct mt_board_server *s, struct entry *e)
{
	struct entry **at = &s->entries;
	while (*at != e)
		at = &(*at)->next;
	*at = e->next;
	free(e->data);
	free(e);
}

static struct entry *add(struct mt_board_server *s, enum mt_board_kind kind, const char *key, size_t bytes)
{
	struct entry **last = &s->entries, *e = calloc(1, sizeof *e);
	if (!e || !(e->data = malloc(bytes + 1))) {
		free(e);
		return NULL;
	}
	e->kind = kind;
	e->bytes = bytes;
	memcpy(e->key, key, sizeof e->key);
	while (*last)
		last = &(*last)->next;
	*last = e;
	return e;
}

/* The first end counts, and is told to every guard but its own. */
static void judge(struct mt_board_server *s, int rank, int code)
{
	if (s->over)
		return;
	s->over = true;
	s->verdict = (struct mt_board_verdict){.rank = rank, .code = code};
	for (struct client *c = s->clients; c; c = c->next)
		if (c->guards && c->guards != rank + 1 && c->waits)
			answer(s, c, &s->verdict, sizeof s->verdict);
}

static void key_of_end(int rank, char key[MT_BOARD_KEY])
{
	memset(key, 0, MT_BOARD_KEY);
	snprintf(key, MT_BOARD_KEY, "%d", rank);
}

/* A guard that goes before its rank has said so. */
static void drop(struct mt_board_server *s, struct client *c)
{
	int rank = c->guards - 1;
	char key[MT_BOARD_KEY];
	unlink_client(s, c);
	key_of_end(rank, key);
	if (rank >= 0 && !find(s, MT_BOARD_END, key))
		judge(s, rank, -1);
}

static bool guard(struct mt_board_server *s, struct client *c)
{
	if (c->request.part < 0)
		return false;
	c->guards = c->request.part + 1;
	c->waits = true;
	if (s->over && s->verdict.rank != c->request.part)
		answer(s, c, &s->verdict, sizeof s->verdict);
	return true;
}

static bool end(struct mt_board_server *s, struct client *c)
{
	char key[MT_BOARD_KEY];
	key_of_end(c->request.part, key);
	if (!find(s, MT_BOARD_END, key) && !add(s, MT_BOARD_END, key, 0))
		return false;
	if (c->request.parts)
		judge(s, c->request.part, c->request.parts);
	answer(s, c, NULL, 0);
	return true;
}

static bool waits_for(const struct client *c, enum mt_board_kind kind, const char *key)
{
	return c->waits && c->request.kind == (uint32_t)kind && strcmp(c->request.key, key) == 0;
}

/* False: the request makes no sense, or there is no memory. */
static bool gather(struct mt_board_server *s, struct client *c)
{
	const struct mt_board_request *r = &c->request;
	struct entry *e = find(s, MT_BOARD_GATHER, r->key);
	if (r->parts < 1 || r->part < 0 || r->part >= r->parts || r->bytes > MOST_BYTES / (uint64_t)r->parts)
		return false;
	if (!e && !(e = add(s, MT_BOARD_GATHER, r->key, r->bytes * (size_t)r->parts)))
		return false;
	if (e->bytes != r->bytes * (size_t)r->parts)
		return false;
	memcpy(e->data + r->bytes * (size_t)r->part, c->data, r->bytes);
	c->waits = true;
	if (++e->came < r->parts)
		return true;
	for (struct client *o = s->clients; o; o = o->next)
		if (waits_for(o, MT_BOARD_GATHER, e->key))
			answer(s, o, e->data, e->bytes);
	forget(s, e);
	return true;
}

static bool put(struct mt_board_server *s, struct client *c)
{
	struct entry *e = find(s, MT_BOARD_PUT, c->request.key);
	if (e && e->bytes != c->request.bytes) {
		forget(s, e);
		e = NULL;
	}
	if (!e && !(e = add(s, MT_BOARD_PUT, c->request.key, c->request.bytes)))
		return false;
	memcpy(e->data, c->data, e->bytes);
	answer(s, c, NULL, 0);
	return true;
}

static bool keep_message(struct mt_board_server *s, struct client *c)
{
	for (struct client *o = s->clients; o; o = o->next) {
		if (waits_for(o, MT_BOARD_TAKE, c->request.key)) {
			answer(s, o, c->data, c->request.bytes);
			answer(s, c, NULL, 0);
			return true;
		}
	}
	struct entry *e = add(s, MT_BOARD_SEND, c->request.key, c->request.bytes);
	if (!e)
		return false;
	memcpy(e->data, c->data, e->bytes);
	answer(s, c, NULL, 0);
	return true;
}

static bool take(struct mt_board_server *s, struct client *c)
{
	struct entry *e = find(s, MT_BOARD_SEND, c->request.key);
	c->waits = true;
	if (e) {
		answer(s, c, e->data, e->bytes);
		forget(s, e);
	}
	return true;
}

static bool handle(struct mt_board_server *s, struct client *c)
{
	struct entry *e;
	switch (c->request.kind) {
	case MT_BOARD_HELLO:
		c->greeted = true;
		answer(s, c, NULL, 0);
		return true;
	case MT_BOARD_GATHER:
		return gather(s, c);
	case MT_BOARD_PUT:
		return put(s, c);
	case MT_BOARD_READ:
		e = find(s, MT_BOARD_PUT, c->request.key);
		answer(s, c, e ? e->data : NULL, e ? e->bytes : 0);
		return true;
	case MT_BOARD_SEND:
		return keep_message(s, c);
	case MT_BOARD_TAKE:
		return take(s, c);
	case MT_BOARD_GUARD:
		return guard(s, c);
	case MT_BOARD_END:
		return end(s, c);
	default:
		return false;
	}
}

/* The request's head is there: it is one of ours, and there is room for its data. */
static bool open_request(const struct mt_board_server *s, struct client *c)
{
	const struct mt_board_request *r = &c->request;
	if (r->token != s->token || r->bytes > MOST_BYTES || r->key[sizeof r->key - 1] != '\0' ||
	    (!c->greeted && r->kind != MT_BOARD_HELLO))
		return false;
	c->data = malloc(r->bytes + 1);
	return c->data != NULL;
}

/* Takes what has come; false when the client is gone or talks nonsense. */
static bool hear(struct mt_board_server *s, struct client *c)
{
	size_t head = sizeof c->request, whole = c->have < head ? head : head + c->request.bytes;
	char *to = c->have < head ? (char *)&c->request + c->have : c->data + (c->have - head);
	if (c->waits)
		return false; /* it must not ask before it was answered: this is its end */
	ssize_t n = whole > c->have ? recv(c->fd, to, whole - c->have, MSG_DONTWAIT) : 0;
	if (n < 0)
		return errno == EINTR || errno == EAGAIN;
	if (n == 0 && whole > c->have)
		return false;
	c->have += (size_t)n;
	if (c->have == head && !c->data && !open_request(s, c))
		return false;
	if (c->have < head || c->have < head + c->request.bytes)
		return true;
	c->have = 0;
	bool fine = handle(s, c);
	free(c->data);
	c->data = NULL;
	return fine;
}

static void admit(struct mt_board_server *s)
{
	struct timeval limit = {.tv_sec = SEND_S};
	int one = 1, fd = accept4(s->listener, NULL, NULL, SOCK_CLOEXEC);
	struct client *c = fd < 0 ? NULL : calloc(1, sizeof *c);
	if (!c) {
		if (fd >= 0)
			close(fd);
		return;
	}
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
	c->fd = fd;
	c->next = s->clients;
	s->clients = c;
}

static int count_clients(const struct mt_board_server *s)
{
	int n = 0;
	for (const struct client *c = s->clients; c; c = c->next)
		n++;
	return n;
}

/* One poll of everything. False without memory. */
static bool attend(struct mt_board_server *s)
{
	int count = count_clients(s), i = 2;
	struct pollfd *polls = calloc((size_t)count + 2, sizeof *polls);
	if (!polls)
		return false;
	polls[0] = (struct pollfd){.fd = s->listener, .events = POLLIN};
	polls[1] = (struct pollfd){.fd = atomic_load_explicit(&s->stop, memory_order_acquire) ? -1 : s->bell, .events = POLLIN};
	for (struct client *c = s->clients; c; c = c->next)
		polls[i++] = (struct pollfd){.fd = c->fd, .events = POLLIN};
	poll(polls, (nfds_t)count + 2, polls[1].fd < 0 ? 10 : -1);
	i = 2;
	for (struct client *c = s->clients, *next; c; c = next) {
		next = c->next;
		if (polls[i++].revents && !hear(s, c))
			drop(s, c);
	}
	if (polls[0].revents)
		admit(s);
	free(polls);
	return true;
}

static void *serve(void *context)
{
	struct mt_board_server *s = context;
	prctl(PR_SET_NAME, "mt-board", 0, 0, 0);
	while (!atomic_load(&s->stop) || (s->clients && mt_clock_s() < s->stop_s))
		if (!attend(s))
			break;
	return NULL;
}

static enum mt_status listen_at(struct mt_board_server *s, int port, bool loopback)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
	socklen_t length = sizeof address;
	int one = 1;
	address.sin_addr.s_addr = htonl(loopback ? INADDR_LOOPBACK : INADDR_ANY);
	s->bell = eventfd(0, EFD_CLOEXEC);
	s->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (s->bell < 0 || s->listener < 0)
		return mt_fail(MT_FAILED, "the job's board: no socket: %s", strerror(errno));
	setsockopt(s->listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (bind(s->listener, (struct sockaddr *)&address, sizeof address) != 0 || listen(s->listener, 1024) != 0)
		return mt_fail(MT_FAILED, "the job's board: port %d cannot be served: %s; choose another (MASTER_PORT)", port,
			       strerror(errno));
	if (getsockname(s->listener, (struct sockaddr *)&address, &length) != 0)
		return mt_fail(MT_FAILED, "the job's board: %s", strerror(errno));
	s->port = ntohs(address.sin_port);
	return MT_OK;
}

static void release(struct mt_board_server *s)
{
	while (s->clients)
		unlink_client(s, s->clients);
	while (s->entries)
		forget(s, s->entries);
	if (s->listener >= 0)
		close(s->listener);
	if (s->bell >= 0)
		close(s->bell);
	free(s);
}

enum mt_status mt_board_serve(struct mt_board_server **server, int port, uint64_t token, bool loopback)
{
	struct mt_board_server *s = calloc(1, sizeof *s);
	sigset_t all, before;
	enum mt_status st;
	*server = NULL;
	if (!s)
		return mt_fail(MT_NOMEM, "the job's board: no memory");
	s->listener = s->bell = -1;
	s->token = token;
	MT_GOTO(fail, listen_at(s, port, loopback));
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int code = pthread_create(&s->thread, NULL, serve, s);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (code)
		MT_GOTO(fail, mt_fail(MT_FAILED, "the job's board: its thread could not be started: %s", strerror(code)));
	*server = s;
	return MT_OK;
fail:
	release(s);
	return st;
}

int mt_board_port(const struct mt_board_server *server)
{
	return server->port;
}

void mt_board_stop(struct mt_board_server *server, double linger_s)
{
	uint64_t one = 1;
	if (!server)
		return;
	server->stop_s = mt_clock_s() + linger_s;
	atomic_store(&server->stop, true);
	ssize_t ignored = write(server->bell, &one, sizeof one);
	(void)ignored;
	pthread_join(server->thread, NULL);
	release(server);
}
