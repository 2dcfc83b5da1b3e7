/* tcp_lane: a thread for each comm stream in use, which runs the stream's calls in order while the device computes. */
#include "comm/tcp.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

struct tcp_lane {
	struct tcp_lane *next;
	struct mt_stream *stream;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct tcp_work *first, **end;
	bool busy, stop;
	struct mt_board *board; /* owned; of the thread */
};

/* The last the waiter needs is the ticket's end: stream and group may go then. */
static void complete(struct tcp_work *w, enum mt_status st)
{
	struct mt_stream *stream = w->stream;
	uint64_t ticket = w->ticket;
	char message[MT_WATCHDOG_MESSAGE] = "";
	if (st != MT_OK) {
		strncpy(message, mt_error_message(), sizeof message - 1);
		mt_error_clear();
	}
	tcp_work_free(w);
	mt_stream_async_end(stream, ticket, st, message);
}

static void *attend(void *context)
{
	struct tcp_lane *l = context;
	prctl(PR_SET_NAME, "mt-lane", 0, 0, 0);
	pthread_mutex_lock(&l->lock);
	for (;;) {
		struct tcp_work *w = l->first;
		if (!w && l->stop)
			break;
		if (!w) {
			l->busy = false;
			pthread_cond_wait(&l->changed, &l->lock);
			continue;
		}
		l->first = w->next;
		if (!l->first)
			l->end = &l->first;
		l->busy = true;
		pthread_mutex_unlock(&l->lock);
		complete(w, tcp_work_run(w, &l->board));
		pthread_mutex_lock(&l->lock);
	}
	pthread_mutex_unlock(&l->lock);
	mt_board_close(l->board);
	return NULL;
}

static enum mt_status open_lane(struct tcp_fabric *f, struct tcp_lane **lane)
{
	struct tcp_lane *l = calloc(1, sizeof *l);
	sigset_t all, before;
	if (!l)
		return mt_fail(MT_NOMEM, "fabric tcp: no memory for a stream");
	l->end = &l->first;
	pthread_mutex_init(&l->lock, NULL);
	pthread_cond_init(&l->changed, NULL);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int code = pthread_create(&l->thread, NULL, attend, l);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (code) {
		free(l);
		return mt_fail(MT_FAILED, "fabric tcp: a stream's thread could not be started: %s", strerror(code));
	}
	l->next = f->lanes;
	f->lanes = l;
	*lane = l;
	return MT_OK;
}

static bool is_idle(struct tcp_lane *l)
{
	pthread_mutex_lock(&l->lock);
	bool idle = !l->first && !l->busy;
	pthread_mutex_unlock(&l->lock);
	return idle;
}

/* The stream's, or an idle one taken over, or a new one. From the device's thread only. */
static enum mt_status lane_of(struct tcp_fabric *f, struct mt_stream *stream, struct tcp_lane **lane)
{
	*lane = NULL;
	for (struct tcp_lane *l = f->lanes; l; l = l->next) {
		if (l->stream == stream) {
			*lane = l;
			return MT_OK;
		}
		if (!*lane && is_idle(l))
			*lane = l;
	}
	if (!*lane)
		MT_TRY(open_lane(f, lane));
	(*lane)->stream = stream;
	return MT_OK;
}

enum mt_status tcp_lane_push(struct tcp_work *w)
{
	struct tcp_lane *l;
	enum mt_status st = lane_of(tcp_of(w->group), w->stream, &l);
	if (st != MT_OK) {
		tcp_work_free(w);
		return st;
	}
	w->ticket = mt_stream_async_begin(w->stream);
	w->next = NULL;
	pthread_mutex_lock(&l->lock);
	*l->end = w;
	l->end = &w->next;
	pthread_cond_signal(&l->changed);
	pthread_mutex_unlock(&l->lock);
	return MT_OK;
}

void tcp_lanes_close(struct tcp_fabric *f)
{
	while (f->lanes) {
		struct tcp_lane *l = f->lanes;
		f->lanes = l->next;
		pthread_mutex_lock(&l->lock);
		l->stop = true;
		pthread_cond_signal(&l->changed);
		pthread_mutex_unlock(&l->lock);
		pthread_join(l->thread, NULL);
		pthread_cond_destroy(&l->changed);
		pthread_mutex_destroy(&l->lock);
		free(l);
	}
}
