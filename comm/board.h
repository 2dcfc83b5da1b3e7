/* board: what the ranks of a job tell each other beside their collectives, over TCP: rank 0 serves it from a thread of its
 * own, so it answers while every rank hangs. It brings ranks together where there is no MPI (tcp.c), tells the others when one
 * ends, and keeps each rank's progress for the watchdog.
 *
 * Requests: gather waits for one part of every rank and gives all of them to each; put keeps a value, read gives the
 * latest one without waiting; send and take are messages, kept until taken. A board belongs to one thread.
 * A client must know the job's token, so that other people's programs are not let in. */
#ifndef MT_COMM_BOARD_H
#define MT_COMM_BOARD_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MT_BOARD_KEY 64 /* longest key, with its end */

struct mt_board_server;
struct mt_board;

/* Serves at `port` (0: any free one) on all interfaces, or on the loopback alone. */
enum mt_status mt_board_serve(struct mt_board_server **server, int port, uint64_t token, bool loopback);
int mt_board_port(const struct mt_board_server *server);
/* Waits up to `linger_s` for the clients to go first. */
void mt_board_stop(struct mt_board_server *server, double linger_s);

/* Tries again until the server is there or patience_s is over. */
enum mt_status mt_board_connect(struct mt_board **board, const char *host, int port, uint64_t token, double patience_s);
void mt_board_close(struct mt_board *board);
/* Asked while a request waits, every 50 ms: true ends it with MT_FAILED, and the board can only be closed then. */
void mt_board_cancel_when(struct mt_board *board, bool (*cancelled)(void *context), void *context);

/* Every one of `parts` callers brings `bytes` bytes (the same number); all gets parts * bytes, in order of parts. */
enum mt_status mt_board_gather(struct mt_board *board, const char *key, int part, int parts, const void *data, size_t bytes,
			       void *all);
enum mt_status mt_board_put(struct mt_board *board, const char *key, const void *data, size_t bytes);
/* *got: the size of the value, 0 when there is none; at most `bytes` of it are copied. */
enum mt_status mt_board_read(struct mt_board *board, const char *key, void *data, size_t bytes, size_t *got);
enum mt_status mt_board_send(struct mt_board *board, const char *key, const void *data, size_t bytes);
/* Waits for a message of that key; MT_FAILED when it is not of `bytes` bytes. */
enum mt_status mt_board_take(struct mt_board *board, const char *key, void *data, size_t bytes);

/* A rank's guard is a connection of its own that stays as long as the rank lives. guard sends the request; guarded waits for its
 * answer: another rank has ended the job, with an exit code, or -1 when it went without a word. */
enum mt_status mt_board_guard(struct mt_board *board, int rank);
enum mt_status mt_board_guarded(struct mt_board *board, int *rank, int *code);
/* This rank ends. Code 0: in order, nobody is told; else the others' guards are. */
enum mt_status mt_board_end(struct mt_board *board, int rank, int code);

/* How client and server talk; for board.c and board_server.c. */
enum mt_board_kind {
	MT_BOARD_HELLO,
	MT_BOARD_GATHER,
	MT_BOARD_PUT,
	MT_BOARD_READ,
	MT_BOARD_SEND,
	MT_BOARD_TAKE,
	MT_BOARD_GUARD,
	MT_BOARD_END
};

struct mt_board_verdict {
	int32_t rank, code;
};

struct mt_board_request {
	uint64_t token;
	uint32_t kind;
	int32_t part, parts; /* guard, end: the rank; end: the code */
	uint32_t padding;
	uint64_t bytes; /* of data, which follows */
	char key[MT_BOARD_KEY];
};

struct mt_board_reply {
	uint64_t token;
	uint64_t bytes; /* of data, which follows */
};

#endif
