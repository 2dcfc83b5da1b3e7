/* ranks: see ranks.h. */
#define _GNU_SOURCE
#include "tuner/ranks.h"

#include "base/clock.h"
#include "base/process.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define TICK_MS 20
#define GRACE_S 5.0

struct wait {
	struct mt_rank_process *list;
	int count, leash;
	int passed;     /* the last signal passed on */
	char heard[64]; /* of a line from the leash */
	size_t heard_length;
	double kill_s; /* 0: none is to be ended yet */
	bool killed;
	const struct mt_rank_process *first; /* that failed */
};

static void tell(struct mt_rank_process *p, int number)
{
	char line[32];
	int length = snprintf(line, sizeof line, "signal %d\n", number);
	if (p->ended)
		return;
	if (p->leash < 0) {
		kill(-p->pid, number);
		return;
	}
	ssize_t ignored = write(p->leash, line, (size_t)length);
	(void)ignored;
}

static void let_go(struct mt_rank_process *p)
{
	if (p->leash >= 0)
		close(p->leash);
	p->leash = -1;
}

static void end_all(struct wait *w)
{
	if (w->kill_s > 0)
		return;
	w->kill_s = mt_clock_s() + GRACE_S;
	for (int i = 0; i < w->count; i++) {
		if (w->list[i].launches)
			let_go(&w->list[i]);
		else
			tell(&w->list[i], SIGTERM);
	}
}

static void pass_on(struct wait *w, int number)
{
	if (number == 0 || number == w->passed)
		return;
	w->passed = number;
	for (int i = 0; i < w->count; i++)
		tell(&w->list[i], number);
}

/* Lines "signal N" of the launcher that started us; its end is ours. */
static void hear(struct wait *w)
{
	struct pollfd p = {.fd = w->leash, .events = POLLIN};
	char byte;
	if (poll(&p, 1, TICK_MS) <= 0 || w->leash < 0)
		return;
	ssize_t n = read(w->leash, &byte, 1);
	if (n == 0 || (n < 0 && errno != EINTR && errno != EAGAIN)) {
		w->leash = -1;
		end_all(w);
	} else if (n == 1 && byte == '\n') {
		int number = 0;
		w->heard[w->heard_length] = '\0';
		if (sscanf(w->heard, "signal %d", &number) == 1)
			pass_on(w, number);
		w->heard_length = 0;
	} else if (n == 1 && w->heard_length < sizeof w->heard - 1) {
		w->heard[w->heard_length++] = byte;
	}
}

/* True when it has ended now. What is left of its group goes with it. */
static bool reap(struct mt_rank_process *p)
{
	siginfo_t info = {0};
	int status = 0;
	if (p->ended || waitid(P_PID, (id_t)p->pid, &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid != p->pid)
		return false;
	kill(-p->pid, SIGKILL);
	waitpid(p->pid, &status, 0);
	let_go(p);
	p->ended = true;
	p->signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
	p->exit_code = WIFSIGNALED(status) ? 128 + p->signal : WEXITSTATUS(status);
	return true;
}

static bool all_ended(struct wait *w)
{
	bool all = true;
	for (int i = 0; i < w->count; i++) {
		struct mt_rank_process *p = &w->list[i];
		if (reap(p) && p->exit_code != 0 && !w->first) {
			w->first = p;
			end_all(w);
		}
		all = all && p->ended;
	}
	return all;
}

/* A code that a command of ours ends with has been told of; with others nobody may have said a word. */
static enum mt_status verdict(const struct mt_rank_process *p)
{
	static const enum mt_status known[] = {MT_VERDICT, MT_INPUT, MT_INCONCLUSIVE, MT_FAILED, MT_UNAVAILABLE, MT_INTERRUPTED};
	if (!p)
		return MT_OK;
	for (size_t i = 0; i < sizeof known / sizeof *known; i++)
		if (mt_status_exit_code(known[i]) == p->exit_code)
			return known[i];
	if (p->launches && p->exit_code > 128)
		return MT_FAILED;
	if (p->signal)
		return mt_fail(MT_FAILED, "%s was ended by signal %d (%s)", p->name, p->signal, strsignal(p->signal));
	return mt_fail(MT_FAILED, "%s ended with exit code %d", p->name, p->exit_code);
}

enum mt_status mt_ranks_wait(struct mt_rank_process *list, int count, int leash)
{
	struct wait w = {.list = list, .count = count, .leash = leash};
	while (!all_ended(&w)) {
		hear(&w);
		pass_on(&w, mt_process_signal());
		if (w.kill_s > 0 && !w.killed && mt_clock_s() > w.kill_s) {
			w.killed = true;
			for (int i = 0; i < count; i++)
				if (!list[i].ended)
					kill(-list[i].pid, SIGKILL);
		}
	}
	return verdict(w.first);
}

void mt_ranks_end(struct mt_rank_process *list, int count)
{
	struct wait w = {.list = list, .count = count, .leash = -1};
	end_all(&w);
	while (!all_ended(&w)) {
		mt_clock_sleep(TICK_MS * 1e-3);
		for (int i = 0; i < count && mt_clock_s() > w.kill_s; i++)
			if (!list[i].ended)
				kill(-list[i].pid, SIGKILL);
	}
}
