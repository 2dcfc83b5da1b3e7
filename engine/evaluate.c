/* evaluate: the loss of data that is not trained on.
 *
 * The forward passes of the stages alone, micro-batch by micro-batch, each one's activations freed when its loss is known: less
 * memory than a step. Each call takes the same samples, so that its losses can be compared. */
#include "engine/context.h"
#include "engine/internal.h"

enum mt_status mt_engine_open_loader(struct mt_engine *e, struct mt_dataset *dataset, struct mt_loader **loader)
{
	const struct mt_layout *l = e->layout;
	struct mt_loader_config config = {.dataset = dataset,
					  .seq = l->seq,
					  .mbs = l->mbs,
					  .gbs = e->gbs,
					  .dp = l->dp,
					  .rank = e->at.dp,
					  .apart = l->documents == MT_DOCUMENTS_APART,
					  .count_boundaries = e->config.run->data.count_boundaries,
					  .rows = e->rows_taken,
					  .row_count = e->seq,
					  .modules = e->table.module_count};

	if (!dataset || (!e->first && !e->last && !config.apart))
		return MT_OK;
	return mt_loader_create(loader, &config);
}

/* sums[0] of the losses, [1] of the targets that count. */
static enum mt_status run_batches(struct mt_engine *e, int64_t batches, double sums[2])
{
	double part;

	e->counted = 0;

	for (int64_t i = 0; i < batches; i++) {
		if (e->eval_loader)
			MT_TRY(mt_loader_begin(e->eval_loader, (uint64_t)(i * e->layout->gbs)));
		MT_TRY(mt_pipeline_forward(e));
		if (!e->last || e->at.tp != 0)
			continue;
		MT_TRY(mt_losses_sum(e, &part));
		sums[0] += part;
	}
	if (e->last && e->at.tp == 0)
		sums[1] = e->counted;
	return MT_OK;
}

enum mt_status mt_engine_evaluate(struct mt_engine *engine, struct mt_dataset *dataset, int64_t batches, double *loss)
{
	struct mt_engine *e = engine;
	double sums[2] = {0};
	enum mt_status st;

	MT_TRY(mt_batch_resize(e, e->layout->gbs)); /* the next step makes it its own again */
	if (!e->eval_loader)
		MT_TRY(mt_engine_open_loader(e, dataset, &e->eval_loader));
	e->evaluating = true;
	mt_fp8_begin(e);
	st = run_batches(e, batches, sums);
	if (st == MT_OK)
		st = mt_params_leave(e);
	e->evaluating = false;
	if (st == MT_OK)
		st = mt_laps_read(e);
	if (st == MT_OK)
		st = mt_comm_host_all_reduce(e->world, sums, 2, MT_SUM);
	*loss = sums[1] > 0 ? sums[0] / sums[1] : 0;
	return st;
}
