/* tcp: the fabric over the job's board; see tcp.h. This file: its life, the guard, groups. */
#include "comm/tcp.h"

#include "base/clock.h"
#include "base/log.h"

#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#define JOIN_S   300.0 /* MEGATUNE_JOIN_S */
#define REACH_S  5.0   /* for a connection when the job is under way */
#define LINGER_S 600.0 /* rank 0 leaves last */
#define ORPHAN_S 10.0
#define TOLD_S   0.2 /* after a failure it stays so long, for the others to hear of it before their connections break */

enum mt_status tcp_connect(struct tcp_fabric *f, struct mt_board **board, double patience_s)
{
	if (*board)
		return MT_OK;
	return mt_board_connect(board, f->place.address, f->place.port, f->place.token, patience_s);
}

/* ---- the guard: hears of another rank's end, and ends this one ---- */

static void end_with(struct tcp_fabric *f, int rank, int code);

/* Asked every 50 ms. A launcher that is gone has ended its ranks by a signal; one that does not get to heed it goes later. */
static bool is_ending(void *context)
{
	struct tcp_fabric *f = context;
	if (f->place.watched && f->parent > 0 && getppid() != f->parent) {
		f->orphan_s = f->orphan_s > 0 ? f->orphan_s : mt_clock_s();
		if (mt_clock_s() - f->orphan_s > ORPHAN_S)
			end_with(f, f->fabric->rank, mt_status_exit_code(MT_FAILED));
	}
	return atomic_load(&f->ending);
}

/* A rank that told why it failed need not be told of again; of one that went without a word the first rank left tells, unless
 * there is a launcher that does. */
static void end_with(struct tcp_fabric *f, int rank, int code)
{
	int teller = rank == 0 ? 1 : 0;
	if (atomic_exchange(&f->ending, true))
		return;
	if (code < 0 && f->fabric->rank == teller && !f->place.watched)
		mt_error("rank %d on %s has ended without a word: it was killed, or its host is gone", rank,
			 mt_fabric_host(f->fabric, rank));
	fflush(NULL);
	if (f->server)
		mt_clock_sleep(TOLD_S);
	_exit(code > 0 ? code : mt_status_exit_code(MT_FAILED));
}

static void *guard(void *context)
{
	struct tcp_fabric *f = context;
	int rank = 0, code = -1;
	prctl(PR_SET_NAME, "mt-guard", 0, 0, 0);
	/* Without an answer it is rank 0, which serves the board, that is gone. */
	enum mt_status st = mt_board_guarded(f->guard, &rank, &code);
	mt_error_clear();
	if (!atomic_load(&f->ending))
		end_with(f, st == MT_OK ? rank : 0, st == MT_OK ? code : -1);
	return NULL;
}

static enum mt_status start_guard(struct tcp_fabric *f)
{
	sigset_t all, before;
	MT_TRY(tcp_connect(f, &f->guard, REACH_S));
	mt_board_cancel_when(f->guard, is_ending, f);
	MT_TRY(mt_board_guard(f->guard, f->fabric->rank));
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int code = pthread_create(&f->guarding, NULL, guard, f);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	f->guards = code == 0;
	return code ? mt_fail(MT_FAILED, "fabric tcp: the guard's thread could not be started: %s", strerror(code)) : MT_OK;
}

static void stop_guard(struct tcp_fabric *f)
{
	atomic_store(&f->ending, true);
	if (f->guards)
		pthread_join(f->guarding, NULL);
	mt_board_close(f->guard);
	f->guard = NULL;
}

/* ---- joining ---- */

struct introduction {
	char host[MT_FABRIC_HOST];
	int32_t local_rank, local_size;
};

struct patience {
	double end_s;
};

static bool is_over(void *context)
{
	return mt_clock_s() > ((struct patience *)context)->end_s;
}

static void key_of_arrival(int rank, char key[MT_BOARD_KEY])
{
	snprintf(key, MT_BOARD_KEY, "here/%d", rank);
}

/* After the patience: who is not there. The connection that waited is of no more use. */
static enum mt_status name_absent(struct tcp_fabric *f)
{
	char key[MT_BOARD_KEY], byte;
	int first = -1, absent = 0;
	mt_board_close(f->board);
	f->board = NULL;
	mt_error_clear();
	MT_TRY(tcp_connect(f, &f->board, REACH_S));
	for (int r = 0; r < f->place.size; r++) {
		size_t got = 0;
		key_of_arrival(r, key);
		MT_TRY(mt_board_read(f->board, key, &byte, 1, &got));
		if (got)
			continue;
		first = first < 0 ? r : first;
		absent++;
	}
	return mt_fail(
		MT_FAILED,
		"%d of the job's %d ranks have not come to %s:%d within %.3g s, rank %d among them: was it started, and can it "
		"reach that address?",
		absent, f->place.size, f->place.address, f->place.port, f->patience_s, first);
}

static enum mt_status meet(struct tcp_fabric *f, struct introduction *all)
{
	struct introduction mine = {.local_rank = f->place.local_rank, .local_size = f->place.local_size};
	struct patience patience = {.end_s = mt_clock_s() + f->patience_s};
	char key[MT_BOARD_KEY];
	if (gethostname(mine.host, sizeof mine.host - 1) != 0)
		strcpy(mine.host, "localhost");
	key_of_arrival(f->place.rank, key);
	MT_TRY(mt_board_put(f->board, key, "", 1));
	mt_board_cancel_when(f->board, is_over, &patience);
	enum mt_status st = mt_board_gather(f->board, "hosts", f->place.rank, f->place.size, &mine, sizeof mine, all);
	mt_board_cancel_when(f->board, NULL, NULL);
	return st != MT_OK && is_over(&patience) ? name_absent(f) : st;
}

static void place_among(struct mt_fabric *fabric, const struct mt_place *place, const struct introduction *all)
{
	const char *own = all[fabric->rank].host;
	int before = 0, there = 0;
	for (int r = 0; r < fabric->size; r++) {
		memcpy(fabric->hosts[r], all[r].host, MT_FABRIC_HOST);
		if (strcmp(all[r].host, own) != 0)
			continue;
		before += r < fabric->rank;
		there++;
	}
	fabric->local_rank = place->local_rank >= 0 ? place->local_rank : before;
	fabric->local_size = place->local_size > 0 ? place->local_size : there;
}

static bool is_loopback(const char *address)
{
	return strncmp(address, "127.", 4) == 0 || strcmp(address, "localhost") == 0 || strcmp(address, "::1") == 0;
}

static enum mt_status join(struct mt_fabric *fabric, struct tcp_fabric *f)
{
	struct introduction *all = calloc((size_t)fabric->size, sizeof *all);
	enum mt_status st;
	fabric->hosts = calloc((size_t)fabric->size, sizeof *fabric->hosts);
	fabric->host_entries = fabric->size;
	if (!all || !fabric->hosts)
		MT_GOTO(out, mt_fail(MT_NOMEM, "fabric tcp: no memory for %d host names", fabric->size));
	if (fabric->rank == 0)
		MT_GOTO(out, mt_board_serve(&f->server, f->place.port, f->place.token, is_loopback(f->place.address)));
	MT_GOTO(out, tcp_connect(f, &f->board, f->patience_s));
	MT_GOTO(out, meet(f, all));
	place_among(fabric, &f->place, all);
	st = start_guard(f);
out:
	free(all);
	return st;
}

/* The board's own answers hang only with rank 0, which the guard notices: no call is stuck for good. */
static enum mt_status watch(struct mt_fabric *fabric, const struct tcp_fabric *f, double deadline_s)
{
	struct mt_watchdog_config config = {
		.fabric = fabric, .deadline_s = deadline_s, .port = f->place.port, .token = f->place.token};
	if (strlen(f->place.address) < sizeof config.addresses[0])
		strcpy(config.addresses[0], f->place.address);
	return mt_watchdog_create(&fabric->watchdog, &config);
}

static void leave(struct mt_fabric *fabric, struct tcp_fabric *f, double linger_s)
{
	bool failed = mt_error_message()[0] != '\0';
	mt_watchdog_destroy(fabric->watchdog);
	fabric->watchdog = NULL;
	tcp_lanes_close(f);
	if (tcp_connect(f, &f->board, 0) == MT_OK)
		mt_board_end(f->board, fabric->rank, 0);
	if (!failed)
		mt_error_clear();
	stop_guard(f);
	mt_board_close(f->board);
	mt_board_stop(f->server, linger_s);
	while (f->serials) {
		struct tcp_serial *next = f->serials->next;
		free(f->serials);
		f->serials = next;
	}
	pthread_mutex_destroy(&f->lock);
	free(f);
}

static enum mt_status tcp_open(struct mt_fabric *fabric, const struct mt_fabric_config *config)
{
	struct tcp_fabric *f = calloc(1, sizeof *f);
	const char *patience = getenv("MEGATUNE_JOIN_S");
	bool found;
	enum mt_status st;
	if (!f)
		return mt_fail(MT_NOMEM, "fabric tcp: no memory");
	st = mt_place_find(&f->place, &found);
	if (st == MT_OK && !found)
		st = mt_fail(MT_INPUT, "fabric tcp: nothing in the environment says that there are several ranks: start them with "
				       "`megatune launch -n N`, torchrun or srun");
	if (st != MT_OK) {
		free(f);
		return st;
	}
	f->patience_s = patience && atof(patience) > 0 ? atof(patience) : JOIN_S;
	f->fabric = fabric;
	f->parent = getppid();
	pthread_mutex_init(&f->lock, NULL);
	fabric->rank = f->place.rank;
	fabric->size = f->place.size;
	snprintf(fabric->library, sizeof fabric->library, "TCP through rank 0");
	fabric->backend = f;
	MT_GOTO(fail, join(fabric, f));
	MT_GOTO(fail, watch(fabric, f, config->deadline_s));
	return MT_OK;
fail:
	fabric->backend = NULL;
	leave(fabric, f, REACH_S);
	return st;
}

static void tcp_close(struct mt_fabric *fabric)
{
	leave(fabric, fabric->backend, LINGER_S);
}

/* On a connection of its own: the device's thread may be in a request. */
static void tcp_abort(struct mt_fabric *fabric, int exit_code)
{
	struct tcp_fabric *f = fabric->backend;
	struct mt_board *board = NULL;
	/* The guard was first: it ends us. */
	while (atomic_exchange(&f->ending, true))
		mt_clock_sleep(0.01);
	if (tcp_connect(f, &board, 0) == MT_OK)
		mt_board_end(board, fabric->rank, exit_code ? exit_code : mt_status_exit_code(MT_FAILED));
	fflush(NULL);
	if (f->server)
		mt_clock_sleep(TOLD_S);
	_exit(exit_code);
}

/* ---- groups ---- */

static enum mt_status count_group(struct tcp_fabric *f, uint64_t id, uint64_t *serial)
{
	struct tcp_serial *s = f->serials;
	while (s && s->id != id)
		s = s->next;
	if (!s) {
		if (!(s = calloc(1, sizeof *s)))
			return mt_fail(MT_NOMEM, "fabric tcp: no memory for a group");
		s->id = id;
		s->next = f->serials;
		f->serials = s;
	}
	*serial = s->count++;
	return MT_OK;
}

static enum mt_status group_open(struct mt_group *group)
{
	struct tcp_group *g = calloc(1, sizeof *g);
	uint64_t serial = 0;
	if (!g || !(g->sent = calloc(2 * (size_t)group->size, sizeof *g->sent)) ||
	    count_group(tcp_of(group), group->id, &serial) != MT_OK) {
		free(g ? g->sent : NULL);
		free(g);
		return mt_fail(MT_NOMEM, "group %s: no memory", group->name);
	}
	g->received = g->sent + group->size;
	g->name = group->id + serial * 0x9e3779b97f4a7c15u;
	group->backend = g;
	return MT_OK;
}

static void group_close(struct mt_group *group)
{
	struct tcp_group *g = tcp_members(group);
	while (atomic_load(&g->flying))
		sched_yield();
	free(g->sent);
	free(g);
}

const struct mt_fabric_ops mt_fabric_tcp = {
	.kind = "tcp",
	.open = tcp_open,
	.close = tcp_close,
	.abort = tcp_abort,
	.group_open = group_open,
	.group_close = group_close,
	.run = tcp_run,
	.barrier = tcp_barrier,
	.host_all_reduce = tcp_host_all_reduce,
	.host_all_gather = tcp_host_all_gather,
	.executes = true,
};
