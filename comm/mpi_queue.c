/* mpi_queue: what makes collectives on comm streams run beside the compute.
 *
 * A comm stream in use has a lane: its flights in the order enqueued, of which only the first is under way. One progress
 * thread a fabric polls the first flights of all lanes; it sleeps on a condition while all lanes are empty.
 *
 * The thread shares the processors with the device's threads, so it must not spin while those compute, and should when
 * they have nothing to do but wait for it. It tells one from the other by the CPU time of the device's thread: as long
 * as that grows, the thread computes and we sleep between polls; when it stands still we poll and yield. */
#include "comm/mpi.h"

#ifdef MT_HAVE_MPI

#include "base/clock.h"

#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

#define SPIN_S      50e-6 /* after a move, the next is likely near */
#define BLOCKED_S   2e-3  /* nobody spins longer than this */
#define NAP_LEAST_S 20e-6
#define NAP_MOST_S  100e-6
#define PATIENT_S   2e-3 /* the longest nap of the patient */

struct lane {
	struct lane *next;
	struct mt_stream *stream;
	struct flight *first, *last;
};

/* The first flight of the lane is over: the next becomes the first, and those who wait for it are told. */
static void complete(struct mpi_fabric *mpi, struct lane *lane, enum mt_status st)
{
	struct flight *f = lane->first;
	struct mt_stream *stream = f->stream;
	uint64_t ticket = f->ticket;
	char message[512] = "";
	if (st != MT_OK) {
		strncpy(message, mt_error_message(), sizeof message - 1);
		mt_error_clear();
	}
	pthread_mutex_lock(&mpi->queue_lock);
	lane->first = f->next;
	if (!lane->first)
		lane->last = NULL;
	mpi->queued--;
	pthread_mutex_unlock(&mpi->queue_lock);
	/* Last, as the waiter may destroy the stream and the group. */
	mpi_flight_retire(f, st);
	mt_stream_async_end(stream, ticket, st, message);
}

/* One poll of every lane's first flight. True when anything moved; *caller is the CPU clock of a device's thread with work here,
 * *patience its fabric's. */
static bool poll_lanes(struct mpi_fabric *mpi, clockid_t *caller, double *patience)
{
	bool any = false;
	pthread_mutex_lock(&mpi->queue_lock);
	struct lane *lane = mpi->lanes;
	struct flight *f = lane ? lane->first : NULL;
	pthread_mutex_unlock(&mpi->queue_lock);
	while (lane) {
		bool moved = false, over = false;
		if (f) {
			*caller = f->caller;
			*patience = f->group->fabric->patience_frac;
			enum mt_status st = mpi_flight_poll(f, &moved, &over);
			if (over)
				complete(mpi, lane, st);
			any = any || moved;
		}
		pthread_mutex_lock(&mpi->queue_lock);
		lane = lane->next;
		f = lane ? lane->first : NULL;
		pthread_mutex_unlock(&mpi->queue_lock);
	}
	return any;
}

static double cpu_s(clockid_t clock)
{
	struct timespec t = {0};
	return clock_gettime(clock, &t) == 0 ? (double)t.tv_sec + 1e-9 * (double)t.tv_nsec : 0.0;
}

/* Between two polls that moved nothing. */
static void back_off(double idle_s, clockid_t caller, double *caller_s)
{
	double now_s = cpu_s(caller);
	bool computes = now_s != *caller_s;
	*caller_s = now_s;
	if (idle_s < SPIN_S || (!computes && idle_s < BLOCKED_S))
		sched_yield();
	else
		mt_clock_sleep(idle_s / 8 < NAP_LEAST_S ? NAP_LEAST_S : idle_s / 8 > NAP_MOST_S ? NAP_MOST_S : idle_s / 8);
}

static void nap_patiently(double seconds)
{
	mt_clock_sleep(seconds < NAP_MOST_S ? NAP_MOST_S : seconds > PATIENT_S ? PATIENT_S : seconds);
}

void mpi_pause(const struct flight *f, double idle_s)
{
	double patience = f->group->fabric->patience_frac;

	/* Yielding does not reach processes of another scheduling group (a session each on Linux); sleeping does. */
	if (patience > 0)
		nap_patiently(idle_s * patience);
	else if (idle_s < BLOCKED_S)
		sched_yield();
	else
		mt_clock_sleep(NAP_LEAST_S);
}

static bool wait_for_work(struct mpi_fabric *mpi, bool *waited)
{
	*waited = false;
	pthread_mutex_lock(&mpi->queue_lock);
	while (!mpi->queued && !mpi->stop) {
		*waited = true;
		pthread_cond_wait(&mpi->wake, &mpi->queue_lock);
	}
	bool work = mpi->queued > 0;
	pthread_mutex_unlock(&mpi->queue_lock);
	return work;
}

static void *progress(void *context)
{
	struct mpi_fabric *mpi = context;
	double moved_s = mt_clock_s(), caller_s = 0.0, patience = 0;
	bool waited;
	/* Short naps: the kernel would otherwise add 50 us to each. */
	prctl(PR_SET_TIMERSLACK, 1000UL, 0, 0, 0);
	prctl(PR_SET_NAME, "mt-progress", 0, 0, 0);
	while (wait_for_work(mpi, &waited)) {
		clockid_t caller = CLOCK_MONOTONIC;
		bool moved = poll_lanes(mpi, &caller, &patience);
		double now = mt_clock_s();
		if (moved || waited)
			moved_s = now;
		else if (patience > 0)
			nap_patiently((now - moved_s) * patience);
		else
			back_off(now - moved_s, caller, &caller_s);
	}
	return NULL;
}

/* The stream's lane, or an empty one taken over, or a new one. Call with the queue lock held. */
static struct lane *lane_of(struct mpi_fabric *mpi, struct mt_stream *stream)
{
	struct lane *found = NULL;
	for (struct lane *lane = mpi->lanes; lane; lane = lane->next) {
		if (lane->stream == stream)
			return lane;
		if (!lane->first)
			found = lane;
	}
	if (!found && (found = calloc(1, sizeof *found))) {
		found->next = mpi->lanes;
		mpi->lanes = found;
	}
	if (found)
		found->stream = stream;
	return found;
}

enum mt_status mpi_queue_push(struct flight *f)
{
	struct mpi_fabric *mpi = mpi_of(f->group);
	pthread_mutex_lock(&mpi->queue_lock);
	struct lane *lane = lane_of(mpi, f->stream);
	bool busy = lane && lane->first;
	pthread_mutex_unlock(&mpi->queue_lock);
	if (!lane) {
		enum mt_status st = mt_fail(MT_NOMEM, "comm stream %s: no memory", f->stream->name);
		mpi_flight_retire(f, st);
		return st;
	}
	f->ticket = mt_stream_async_begin(f->stream);
	/* An empty lane stays so until we put something in: the first messages leave at once, from this thread. */
	bool moved = false, over = false;
	enum mt_status st = MT_OK;
	if (!busy)
		st = mpi_flight_poll(f, &moved, &over);
	if (over) {
		struct mt_stream *stream = f->stream;
		uint64_t ticket = f->ticket;
		mpi_flight_retire(f, st);
		mt_stream_async_end(stream, ticket, st, mt_error_message());
		return st;
	}
	pthread_mutex_lock(&mpi->queue_lock);
	f->next = NULL;
	if (lane->last)
		lane->last->next = f;
	else
		lane->first = f;
	lane->last = f;
	mpi->queued++;
	pthread_cond_signal(&mpi->wake);
	pthread_mutex_unlock(&mpi->queue_lock);
	return MT_OK;
}

enum mt_status mpi_queue_open(struct mpi_fabric *mpi)
{
	sigset_t all, before;
	pthread_mutex_init(&mpi->queue_lock, NULL);
	pthread_cond_init(&mpi->wake, NULL);
	/* Signals are for the program's own threads. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int code = pthread_create(&mpi->thread, NULL, progress, mpi);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (code)
		return mt_fail(MT_FAILED, "fabric mpi: the progress thread could not be started: %s", strerror(code));
	mpi->thread_runs = true;
	return MT_OK;
}

void mpi_queue_close(struct mpi_fabric *mpi)
{
	if (mpi->thread_runs) {
		pthread_mutex_lock(&mpi->queue_lock);
		mpi->stop = true;
		pthread_cond_signal(&mpi->wake);
		pthread_mutex_unlock(&mpi->queue_lock);
		pthread_join(mpi->thread, NULL);
	}
	while (mpi->lanes) {
		struct lane *next = mpi->lanes->next;
		free(mpi->lanes);
		mpi->lanes = next;
	}
	pthread_cond_destroy(&mpi->wake);
	pthread_mutex_destroy(&mpi->queue_lock);
}

#endif
