/* loader: the micro-batches of a rank, read ahead on a thread of its own: while a step runs, the next one's samples are fetched, so
 * that no step waits for a disk. What was read too early for a failure to matter fails only when it is asked for. */
#ifndef MT_ENGINE_LOADER_H
#define MT_ENGINE_LOADER_H

#include "engine/data.h"

struct mt_loader_config {
	struct mt_dataset *dataset;      /* borrowed */
	int64_t seq, mbs, gbs, dp, rank; /* rank: along dp */
	bool apart;                      /* documents apart, see mt_dataset_sample_apart */
	bool count_boundaries;           /* apart: the target after a document's last token counts all the same */
	const int32_t *rows;             /* of a sequence, those that are taken, in their order; NULL: all */
	int64_t row_count;
	int64_t modules; /* of multi-token prediction, for which next tokens are found */
};

struct mt_batch {
	int32_t *tokens, *targets; /* (mbs, rows taken) */
	int32_t *starts;           /* (mbs, seq), of all rows; NULL unless documents are kept apart */
	int32_t *next;             /* (modules, 2, mbs, rows taken): tokens and targets of each module (mtp.c); NULL: no modules */
	int64_t counted;           /* targets that are no -1 */
};

struct mt_loader;

enum mt_status mt_loader_create(struct mt_loader **loader, const struct mt_loader_config *config);
void mt_loader_destroy(struct mt_loader *loader);
/* Begins the step of global samples first .. first + gbs - 1 (any: steps may be repeated or left out): batches of other steps are
 * free from now on. What is read ahead are the gbs samples after these. */
enum mt_status mt_loader_begin(struct mt_loader *loader, uint64_t first);
/* Micro-batch k of the step, in any order, any number of times; it stays until the next begin. Adds the seconds waited, if any. */
enum mt_status mt_loader_get(struct mt_loader *loader, int64_t microbatch, struct mt_batch *batch, double *waited_s);
/* Micro-batches that are there, counted from micro-batch 0 of the step. For tests. */
int64_t mt_loader_ready(struct mt_loader *loader);

#endif
