/* pipeline: the executor of a stage's actions (schedule.h).
 *
 * Four comm streams carry activations and gradients, one a direction and end, so that messages between two stages keep
 * their order and no send can hold up a receive. */
#include "engine/internal.h"

enum { FORWARD, BACKWARD };

static int64_t message_elements(const struct mt_engine *e)
{
	return e->shard_rows * e->model->hidden;
}

static enum mt_status receive(struct mt_engine *e, int direction, int64_t microbatch)
{
	struct mt_flight *flight = &e->flights[microbatch];
	void **buffer = direction == FORWARD ? &flight->input : &flight->gradient;
	int from = e->at.pp + (direction == FORWARD ? -1 : 1);

	MT_TRY(mt_engine_alloc(e, ARENA_ACTIVATIONS, message_elements(e), e->dtype, buffer));
	/* The buffer may have been in use by kernels until now. */
	MT_TRY(mt_event_record(e->event, e->compute));
	MT_TRY(mt_stream_wait(e->recv_stream[direction], e->event));
	MT_TRY(mt_comm_recv(e->pp, e->recv_stream[direction], *buffer, message_elements(e), e->dtype, from));
	return mt_event_record(flight->arrived[direction], e->recv_stream[direction]);
}

/* Waits until the previous send in this direction is over and frees its buffer. */
static enum mt_status retire(struct mt_engine *e, int direction)
{
	struct mt_sent *sent = &e->sent[direction];
	struct mt_mark start;

	if (!sent->buffer)
		return MT_OK;
	MT_TRY(mt_lap_begin(e, &start));
	MT_TRY(mt_stream_wait(e->compute, sent->event));
	MT_TRY(mt_lap_end(e, &start, &e->pp_s));
	mt_engine_release(e, &sent->buffer);
	return MT_OK;
}

static enum mt_status send(struct mt_engine *e, int direction, int64_t microbatch)
{
	struct mt_flight *flight = &e->flights[microbatch];
	void **buffer = direction == FORWARD ? &flight->output : &flight->gradient;
	int to = e->at.pp + (direction == FORWARD ? 1 : -1);

	MT_TRY(retire(e, direction));
	MT_TRY(mt_event_record(e->event, e->compute));
	MT_TRY(mt_stream_wait(e->send_stream[direction], e->event));
	MT_TRY(mt_comm_send(e->pp, e->send_stream[direction], *buffer, message_elements(e), e->dtype, to));
	MT_TRY(mt_event_record(e->sent[direction].event, e->send_stream[direction]));
	e->sent[direction].buffer = *buffer;
	*buffer = NULL;
	return MT_OK;
}

/* The compute waits for the message that this pass needs, if it needs one. */
static enum mt_status await(struct mt_engine *e, int direction, int64_t microbatch, bool needed)
{
	struct mt_mark start;

	if (!needed)
		return MT_OK;
	MT_TRY(mt_lap_begin(e, &start));
	MT_TRY(mt_stream_wait(e->compute, e->flights[microbatch].arrived[direction]));
	return mt_lap_end(e, &start, &e->pp_s);
}

static enum mt_status run_action(struct mt_engine *e, const struct mt_action *action)
{
	int64_t k = action->microbatch;

	switch (action->kind) {
	case MT_RECV_FORWARD:
		return receive(e, FORWARD, k);
	case MT_RECV_BACKWARD:
		return receive(e, BACKWARD, k);
	case MT_SEND_FORWARD:
		return send(e, FORWARD, k);
	case MT_SEND_BACKWARD:
		return send(e, BACKWARD, k);
	case MT_FORWARD:
		MT_TRY(await(e, FORWARD, k, !e->first));
		return mt_stage_forward(e, k);
	case MT_BACKWARD:
		MT_TRY(await(e, BACKWARD, k, !e->last));
		e->last_microbatch = k == e->microbatches - 1;
		return mt_stage_backward(e, k);
	}
	return mt_fail(MT_FAILED, "schedule: unknown action %d", (int)action->kind);
}

enum mt_status mt_pipeline_run(struct mt_engine *e)
{
	for (int64_t i = 0; i < e->schedule.count; i++)
		MT_TRY(run_action(e, &e->schedule.actions[i]));
	MT_TRY(retire(e, FORWARD));
	return retire(e, BACKWARD);
}
