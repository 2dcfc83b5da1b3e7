/* board: the client's side; see board.h. Strictly one request, one reply. */
#define _GNU_SOURCE
#include "comm/board.h"

#include "base/clock.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define TICK_MS   50
#define RETRY_S   0.1
#define CONNECT_S 2.0 /* one try */

struct mt_board {
	int fd;
	uint64_t token;
	char peer[80];
	bool (*cancelled)(void *context);
	void *context;
};

static enum mt_status broken(const struct mt_board *board, const char *what)
{
	return mt_fail(MT_FAILED, "the job's board at %s: %s: has rank 0 ended?", board->peer, what);
}

/* Waits until the socket can be read from or written to. */
static enum mt_status await(const struct mt_board *board, short events)
{
	for (;;) {
		struct pollfd p = {.fd = board->fd, .events = events};
		int ready = poll(&p, 1, TICK_MS);
		if (ready > 0)
			return MT_OK;
		if (ready < 0 && errno != EINTR)
			return broken(board, strerror(errno));
		if (board->cancelled && board->cancelled(board->context))
			return mt_fail(MT_FAILED, "the job's board at %s: given up waiting", board->peer);
	}
}

static enum mt_status push(const struct mt_board *board, const void *data, size_t bytes)
{
	for (const char *at = data; bytes > 0;) {
		MT_TRY(await(board, POLLOUT));
		ssize_t n = send(board->fd, at, bytes, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0 && errno != EINTR && errno != EAGAIN)
			return broken(board, strerror(errno));
		at += n > 0 ? n : 0;
		bytes -= n > 0 ? (size_t)n : 0;
	}
	return MT_OK;
}

static enum mt_status pull(const struct mt_board *board, void *data, size_t bytes)
{
	for (char *at = data; bytes > 0;) {
		MT_TRY(await(board, POLLIN));
		ssize_t n = recv(board->fd, at, bytes, MSG_DONTWAIT);
		if (n == 0)
			return broken(board, "it was closed");
		if (n < 0 && errno != EINTR && errno != EAGAIN)
			return broken(board, strerror(errno));
		at += n > 0 ? n : 0;
		bytes -= n > 0 ? (size_t)n : 0;
	}
	return MT_OK;
}

static enum mt_status skip(const struct mt_board *board, size_t bytes)
{
	char waste[4096];
	for (size_t n; bytes > 0; bytes -= n) {
		n = bytes < sizeof waste ? bytes : sizeof waste;
		MT_TRY(pull(board, waste, n));
	}
	return MT_OK;
}

static enum mt_status send_request(const struct mt_board *board, struct mt_board_request *request, const char *key,
				   const void *data)
{
	if (snprintf(request->key, sizeof request->key, "%s", key) >= (int)sizeof request->key)
		return mt_fail(MT_INPUT, "the job's board: key '%s' is too long", key);
	request->token = board->token;
	MT_TRY(push(board, request, sizeof *request));
	return push(board, data, request->bytes);
}

/* Puts at most `room` bytes of the answer into `answer`. */
static enum mt_status await_reply(const struct mt_board *board, void *answer, size_t room, size_t *got)
{
	struct mt_board_reply reply;
	MT_TRY(pull(board, &reply, sizeof reply));
	if (reply.token != board->token)
		return broken(board, "its answer is not one of ours");
	*got = reply.bytes;
	size_t kept = reply.bytes < room ? reply.bytes : room;
	MT_TRY(pull(board, answer, kept));
	return skip(board, reply.bytes - kept);
}

static enum mt_status ask(const struct mt_board *board, struct mt_board_request *request, const char *key, const void *data,
			  void *answer, size_t room, size_t *got)
{
	MT_TRY(send_request(board, request, key, data));
	return await_reply(board, answer, room, got);
}

/* To a port of the host's own that nobody serves yet, a connection may be given that very port, and so meet itself. */
static bool meets_itself(int fd)
{
	struct sockaddr_storage own = {0}, other = {0};
	socklen_t own_bytes = sizeof own, other_bytes = sizeof other;
	return getsockname(fd, (struct sockaddr *)&own, &own_bytes) == 0 &&
	       getpeername(fd, (struct sockaddr *)&other, &other_bytes) == 0 && own_bytes == other_bytes &&
	       memcmp(&own, &other, own_bytes) == 0;
}

/* One try; -1 with errno. */
static int dial(const struct addrinfo *address)
{
	int one = 1, cause = 0;
	socklen_t length = sizeof cause;
	int fd = socket(address->ai_family, address->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -1;
	struct pollfd p = {.fd = fd, .events = POLLOUT};
	if (connect(fd, address->ai_addr, address->ai_addrlen) == 0)
		goto joined;
	if (errno == EINPROGRESS && poll(&p, 1, (int)(CONNECT_S * 1e3)) == 1 &&
	    getsockopt(fd, SOL_SOCKET, SO_ERROR, &cause, &length) == 0 && cause == 0)
		goto joined;
	close(fd);
	errno = cause ? cause : ETIMEDOUT;
	return -1;
joined:
	if (meets_itself(fd)) {
		close(fd);
		errno = ECONNREFUSED;
		return -1;
	}
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	return fd;
}

static int dial_any(const char *host, int port)
{
	struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM}, *found = NULL;
	char service[16];
	int fd = -1;
	snprintf(service, sizeof service, "%d", port);
	if (getaddrinfo(host, service, &hints, &found) != 0) {
		errno = EHOSTUNREACH;
		return -1;
	}
	for (const struct addrinfo *a = found; a && fd < 0; a = a->ai_next)
		fd = dial(a);
	freeaddrinfo(found);
	return fd;
}

enum mt_status mt_board_connect(struct mt_board **board, const char *host, int port, uint64_t token, double patience_s)
{
	double end_s = mt_clock_s() + patience_s;
	struct mt_board *b = calloc(1, sizeof *b);
	struct mt_board_request hello = {.kind = MT_BOARD_HELLO};
	size_t got;
	*board = NULL;
	if (!b)
		return mt_fail(MT_NOMEM, "the job's board: no memory");
	b->token = token;
	snprintf(b->peer, sizeof b->peer, "%.60s:%d", host, port);
	while ((b->fd = dial_any(host, port)) < 0) {
		int cause = errno;
		if (mt_clock_s() >= end_s) {
			free(b);
			return mt_fail(MT_FAILED, "the job's board at %s:%d cannot be reached: %s", host, port, strerror(cause));
		}
		mt_clock_sleep(RETRY_S);
	}
	enum mt_status st = ask(b, &hello, "", NULL, NULL, 0, &got);
	if (st != MT_OK) {
		mt_board_close(b);
		return st;
	}
	*board = b;
	return MT_OK;
}

void mt_board_close(struct mt_board *board)
{
	if (!board)
		return;
	close(board->fd);
	free(board);
}

void mt_board_cancel_when(struct mt_board *board, bool (*cancelled)(void *context), void *context)
{
	board->cancelled = cancelled;
	board->context = context;
}

static enum mt_status size_differs(const char *key, size_t got, size_t want)
{
	return mt_fail(MT_FAILED, "the job's board: '%s' is of %zu bytes, not %zu: the ranks do not do the same", key, got, want);
}

enum mt_status mt_board_gather(struct mt_board *board, const char *key, int part, int parts, const void *data, size_t bytes,
			       void *all)
{
	struct mt_board_request request = {.kind = MT_BOARD_GATHER, .part = part, .parts = parts, .bytes = bytes};
	size_t got, want = (size_t)parts * bytes;
	MT_TRY(ask(board, &request, key, data, all, want, &got));
	return got == want ? MT_OK : size_differs(key, got, want);
}

enum mt_status mt_board_put(struct mt_board *board, const char *key, const void *data, size_t bytes)
{
	struct mt_board_request request = {.kind = MT_BOARD_PUT, .bytes = bytes};
	size_t got;
	return ask(board, &request, key, data, NULL, 0, &got);
}

enum mt_status mt_board_read(struct mt_board *board, const char *key, void *data, size_t bytes, size_t *got)
{
	struct mt_board_request request = {.kind = MT_BOARD_READ};
	return ask(board, &request, key, NULL, data, bytes, got);
}

enum mt_status mt_board_send(struct mt_board *board, const char *key, const void *data, size_t bytes)
{
	struct mt_board_request request = {.kind = MT_BOARD_SEND, .bytes = bytes};
	size_t got;
	return ask(board, &request, key, data, NULL, 0, &got);
}

enum mt_status mt_board_take(struct mt_board *board, const char *key, void *data, size_t bytes)
{
	struct mt_board_request request = {.kind = MT_BOARD_TAKE};
	size_t got;
	MT_TRY(ask(board, &request, key, NULL, data, bytes, &got));
	return got == bytes ? MT_OK : size_differs(key, got, bytes);
}

enum mt_status mt_board_guard(struct mt_board *board, int rank)
{
	struct mt_board_request request = {.kind = MT_BOARD_GUARD, .part = rank};
	return send_request(board, &request, "", NULL);
}

enum mt_status mt_board_guarded(struct mt_board *board, int *rank, int *code)
{
	struct mt_board_verdict verdict = {0};
	size_t got;
	MT_TRY(await_reply(board, &verdict, sizeof verdict, &got));
	*rank = verdict.rank;
	*code = verdict.code;
	return got == sizeof verdict ? MT_OK : size_differs("guard", got, sizeof verdict);
}

enum mt_status mt_board_end(struct mt_board *board, int rank, int code)
{
	struct mt_board_request request = {.kind = MT_BOARD_END, .part = rank, .parts = code};
	size_t got;
	return ask(board, &request, "", NULL, NULL, 0, &got);
}
