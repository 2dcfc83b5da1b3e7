/* measure: a choice among ways to do the same, by running each on operands of its own.
 *
 * The layout of a run decides its bits, so a choice must not hang on a race between two timings: by default only ways that give
 * the bits of the first one, which depends on the shape alone, take part, and the fastest of these is used; with
 * CUDA_CHOICE_FASTEST all do. Memory is the stream's, beside the arenas, and given back at the end; where there is none the first
 * way is chosen. */
#ifndef MT_KERNELS_CUDA_MEASURE_H
#define MT_KERNELS_CUDA_MEASURE_H

#include "kernels/cuda/cuda.h"

enum { CUDA_TRIAL_PIECES = 8 };

struct cuda_trial {
	struct cuda_device *cuda;
	struct mt_stream *stream;
	enum mt_status (*run)(void *context, int way); /* all that is written lies in `written` */
	void *context;
	char *written; /* cleared before a run whose result is looked at */
	size_t written_bytes;
	/* The rest is measure.c's. */
	void *first; /* what the first way has written */
	int *differs;
	void *pieces[CUDA_TRIAL_PIECES]; /* owned */
	int piece_count;
	cudaEvent_t start, end;
};

/* Device memory for the while. MT_NOMEM, without a message, where it does not fit. */
enum mt_status cuda_trial_take(struct cuda_trial *trial, void *memory, size_t bytes);
/* `written`, and all else that a trial needs; MT_NOMEM as above. */
enum mt_status cuda_trial_prepare(struct cuda_trial *trial, size_t written_bytes);
/* *chosen is the first way and becomes the one to use, of those below `count` that are possible (NULL: all). A way that fails is
 * none; the first one's failure is returned. */
enum mt_status cuda_trial_choose(struct cuda_trial *trial, const bool *possible, int count, int *chosen);
void cuda_trial_end(struct cuda_trial *trial);

#endif
