/* pipeline: the executor of a stage's actions (schedule.h).
 *
 * Each lane of the schedule has a comm stream for its sends and one for its receives, so that messages of a lane keep their order
 * and no send can hold up a receive. Activations and gradients go through groups of their own: with several chunks both
 * pass between the same two ranks in the same direction. */
#include "engine/internal.h"

enum { FORWARD, BACKWARD };

static struct mt_flight *flight_of(struct mt_engine *e, const struct mt_action *action)
{
	return &e->flights[action->chunk * e->microbatches + action->microbatch];
}

static int64_t message_elements(const struct mt_engine *e)
{
	return e->shard_rows * e->model->hidden;
}

/* The flight of the same micro-batch on the virtual stage `step` after an action's; NULL when that is another rank's or none. */
static struct mt_flight *neighbour(struct mt_engine *e, const struct mt_action *action, int step)
{
	const struct mt_layout *l = e->layout;
	int next = mt_schedule_virtual((enum mt_schedule)l->schedule, (int)l->pp, e->at.pp, action->chunk) + step;
	struct mt_action there = *action;
	int stage;

	if (next < 0 || next >= l->pp * l->vp)
		return NULL;
	mt_schedule_place((enum mt_schedule)l->schedule, (int)l->pp, next, &stage, &there.chunk);
	return stage == e->at.pp ? flight_of(e, &there) : NULL;
}

/* Rank in the pipeline group of the virtual stage `step` after an action's. */
static int rank_after(const struct mt_engine *e, const struct mt_action *action, int step)
{
	const struct mt_layout *l = e->layout;
	int v = mt_schedule_virtual((enum mt_schedule)l->schedule, (int)l->pp, e->at.pp, action->chunk), stage, chunk;

	mt_schedule_place((enum mt_schedule)l->schedule, (int)l->pp, v + step, &stage, &chunk);
	return stage;
}

static enum mt_status receive(struct mt_engine *e, int direction, const struct mt_action *action)
{
	struct mt_flight *flight = flight_of(e, action);
	struct mt_stream *stream = e->recv_stream[mt_schedule_lane((enum mt_schedule)e->layout->schedule, action)];
	void **buffer = direction == FORWARD ? &flight->input : &flight->gradient;
	int from = rank_after(e, action, direction == FORWARD ? -1 : 1);

	MT_TRY(mt_engine_alloc(e, ARENA_ACTIVATIONS, message_elements(e), e->dtype, buffer));
	/* The buffer may have been in use by kernels until now. */
	MT_TRY(mt_event_record(e->event, e->compute));
	MT_TRY(mt_stream_wait(stream, e->event));
	MT_TRY(mt_comm_recv(direction == FORWARD ? e->pp : e->pp_back, stream, *buffer, message_elements(e), e->dtype, from));
	flight->awaited[direction] = true;
	return mt_event_record(flight->arrived[direction], stream);
}

/* Waits until the oldest send of a lane is over and frees its buffer. */
static enum mt_status retire(struct mt_engine *e, int lane)
{
	struct mt_sent *oldest = &e->sent[lane][e->sent_first[lane]];
	struct mt_mark start;

	MT_TRY(mt_lap_begin(e, &start));
	MT_TRY(mt_stream_wait(e->compute, oldest->event));
	MT_TRY(mt_lap_end(e, &start, &e->pp_s));
	mt_engine_release(e, &oldest->buffer);
	e->sent_first[lane] = (e->sent_first[lane] + 1) % e->schedule.sends;
	e->sent_count[lane]--;
	return MT_OK;
}

static enum mt_status send(struct mt_engine *e, int direction, const struct mt_action *action)
{
	struct mt_flight *flight = flight_of(e, action);
	int lane = mt_schedule_lane((enum mt_schedule)e->layout->schedule, action);
	struct mt_stream *stream = e->send_stream[lane];
	void **buffer = direction == FORWARD ? &flight->output : &flight->gradient;
	struct mt_sent *sent;

	if (e->sent_count[lane] == e->schedule.sends)
		MT_TRY(retire(e, lane));
	sent = &e->sent[lane][(e->sent_first[lane] + e->sent_count[lane]) % e->schedule.sends];
	MT_TRY(mt_event_record(e->event, e->compute));
	MT_TRY(mt_stream_wait(stream, e->event));
	MT_TRY(mt_comm_send(direction == FORWARD ? e->pp : e->pp_back, stream, *buffer, message_elements(e), e->dtype,
			    rank_after(e, action, direction == FORWARD ? 1 : -1)));
	MT_TRY(mt_event_record(sent->event, stream));
	sent->buffer = *buffer;
	e->sent_count[lane]++;
	*buffer = NULL;
	return MT_OK;
}

/* The compute waits for the message that this pass needs, if it needs one. */
static enum mt_status await(struct mt_engine *e, int direction, const struct mt_action *action)
{
	struct mt_flight *flight = flight_of(e, action);
	struct mt_mark start;

	if (!flight->awaited[direction])
		return MT_OK;
	flight->awaited[direction] = false;
	MT_TRY(mt_lap_begin(e, &start));
	MT_TRY(mt_stream_wait(e->compute, flight->arrived[direction]));
	return mt_lap_end(e, &start, &e->pp_s);
}

static enum mt_status forward(struct mt_engine *e, const struct mt_action *action)
{
	struct mt_flight *flight = flight_of(e, action), *next = neighbour(e, action, 1);

	MT_TRY(await(e, FORWARD, action));
	MT_TRY(mt_stage_forward(e, action->chunk, action->microbatch, flight));
	if (next) { /* the tip of a V: the next virtual stage is here */
		next->input = flight->output;
		flight->output = NULL;
	}
	return MT_OK;
}

static enum mt_status backward(struct mt_engine *e, const struct mt_action *action)
{
	struct mt_flight *flight = flight_of(e, action), *before = neighbour(e, action, -1);

	MT_TRY(await(e, BACKWARD, action));
	e->last_microbatch = action->microbatch == e->microbatches - 1;
	MT_TRY(mt_stage_backward(e, action->chunk, flight));
	if (before) {
		before->gradient = flight->gradient;
		flight->gradient = NULL;
	}
	return MT_OK;
}

static enum mt_status run_action(struct mt_engine *e, const struct mt_action *action)
{
	switch (action->kind) {
	case MT_RECV_FORWARD:
		return receive(e, FORWARD, action);
	case MT_RECV_BACKWARD:
		return receive(e, BACKWARD, action);
	case MT_SEND_FORWARD:
		return send(e, FORWARD, action);
	case MT_SEND_BACKWARD:
		return send(e, BACKWARD, action);
	case MT_FORWARD:
		return forward(e, action);
	case MT_BACKWARD:
		return backward(e, action);
	case MT_WGRAD_FIRST:
		return mt_wgrads_run_first(e, &flight_of(e, action)->wgrads);
	case MT_WGRAD:
		e->last_microbatch = action->microbatch == e->microbatches - 1;
		return mt_stage_wgrad(e, action->chunk, flight_of(e, action));
	}
	return mt_fail(MT_FAILED, "schedule: unknown action %d", (int)action->kind);
}

/* Waits until every send is over. */
static enum mt_status retire_all(struct mt_engine *e)
{
	for (int lane = 0; lane < MT_SCHEDULE_LANES; lane++) {
		while (e->sent_count[lane] > 0)
			MT_TRY(retire(e, lane));
	}
	return MT_OK;
}

enum mt_status mt_pipeline_run(struct mt_engine *e)
{
	for (int64_t i = 0; i < e->schedule.count; i++)
		MT_TRY(run_action(e, &e->schedule.actions[i]));
	return retire_all(e);
}

/* Forward pass i of this stage: groups of pp micro-batches, each through a chunk and then the next chunk. What a pass needs comes
 * before it in this order on every stage, so that nobody waits in a circle. */
static struct mt_action forward_pass(const struct mt_engine *e, int64_t i)
{
	int64_t size = e->layout->pp, chunks = e->table.chunk_count, group = i / (size * chunks), first = group * size;
	int64_t count = e->microbatches - first < size ? e->microbatches - first : size, rest = i - group * size * chunks;

	return (struct mt_action){.kind = MT_FORWARD, .microbatch = first + rest % count, .chunk = (int)(rest / count)};
}

/* The message that a pass needs, if it comes from another stage. */
static enum mt_status expect(struct mt_engine *e, const struct mt_action *pass)
{
	const struct mt_layout *l = e->layout;
	int v = mt_schedule_virtual((enum mt_schedule)l->schedule, (int)l->pp, e->at.pp, pass->chunk);

	return v > 0 && !neighbour(e, pass, -1) ? receive(e, FORWARD, pass) : MT_OK;
}

enum mt_status mt_pipeline_forward(struct mt_engine *e)
{
	const struct mt_layout *l = e->layout;
	struct mt_action pass = forward_pass(e, 0), next;

	MT_TRY(expect(e, &pass));
	for (int64_t i = 0; i < e->flight_count; i++, pass = next) {
		int v = mt_schedule_virtual((enum mt_schedule)l->schedule, (int)l->pp, e->at.pp, pass.chunk);

		next = pass;
		if (i + 1 < e->flight_count) { /* its message moves under this one's compute */
			next = forward_pass(e, i + 1);
			MT_TRY(expect(e, &next));
		}
		MT_TRY(forward(e, &pass));
		if (v + 1 < l->pp * l->vp && !neighbour(e, &pass, 1))
			MT_TRY(send(e, FORWARD, &pass));
		mt_flight_free(e, flight_of(e, &pass));
	}
	return retire_all(e);
}
