/* footprint: see footprint.h. */
#include "tuner/footprint.h"

struct tally {
	const struct mt_pipeline_stage *stage;
	const struct mt_card *card;
	bool apart, puts_off;                    /* gradients of weights have passes of their own */
	int64_t live, most, logits, host, begun; /* begun: of the next such pass, what is freed */
	int64_t sent[MT_SCHEDULE_LANES];
	struct mt_footprint *out;
};

static void note(struct tally *t, int64_t above)
{
	if (t->live + above > t->out->activation_bytes)
		t->out->activation_bytes = t->live + above;
}

static void add(struct tally *t, int64_t bytes)
{
	t->live += bytes;
	note(t, 0);
}

static bool offloads(const struct tally *t, int64_t i)
{
	return i >= 0 && i < t->stage->offload_layers;
}

/* A layer's activations go to the host, or come back. */
static void move(struct tally *t, int64_t bytes, int64_t sign)
{
	t->host += sign * bytes;
	add(t, -sign * bytes);
	if (t->host > t->out->host_bytes)
		t->out->host_bytes = t->host;
}

static void forward(struct tally *t, const struct mt_pipeline_chunk *chunk)
{
	const struct mt_card *card = t->card;

	add(t, card->document_bytes + (chunk->first ? card->token_bytes : 0) + (chunk->last ? card->token_bytes : 0));
	if (chunk->first) {
		note(t, card->embedding.forward_peak_bytes);
		add(t, card->embedding.forward_bytes);
	}
	for (int64_t i = 0; i < chunk->layers; i++) {
		note(t, chunk->blocks[i]->forward_peak_bytes);
		add(t, chunk->blocks[i]->forward_bytes);
		if (offloads(t, i - 1))
			move(t, chunk->blocks[i - 1]->forward_bytes, 1);
	}
	if (offloads(t, chunk->layers - 1))
		move(t, chunk->blocks[chunk->layers - 1]->forward_bytes, 1);
	if (!chunk->last)
		return;
	note(t, card->head.forward_peak_bytes - (t->apart ? card->logits_bytes : 0));
	add(t, card->head.forward_bytes - (t->apart ? card->logits_bytes : 0));
	t->logits += card->logits_bytes;
	if (t->apart && t->logits > t->out->logits_bytes)
		t->out->logits_bytes = t->logits;
}

static void backward(struct tally *t, const struct mt_pipeline_chunk *chunk)
{
	const struct mt_card *card = t->card;

	if (chunk->last) {
		note(t, card->head.backward_peak_bytes);
		add(t, card->head.backward_bytes + (t->apart ? card->logits_bytes : 0) - card->token_bytes);
		t->logits -= card->logits_bytes;
	}
	for (int64_t i = chunk->layers - 1; i >= 0; i--) {
		if (offloads(t, i) && i == chunk->layers - 1) /* the others were asked for a layer ahead */
			move(t, chunk->blocks[i]->forward_bytes, -1);
		if (offloads(t, i - 1))
			move(t, chunk->blocks[i - 1]->forward_bytes, -1);
		note(t, chunk->blocks[i]->backward_peak_bytes);
		add(t, chunk->blocks[i]->backward_bytes + (t->puts_off ? 0 : chunk->blocks[i]->wgrad_bytes));
	}
	if (chunk->first) {
		note(t, card->embedding.backward_peak_bytes);
		add(t, card->embedding.backward_bytes - card->token_bytes);
	}
	add(t, -card->document_bytes);
}

static void run(struct tally *t, const struct mt_schedule_shape *shape, const struct mt_action_list *list,
		const struct mt_action *a)
{
	const struct mt_pipeline_chunk *chunk = &t->stage->chunks[a->chunk];
	int lane = mt_schedule_lane(shape->kind, a);

	switch (a->kind) {
	case MT_RECV_FORWARD:
	case MT_RECV_BACKWARD:
		add(t, t->card->edge_bytes);
		break;
	case MT_SEND_FORWARD:
	case MT_SEND_BACKWARD:
		if (t->sent[lane] < list->sends)
			t->sent[lane]++;
		else
			add(t, -t->card->edge_bytes);
		break;
	case MT_FORWARD:
		forward(t, chunk);
		break;
	case MT_BACKWARD:
		backward(t, chunk);
		break;
	case MT_WGRAD_FIRST:
		t->begun = chunk->layers > 0 ? chunk->blocks[chunk->layers - 1]->first_wgrad_bytes : 0;
		add(t, t->begun);
		break;
	case MT_WGRAD:
		t->live -= t->begun;
		t->begun = 0;
		for (int64_t i = chunk->layers - 1; i >= 0; i--)
			add(t, chunk->blocks[i]->wgrad_bytes);
		break;
	}
}

enum mt_status mt_footprint_find(struct mt_footprint *footprint, const struct mt_pipeline_stage *stage, const struct mt_card *card,
				 const struct mt_schedule_shape *shape, int index, bool apart)
{
	struct tally t = {.stage = stage,
			  .card = card,
			  .apart = apart,
			  .puts_off = mt_schedule_puts_off(shape->kind, index),
			  .out = footprint};
	struct mt_schedule_shape few = *shape;
	struct mt_action_list list;
	int64_t group = shape->group > 0 ? shape->group : shape->stages, most = 4 * group * shape->chunks;

	/* What a stage holds is settled long before. */
	if (few.microbatches > most)
		few.microbatches = most + shape->microbatches % group;
	*footprint = (struct mt_footprint){0};
	MT_TRY(mt_schedule_create(&list, &few, index));
	for (int64_t i = 0; i < list.count; i++)
		run(&t, &few, &list, &list.actions[i]);
	mt_schedule_free(&list);
	return MT_OK;
}
