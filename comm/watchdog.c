/* watchdog: see watchdog.h. The list of watches is the truth; the thread copies what it needs of one, asks the board without
 * the lock, and marks the watch only if it is still the same one. */
#include "comm/watchdog.h"

#include "base/clock.h"
#include "base/units.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

#define GROUPS       48
#define PERIOD_MOST  5.0
#define PERIOD_LEAST 0.05
#define SUSPECTS     4   /* named; the rest is counted */
#define PATIENCE_S   5.0 /* for one request to the board */

/* What a rank tells the others; sent as bytes. */
struct progress {
	uint64_t beat;
	double period_s; /* of the beat */
	char doing[200];
	struct {
		uint64_t group, begun;
	} groups[GROUPS];
};

struct mt_watchdog {
	struct mt_watchdog_config config;
	pthread_t thread;
	bool runs, stop, woken;
	pthread_mutex_t lock;
	pthread_cond_t wake;
	pthread_mutex_t hook_lock; /* held while a hook runs; taken before `lock` */
	struct mt_watchdog_hooks hooks;
	double deadline_s;
	struct mt_watch list; /* a ring; only its links are used */
	struct progress own;
	char message[MT_WATCHDOG_MESSAGE];
	/* of the thread */
	struct mt_board *board; /* owned; NULL: not reached, or lost */
	double asked_s;
};

void mt_watch_text(const struct mt_watch *watch, char *buf, size_t bytes)
{
	const struct mt_group *g = watch->group;
	char size[MT_UNITS_TEXT], who[64] = "";
	if (watch->op == MT_COMM_SEND_RECV)
		snprintf(who, sizeof who, "%s rank %d, ", watch->receiving ? "from" : "to", watch->peer);
	snprintf(buf, bytes, "%s of %s (%snumber %llu) on group %s (rank %d of %d)",
		 watch->op != MT_COMM_SEND_RECV ? mt_comm_op_name(watch->op)
		 : watch->receiving             ? "receive"
						: "send",
		 mt_units_bytes(size, (double)watch->bytes), who, (unsigned long long)watch->number, g->name, g->rank, g->size);
}

static double period_of(double deadline_s)
{
	double period = deadline_s / 8;
	return period < PERIOD_LEAST ? PERIOD_LEAST : period > PERIOD_MOST ? PERIOD_MOST : period;
}

/* ---- the board ---- */

static bool too_late(void *context)
{
	const struct mt_watchdog *w = context;
	return mt_clock_s() - w->asked_s > PATIENCE_S;
}

static void lose_board(struct mt_watchdog *w)
{
	mt_board_close(w->board);
	w->board = NULL;
	mt_error_clear();
}

/* Whatever fails here only costs the names of the suspects. */
static void reach_board(struct mt_watchdog *w)
{
	const struct mt_watchdog_config *c = &w->config;
	for (int i = 0; c->port && i < 4 && c->addresses[i][0] && !w->board; i++)
		mt_board_connect(&w->board, c->addresses[i], c->port, c->token, 0);
	mt_error_clear();
	if (w->board)
		mt_board_cancel_when(w->board, too_late, w);
}

static void key_of(int rank, char key[MT_BOARD_KEY])
{
	snprintf(key, MT_BOARD_KEY, "progress/%d", rank);
}

static void publish(struct mt_watchdog *w)
{
	char key[MT_BOARD_KEY];
	struct progress copy;
	if (!w->board)
		reach_board(w);
	if (!w->board)
		return;
	pthread_mutex_lock(&w->lock);
	w->own.beat++;
	w->own.period_s = period_of(w->deadline_s);
	copy = w->own;
	if (w->list.next != &w->list) {
		const struct mt_watch *oldest = w->list.next;
		mt_watch_text(oldest, copy.doing, sizeof copy.doing - 24);
		size_t used = strlen(copy.doing);
		snprintf(copy.doing + used, sizeof copy.doing - used, " for %.1f s", mt_clock_s() - oldest->start_s);
	}
	pthread_mutex_unlock(&w->lock);
	key_of(w->config.fabric->rank, key);
	w->asked_s = mt_clock_s();
	if (mt_board_put(w->board, key, &copy, sizeof copy) != MT_OK)
		lose_board(w);
}

static bool learn(struct mt_watchdog *w, int rank, struct progress *progress)
{
	char key[MT_BOARD_KEY];
	size_t got = 0;
	key_of(rank, key);
	w->asked_s = mt_clock_s();
	if (w->board && mt_board_read(w->board, key, progress, sizeof *progress, &got) != MT_OK)
		lose_board(w);
	progress->doing[sizeof progress->doing - 1] = '\0';
	return got == sizeof *progress;
}

/* ---- the message ---- */

struct text {
	char *buf;
	size_t used, room;
};

static void say(struct text *t, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void say(struct text *t, const char *format, ...)
{
	va_list arguments;
	va_start(arguments, format);
	int n = vsnprintf(t->buf + t->used, t->room - t->used, format, arguments);
	va_end(arguments);
	if (n > 0)
		t->used += (size_t)n < t->room - t->used ? (size_t)n : t->room - t->used - 1;
}

static uint64_t begun_on(const struct progress *p, uint64_t group)
{
	for (int i = 0; i < GROUPS; i++)
		if (p->groups[i].group == group)
			return p->groups[i].begun;
	return 0;
}

/* One member: what makes it a suspect, if anything does. Before and after are a time apart. */
static bool suspect(const struct mt_watch *watch, bool known, const struct progress *before, const struct progress *after,
		    char *buf, size_t bytes)
{
	bool message = watch->op == MT_COMM_SEND_RECV;
	uint64_t begun = begun_on(after, watch->group->id);
	const char *doing = after->doing[0] ? after->doing : "nothing of the fabric's, so it computes or waits elsewhere";
	if (!known) {
		snprintf(buf, bytes, "has told nothing of its progress");
		return true;
	}
	if (before->beat == after->beat) {
		snprintf(buf, bytes, "shows no sign of life; last it was in: %s", doing);
		return true;
	}
	if (!message && begun > watch->number)
		return false;
	if (message)
		snprintf(buf, bytes, "is in: %s", doing);
	else
		snprintf(buf, bytes, "has begun %llu collectives of this group, not %llu; it is in: %s", (unsigned long long)begun,
			 (unsigned long long)watch->number + 1, doing);
	return true;
}

static bool nap(struct mt_watchdog *w, double seconds);

/* Two beats of the slowest, going on with the own. */
static void wait_for_beats(struct mt_watchdog *w, double slowest_s)
{
	double end_s = mt_clock_s() + 2 * (slowest_s < PERIOD_MOST ? slowest_s : PERIOD_MOST), left, period;
	while ((left = end_s - mt_clock_s()) > 0) {
		period = period_of(w->deadline_s);
		publish(w);
		if (!nap(w, left < period ? left : period))
			return;
	}
}

static void name_suspects(struct mt_watchdog *w, const struct mt_watch *watch, struct text *t)
{
	const struct mt_group *g = watch->group;
	struct progress *seen = calloc(2 * (size_t)g->size, sizeof *seen);
	int named = 0, more = 0;
	bool reached = w->board != NULL;
	double slowest_s = period_of(w->deadline_s);
	for (int r = 0; seen && reached && r < g->size; r++)
		if (learn(w, g->ranks[r], &seen[r]) && seen[r].period_s > slowest_s)
			slowest_s = seen[r].period_s;
	if (reached)
		wait_for_beats(w, slowest_s);
	if (!seen || !w->board) {
		say(t, "; how far the others are is not known: rank 0 cannot be asked");
		free(seen);
		return;
	}
	for (int r = 0; r < g->size; r++) {
		char why[320];
		if (r == g->rank || (watch->op == MT_COMM_SEND_RECV && r != watch->peer))
			continue;
		bool known = learn(w, g->ranks[r], &seen[g->size + r]);
		if (!suspect(watch, known, &seen[r], &seen[g->size + r], why, sizeof why))
			continue;
		if (named++ < SUSPECTS)
			say(t, "; suspect: rank %d (world rank %d on %s) %s", r, g->ranks[r],
			    mt_fabric_host(g->fabric, g->ranks[r]), why);
		else
			more++;
	}
	if (more)
		say(t, "; and %d more", more);
	if (!named)
		say(t, "; all members have begun it: the network or a device hangs");
	free(seen);
}

/* A watch with its group, copied, since both may go while the board is asked. */
struct overdue {
	struct mt_watch copy, *original;
	struct mt_group group;
	const struct mt_group *of; /* the group itself: only to be told apart */
};

static bool copy_watch(struct overdue *o, struct mt_watch *at)
{
	size_t bytes = (size_t)at->group->size * sizeof *at->group->ranks;
	int *ranks = malloc(bytes);
	if (!ranks)
		return false;
	memcpy(ranks, at->group->ranks, bytes);
	o->original = at;
	o->copy = *at;
	o->of = at->group;
	o->group = *at->group;
	o->group.ranks = ranks;
	o->copy.group = &o->group;
	return true;
}

/* The first watch that is overdue and not reported. */
static bool find_overdue(struct mt_watchdog *w, struct overdue *o)
{
	double now = mt_clock_s();
	bool found = false;
	pthread_mutex_lock(&w->lock);
	for (struct mt_watch *at = w->list.next; w->deadline_s > 0 && at != &w->list && !found; at = at->next) {
		if (at->reported || now - at->start_s <= w->deadline_s)
			continue;
		at->reported = found = copy_watch(o, at);
	}
	pthread_mutex_unlock(&w->lock);
	return found;
}

static bool still_under(const struct mt_watchdog *w, const struct overdue *o)
{
	for (const struct mt_watch *at = w->list.next; at != &w->list; at = at->next)
		if (at == o->original)
			return at->start_s == o->copy.start_s && at->number == o->copy.number;
	return false;
}

static void report(struct mt_watchdog *w, struct overdue *o)
{
	const struct mt_fabric *f = w->config.fabric;
	char what[200], message[MT_WATCHDOG_MESSAGE];
	struct text t = {.buf = message, .room = sizeof message};
	mt_watch_text(&o->copy, what, sizeof what);
	say(&t, "%s, world rank %d on %s, has waited longer than the watchdog's %.3g s", what, f->rank, mt_fabric_host(f, f->rank),
	    w->deadline_s);
	name_suspects(w, &o->copy, &t);
	free(o->group.ranks);
	pthread_mutex_lock(&w->lock);
	bool under = still_under(w, o);
	if (under) {
		memcpy(w->message, message, sizeof message);
		atomic_store(&o->original->expired, true);
	}
	pthread_mutex_unlock(&w->lock);
	if (under && o->copy.fatal && w->config.stuck)
		w->config.stuck(w->config.context, message);
	pthread_mutex_lock(&w->hook_lock);
	if (under && w->hooks.expired)
		w->hooks.expired(w->hooks.context, o->of, message);
	pthread_mutex_unlock(&w->hook_lock);
}

/* ---- the thread ---- */

/* False when the watchdog is to stop. */
static bool nap(struct mt_watchdog *w, double seconds)
{
	double end_s = mt_clock_s() + seconds;
	pthread_mutex_lock(&w->lock);
	for (double left = seconds; !w->stop && !w->woken && left > 0; left = end_s - mt_clock_s()) {
		struct timespec until;
		clock_gettime(CLOCK_MONOTONIC, &until);
		int64_t ns = until.tv_nsec + (int64_t)(left * 1e9);
		until.tv_sec += ns / 1000000000;
		until.tv_nsec = ns % 1000000000;
		pthread_cond_timedwait(&w->wake, &w->lock, &until);
	}
	w->woken = false;
	bool goes_on = !w->stop;
	pthread_mutex_unlock(&w->lock);
	return goes_on;
}

/* Runs the layered fabric's; how long to sleep then. */
static double tick(struct mt_watchdog *w, double period)
{
	pthread_mutex_lock(&w->hook_lock);
	double wanted = w->hooks.tick ? w->hooks.tick_s : period;
	if (w->hooks.tick)
		w->hooks.tick(w->hooks.context);
	pthread_mutex_unlock(&w->hook_lock);
	return wanted < period ? wanted : period;
}

void mt_watchdog_hook(struct mt_watchdog *watchdog, const struct mt_watchdog_hooks *hooks)
{
	if (!watchdog)
		return;
	pthread_mutex_lock(&watchdog->hook_lock);
	watchdog->hooks = hooks ? *hooks : (struct mt_watchdog_hooks){0};
	pthread_mutex_unlock(&watchdog->hook_lock);
	pthread_mutex_lock(&watchdog->lock);
	watchdog->woken = true;
	pthread_cond_signal(&watchdog->wake);
	pthread_mutex_unlock(&watchdog->lock);
}

static void *watch_over(void *context)
{
	struct mt_watchdog *w = context;
	struct overdue o;
	double told_s = 0, told_deadline_s = 0;
	prctl(PR_SET_NAME, "mt-watchdog", 0, 0, 0);
	for (;;) {
		double deadline = w->deadline_s, period = period_of(deadline);
		/* At once when the deadline has changed: the others must know the new beat. */
		if (mt_clock_s() - told_s >= period || deadline != told_deadline_s) {
			publish(w);
			told_deadline_s = deadline;
			told_s = mt_clock_s();
		}
		while (find_overdue(w, &o))
			report(w, &o);
		if (!nap(w, tick(w, period)))
			break;
	}
	mt_board_close(w->board);
	return NULL;
}

enum mt_status mt_watchdog_create(struct mt_watchdog **watchdog, const struct mt_watchdog_config *config)
{
	struct mt_watchdog *w = calloc(1, sizeof *w);
	pthread_condattr_t monotonic;
	sigset_t all, before;
	*watchdog = NULL;
	if (!w)
		return mt_fail(MT_NOMEM, "the watchdog: no memory");
	w->config = *config;
	w->deadline_s = config->deadline_s == 0 ? MT_WATCHDOG_S : config->deadline_s;
	w->list.next = w->list.before = &w->list;
	pthread_mutex_init(&w->lock, NULL);
	pthread_mutex_init(&w->hook_lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&w->wake, &monotonic);
	pthread_condattr_destroy(&monotonic);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int code = pthread_create(&w->thread, NULL, watch_over, w);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	w->runs = code == 0;
	if (code) {
		mt_watchdog_destroy(w);
		return mt_fail(MT_FAILED, "the watchdog's thread could not be started: %s", strerror(code));
	}
	*watchdog = w;
	return MT_OK;
}

void mt_watchdog_destroy(struct mt_watchdog *watchdog)
{
	if (!watchdog)
		return;
	pthread_mutex_lock(&watchdog->lock);
	watchdog->stop = true;
	pthread_cond_signal(&watchdog->wake);
	pthread_mutex_unlock(&watchdog->lock);
	if (watchdog->runs)
		pthread_join(watchdog->thread, NULL);
	pthread_cond_destroy(&watchdog->wake);
	pthread_mutex_destroy(&watchdog->lock);
	pthread_mutex_destroy(&watchdog->hook_lock);
	free(watchdog);
}

void mt_watchdog_set_deadline(struct mt_watchdog *watchdog, double deadline_s)
{
	pthread_mutex_lock(&watchdog->lock);
	watchdog->deadline_s = deadline_s == 0 ? MT_WATCHDOG_S : deadline_s;
	watchdog->woken = true;
	pthread_cond_signal(&watchdog->wake);
	pthread_mutex_unlock(&watchdog->lock);
}

/* Call with the lock. More groups than there is room for: the last ones are not told of. */
static void count_begun(struct mt_watchdog *w, uint64_t group, uint64_t begun)
{
	for (int i = 0; i < GROUPS; i++) {
		if (w->own.groups[i].group != group && w->own.groups[i].group != 0)
			continue;
		w->own.groups[i].group = group;
		if (w->own.groups[i].begun < begun)
			w->own.groups[i].begun = begun;
		return;
	}
}

void mt_watchdog_begin(struct mt_watchdog *watchdog, struct mt_watch *watch, const struct mt_group *group,
		       const struct mt_comm_call *call, uint64_t number)
{
	if (!watchdog)
		return;
	watch->group = group;
	watch->op = call->op;
	watch->receiving = call->receiving;
	watch->peer = call->peer;
	watch->bytes = mt_comm_call_bytes(call, group->size);
	watch->number = number;
	watch->start_s = mt_clock_s();
	watch->under = true;
	watch->reported = false;
	atomic_store(&watch->expired, false);
	pthread_mutex_lock(&watchdog->lock);
	watch->next = &watchdog->list;
	watch->before = watchdog->list.before;
	watch->before->next = watchdog->list.before = watch;
	if (call->op != MT_COMM_SEND_RECV)
		count_begun(watchdog, group->id, number + 1);
	pthread_mutex_unlock(&watchdog->lock);
}

void mt_watchdog_end(struct mt_watchdog *watchdog, struct mt_watch *watch)
{
	if (!watchdog || !watch->under)
		return;
	pthread_mutex_lock(&watchdog->lock);
	watch->before->next = watch->next;
	watch->next->before = watch->before;
	watch->under = false;
	pthread_mutex_unlock(&watchdog->lock);
}

enum mt_status mt_watchdog_fail(struct mt_watchdog *watchdog, const struct mt_watch *watch)
{
	pthread_mutex_lock(&watchdog->lock);
	enum mt_status st = mt_fail(MT_FAILED, "%s", watchdog->message);
	pthread_mutex_unlock(&watchdog->lock);
	return st;
}

void mt_watchdog_expire(struct mt_watchdog *watchdog, const struct mt_fabric *fabric, double after_s, const char *message)
{
	double now = mt_clock_s();
	if (!watchdog)
		return;
	pthread_mutex_lock(&watchdog->lock);
	for (struct mt_watch *at = watchdog->list.next; at != &watchdog->list; at = at->next) {
		if (at->group->fabric != fabric || at->reported || now - at->start_s <= after_s)
			continue;
		at->reported = true;
		snprintf(watchdog->message, sizeof watchdog->message, "%s", message);
		atomic_store(&at->expired, true);
	}
	pthread_mutex_unlock(&watchdog->lock);
}
