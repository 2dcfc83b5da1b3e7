/* The board brings ranks together, keeps values and passes messages on; strangers are not let in. */
#include "comm/board.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define TOKEN 0x5eedu
enum { RANKS = 5, ROUNDS = 30, LONG = 300000 };

struct rank {
	int rank, port, wrong;
	pthread_t thread;
};

static void *gather_often(void *context)
{
	struct rank *me = context;
	struct mt_board *board = NULL;
	int all[RANKS];
	char key[32];
	me->wrong = mt_board_connect(&board, "127.0.0.1", me->port, TOKEN, 5) != MT_OK;
	for (int i = 0; i < ROUNDS && !me->wrong; i++) {
		int mine = me->rank * 1000 + i;
		snprintf(key, sizeof key, "round/%d", i);
		me->wrong += mt_board_gather(board, key, me->rank, RANKS, &mine, sizeof mine, all) != MT_OK;
		for (int r = 0; r < RANKS; r++)
			me->wrong += all[r] != r * 1000 + i;
	}
	mt_board_close(board);
	return NULL;
}

static void every_rank_gets_every_part(void **state)
{
	struct mt_board_server *server = NULL;
	struct rank ranks[RANKS];
	assert_int_equal(mt_board_serve(&server, 0, TOKEN, true), MT_OK);
	for (int r = 0; r < RANKS; r++) {
		ranks[r] = (struct rank){.rank = r, .port = mt_board_port(server)};
		assert_int_equal(pthread_create(&ranks[r].thread, NULL, gather_often, &ranks[r]), 0);
	}
	for (int r = 0; r < RANKS; r++) {
		pthread_join(ranks[r].thread, NULL);
		assert_int_equal(ranks[r].wrong, 0);
	}
	mt_board_stop(server, 1);
}

static void values_are_the_latest_and_messages_in_order(void **state)
{
	static char sent[LONG], got[LONG];
	struct mt_board_server *server = NULL;
	struct mt_board *a = NULL, *b = NULL;
	size_t size = 9;
	int x = 1, y = 0;
	assert_int_equal(mt_board_serve(&server, 0, TOKEN, true), MT_OK);
	assert_int_equal(mt_board_connect(&a, "127.0.0.1", mt_board_port(server), TOKEN, 5), MT_OK);
	assert_int_equal(mt_board_connect(&b, "localhost", mt_board_port(server), TOKEN, 5), MT_OK);
	assert_int_equal(mt_board_read(b, "v", &y, sizeof y, &size), MT_OK);
	assert_int_equal(size, 0);
	for (x = 1; x <= 3; x++)
		assert_int_equal(mt_board_put(a, "v", &x, sizeof x), MT_OK);
	assert_int_equal(mt_board_read(b, "v", &y, sizeof y, &size), MT_OK);
	assert_int_equal(size, sizeof y);
	assert_int_equal(y, 3);
	memset(sent, 'm', sizeof sent);
	for (x = 1; x <= 3; x++)
		assert_int_equal(mt_board_send(a, "m", &x, sizeof x), MT_OK);
	assert_int_equal(mt_board_send(a, "long", sent, sizeof sent), MT_OK);
	for (x = 1; x <= 3; x++) {
		assert_int_equal(mt_board_take(b, "m", &y, sizeof y), MT_OK);
		assert_int_equal(y, x);
	}
	assert_int_equal(mt_board_take(b, "long", got, sizeof got), MT_OK);
	assert_memory_equal(sent, got, sizeof got);
	/* A message of another size than expected is a failure, and the next request works. */
	assert_int_equal(mt_board_send(a, "m", sent, 100), MT_OK);
	assert_int_equal(mt_board_take(b, "m", &y, sizeof y), MT_FAILED);
	mt_error_clear();
	assert_int_equal(mt_board_put(b, "v", &x, sizeof x), MT_OK);
	mt_board_close(a);
	mt_board_close(b);
	mt_board_stop(server, 1);
}

static void strangers_are_not_let_in(void **state)
{
	struct mt_board_server *server = NULL;
	struct mt_board *board = NULL;
	assert_int_equal(mt_board_serve(&server, 0, TOKEN, true), MT_OK);
	assert_int_equal(mt_board_connect(&board, "127.0.0.1", mt_board_port(server), TOKEN + 1, 1), MT_FAILED);
	assert_null(board);
	mt_error_clear();
	assert_int_equal(mt_board_serve(&(struct mt_board_server *){NULL}, mt_board_port(server), TOKEN, true), MT_FAILED);
	assert_non_null(strstr(mt_error_message(), "MASTER_PORT"));
	mt_error_clear();
	mt_board_stop(server, 1);
}

static bool at_once(void *context)
{
	return ++*(int *)context > 2;
}

static void waiting_can_be_given_up(void **state)
{
	struct mt_board_server *server = NULL;
	struct mt_board *board = NULL;
	int asked = 0, x = 0;
	assert_int_equal(mt_board_serve(&server, 0, TOKEN, true), MT_OK);
	assert_int_equal(mt_board_connect(&board, "127.0.0.1", mt_board_port(server), TOKEN, 5), MT_OK);
	mt_board_cancel_when(board, at_once, &asked);
	assert_int_equal(mt_board_take(board, "never", &x, sizeof x), MT_FAILED);
	assert_int_equal(asked, 3);
	mt_error_clear();
	mt_board_close(board);
	mt_board_stop(server, 1);
}

static void a_rank_zero_that_ended_is_a_failure(void **state)
{
	struct mt_board_server *server = NULL;
	struct mt_board *board = NULL;
	int x = 0;
	assert_int_equal(mt_board_serve(&server, 0, TOKEN, true), MT_OK);
	assert_int_equal(mt_board_connect(&board, "127.0.0.1", mt_board_port(server), TOKEN, 5), MT_OK);
	mt_board_stop(server, 0);
	assert_int_equal(mt_board_put(board, "v", &x, sizeof x), MT_FAILED);
	assert_non_null(strstr(mt_error_message(), "has rank 0 ended?"));
	mt_error_clear();
	mt_board_close(board);
}

/* Three ranks with guards; one goes in the way under test, and the others hear of it, or do not. */
static void hear_of_end(bool says, int code, bool told)
{
	struct mt_board_server *server = NULL;
	struct mt_board *guards[3] = {NULL}, *own = NULL;
	int asked[3] = {0};
	assert_int_equal(mt_board_serve(&server, 0, TOKEN, true), MT_OK);
	for (int r = 0; r < 3; r++) {
		assert_int_equal(mt_board_connect(&guards[r], "127.0.0.1", mt_board_port(server), TOKEN, 5), MT_OK);
		assert_int_equal(mt_board_guard(guards[r], r), MT_OK);
		mt_board_cancel_when(guards[r], at_once, &asked[r]);
	}
	assert_int_equal(mt_board_connect(&own, "127.0.0.1", mt_board_port(server), TOKEN, 5), MT_OK);
	if (says)
		assert_int_equal(mt_board_end(own, 1, code), MT_OK);
	mt_board_close(guards[1]);
	for (int r = 0; r < 3; r += 2) {
		int who = -7, how = -7;
		if (told)
			mt_board_cancel_when(guards[r], NULL, NULL);
		assert_int_equal(mt_board_guarded(guards[r], &who, &how), told ? MT_OK : MT_FAILED);
		assert_int_equal(who, told ? 1 : -7);
		assert_int_equal(how, told ? code : -7);
		mt_error_clear();
	}
	mt_board_close(guards[0]);
	mt_board_close(guards[2]);
	mt_board_close(own);
	mt_board_stop(server, 1);
}

static void a_rank_that_ends_is_told_to_the_others(void **state)
{
	hear_of_end(true, 4, true);
	hear_of_end(false, -1, true); /* without a word */
	hear_of_end(true, 0, false);  /* in order */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_rank_that_ends_is_told_to_the_others),
		cmocka_unit_test(every_rank_gets_every_part),
		cmocka_unit_test(values_are_the_latest_and_messages_in_order),
		cmocka_unit_test(strangers_are_not_let_in),
		cmocka_unit_test(waiting_can_be_given_up),
		cmocka_unit_test(a_rank_zero_that_ended_is_a_failure),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
