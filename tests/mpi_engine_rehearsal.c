/* Jobs of 8 ranks rehearsed, on the clocks of the ranks, which do not depend on the machine's load.
 * ranks: 8
 *
 * Work ends when it should by hand; step time and memory of whole jobs are the dry run's, memory with real links too; passes run in
 * the order of the schedule; the bubbles of 8 stages and 32 micro-batches are those of the papers' formulas. With an argument, the
 * seconds of a step, the bubbles are rehearsed in real time too, and printed. */
#include "tests/engine_problem.h"
#include "tests/tuner_problem.h"
#include "tuner/rehearse.h"

#include <math.h>

struct counts {
	int passed, failed;
};

/* One rank's view. */
struct stand {
	struct mt_fabric *fabric;
	struct mt_group *world;
	struct counts counts;
	double wall_s; /* of a step, 0: on the ranks' clocks only */
};

/* All ranks learn whether any of them found something wrong. */
static void conclude(struct stand *s, const char *name, const char *why)
{
	double bad = why[0] != '\0';

	if (bad)
		printf("FAILED %s, rank %d: %s\n", name, mt_fabric_rank(s->fabric), why);
	if (mt_comm_host_all_reduce(s->world, &bad, 1, MT_MAX) == MT_OK && bad == 0)
		s->counts.passed++;
	else
		s->counts.failed++;
}

/* ---- by hand: every operation costs 1 s ---- */

static double one_second(void *context, const struct mt_comm_key *key)
{
	return 1;
}

struct hand {
	struct mt_device *device;
	struct mt_fabric *fabric;
	struct mt_group *world;
	struct mt_stream *compute, *comm;
	int rank, size;
};

static enum mt_status open_hand(struct hand *h, struct mt_fabric *below)
{
	struct mt_device_config device = {.kind = "rehearsal"};
	struct mt_fabric_config fabric = {.kind = "rehearsal", .base = below, .cost = {.comm_s = one_second}};
	int ranks[64];

	MT_TRY(mt_device_create(&h->device, &device));
	fabric.device = h->device;
	MT_TRY(mt_fabric_create(&h->fabric, &fabric));
	h->rank = mt_fabric_rank(h->fabric);
	h->size = mt_fabric_size(h->fabric);
	for (int i = 0; i < h->size; i++)
		ranks[i] = i;
	MT_TRY(mt_group_create(h->fabric, "hand", ranks, h->size, &h->world));
	MT_TRY(mt_stream_create(h->device, MT_STREAM_COMPUTE, "compute", &h->compute));
	return mt_stream_create(h->device, MT_STREAM_COMM, "comm", &h->comm);
}

static void close_hand(struct hand *h)
{
	mt_stream_destroy(h->comm);
	mt_stream_destroy(h->compute);
	mt_group_destroy(h->world);
	mt_fabric_destroy(h->fabric);
	mt_device_destroy(h->device);
}

static void expect(char why[200], const char *what, double got_s, double want_s)
{
	if (!why[0] && fabs(got_s - want_s) > 1e-9)
		snprintf(why, 200, "%s: %.9g s, expected %.9g", what, got_s, want_s);
}

/* Rank r is busy for r s before; two collectives on the comm stream; a ring of messages; the hosts meet; calls that differ. */
static enum mt_status play(struct hand *h, char why[200])
{
	float *buffer = (float *)(uintptr_t)4096; /* never touched */
	int next = (h->rank + 1) % h->size, before = (h->rank + h->size - 1) % h->size;
	double last = h->size - 1, sum = h->rank;
	enum mt_status st;

	mt_stream_advance(h->compute, 0, h->rank);
	MT_TRY(mt_comm_all_reduce(h->world, h->compute, buffer, buffer, 8, MT_F32, MT_SUM));
	expect(why, "a collective begins with its last member", mt_stream_now_s(h->compute), last + 1);

	mt_stream_advance(h->comm, last + 1 + (h->rank == 2), 0);
	for (int i = 0; i < 3; i++)
		MT_TRY(mt_comm_all_gather(h->world, h->comm, buffer, buffer + 64, 8, MT_F32));
	expect(why, "collectives of a comm stream follow one another", mt_stream_now_s(h->comm), last + 5);

	mt_stream_advance(h->comm, last + 10 + (h->rank == 1 ? 5 : 0), 0);
	MT_TRY(mt_comm_send(h->world, h->comm, buffer, 8, MT_F32, next));
	MT_TRY(mt_comm_recv(h->world, h->compute, buffer, 8, MT_F32, before));
	expect(why, "a message arrives after it was sent", mt_stream_now_s(h->compute), last + 11 + (before == 1 ? 5 : 0));

	MT_TRY(mt_stream_synchronize(h->compute));
	MT_TRY(mt_comm_host_all_reduce(h->world, &sum, 1, MT_SUM));
	expect(why, "the hosts add what they have", sum, last * h->size / 2);
	expect(why, "the hosts meet when the last has come", h->device->virtual_start_s, last + 16);

	st = mt_comm_all_reduce(h->world, h->compute, buffer, buffer, h->rank == 1 ? 9 : 8, MT_F32, MT_SUM);
	if (!why[0] && (st != MT_FAILED || !strstr(mt_error_message(), "bytes")))
		snprintf(why, 200, "sizes that differ: status %d, '%.100s'", st, mt_error_message());
	mt_error_clear();
	return MT_OK;
}

static void work_ends_when_it_should(struct stand *s)
{
	struct hand h = {0};
	char why[200] = "";
	enum mt_status st = open_hand(&h, s->fabric);

	if (st == MT_OK)
		st = play(&h, why);
	if (st != MT_OK)
		snprintf(why, sizeof why, "%.190s", mt_error_message());
	close_hand(&h);
	conclude(s, __func__, why);
}

/* ---- whole jobs against the dry run ---- */

static const struct {
	int tp, pp, cp, dp, ep, vp, zero, zero_group, sp, schedule, cp_kind, cp_inner;
} layouts[] = {
	{2, 2, 1, 2, 1, 1, 1, 0, 1, MT_SCHEDULE_1F1B, 0, 1},
	{1, 8, 1, 1, 1, 1, 0, 0, 0, MT_SCHEDULE_1F1B, 0, 1},
	{1, 4, 1, 2, 1, 2, 0, 0, 0, MT_SCHEDULE_1F1B, 0, 1},
	{2, 4, 1, 1, 1, 1, 0, 0, 1, MT_SCHEDULE_ZB_H1, 0, 1},
	{1, 4, 1, 2, 1, 2, 1, 0, 0, MT_SCHEDULE_ZB_V, 0, 1},
	{1, 1, 1, 8, 1, 1, 3, 4, 0, MT_SCHEDULE_1F1B, 0, 1},
	{1, 1, 1, 8, 1, 1, 3, 0, 0, MT_SCHEDULE_1F1B, 0, 1},
	{2, 1, 1, 4, 1, 1, 2, 0, 1, MT_SCHEDULE_1F1B, 0, 1},
	{1, 2, 4, 1, 1, 1, 0, 0, 0, MT_SCHEDULE_1F1B, MT_CONTEXT_RING, 1},
	{1, 1, 4, 2, 1, 1, 0, 0, 0, MT_SCHEDULE_1F1B, MT_CONTEXT_HYBRID, 2},
	{1, 1, 4, 2, 1, 1, 1, 0, 0, MT_SCHEDULE_1F1B, MT_CONTEXT_ALL_GATHER, 1},
	{1, 2, 1, 4, 4, 1, 0, 0, 0, MT_SCHEDULE_1F1B, 0, 1},
	{2, 1, 1, 4, 2, 1, 1, 0, 1, MT_SCHEDULE_1F1B, 0, 1},
};

static void set_layout(struct mt_run *run, size_t i)
{
	struct mt_layout *l = &run->layout;

	l->tp = layouts[i].tp, l->pp = layouts[i].pp, l->cp = layouts[i].cp, l->dp = layouts[i].dp, l->ep = layouts[i].ep;
	l->vp = layouts[i].vp, l->zero = layouts[i].zero, l->zero_group = layouts[i].zero_group, l->sp = layouts[i].sp;
	l->schedule = layouts[i].schedule, l->cp_kind = layouts[i].cp_kind, l->cp_inner = layouts[i].cp_inner;
	l->mbs = 1;
	l->gbs = 4 * l->dp;
	run->model.layers = 8;
	run->model.experts = l->ep > 1 ? 4 : 0;
	run->model.top_k = l->ep > 1 ? 2 : 0;
	run->model.expert_ffn = l->ep > 1 ? run->model.ffn : 0;
}

static enum mt_status compare(const struct mt_run *run, struct mt_fabric *fabric, char why[200])
{
	struct mt_candidate dry = {.layout = run->layout};
	struct mt_rehearsal r = {0};
	struct made_up made;
	/* Copies across groups follow reductions within them on one stream, whose ends are then known a little late. */
	double bound_frac = run->layout.zero_group > 0 ? 0.005 : 0.001;
	enum mt_status st;

	make_up(&made, mt_fabric_size(fabric), 20, 1, 1e9, 1e9, 1e-6);
	made.cost.train = &run->train;
	MT_GOTO(out, mt_predict_dry(&dry, &run->model, &made.cost, NULL));
	MT_GOTO(out, mt_rehearse(&r, &(struct mt_rehearse_config){.run = run, .fabric = fabric, .cost = &made.cost, .steps = 1}));
	if (mt_rehearsal_memory_agrees(&r, &dry, why) && fabs(dry.step_s - r.step_s) > bound_frac * r.step_s)
		snprintf(why, 200, "step of %.9g s by dry run, %.9g s rehearsed", dry.step_s, r.step_s);
	if (why[0])
		goto out;
	mt_rehearsal_free(&r);
	MT_GOTO(out,
		mt_rehearse(&r,
			    &(struct mt_rehearse_config){
				    .run = run, .fabric = fabric, .cost = &made.cost, .steps = 1, .pace = 1, .real_links = true}));
	if (mt_rehearsal_memory_agrees(&r, &dry, why) && r.wall_s < dry.compute_s - 1e-3)
		snprintf(why, 200, "links real: a step of %.9g s, its kernels take %.9g s", r.wall_s, dry.compute_s);
out:
	mt_rehearsal_free(&r);
	free_candidate(&dry);
	make_up_end(&made);
	return st;
}

static void dry_run_foretells_the_job(struct stand *s)
{
	for (size_t i = 0; i < sizeof layouts / sizeof layouts[0]; i++) {
		char why[200] = "", text[96];
		struct mt_run run;

		set_tiny_run(&run, &TINY_GPT);
		set_layout(&run, i);
		if (compare(&run, s->fabric, why) != MT_OK)
			snprintf(why, sizeof why, "%.190s", mt_error_message());
		mt_layout_text(&run.layout, text);
		conclude(s, text, why);
		mt_run_free(&run);
	}
}

/* ---- order and bubbles: 8 stages, 32 micro-batches, passes that are nearly all products ---- */

enum { STAGES = 8, MICROBATCHES = 32, LAYERS = 32, HIDDEN = 4096, VOCAB = 128, MOST_OPS = 1 << 16 };

/* What a rank's device did in a step, of the layers: the kinds of products in order, and the seconds of passes. */
struct passes {
	int count;
	char kinds[MOST_OPS]; /* F, B, W a product */
	double start_s, end_s;
	double forward_s, backward_s, wgrad_s;
};

static bool of_the_step(int32_t kind)
{
	return kind != MT_OP_ADAMW && kind != MT_OP_SUMSQ && kind != MT_OP_FILL && kind != MT_OP_CAST && kind != MT_OP_COPY;
}

static bool goes_back(int32_t kind)
{
	return kind == MT_OP_LINEAR_DGRAD || kind == MT_OP_ATTENTION_BWD || kind == MT_OP_NORM_BWD ||
	       kind == MT_OP_ACTIVATION_BWD || kind == MT_OP_EMBEDDING_BWD || kind == MT_OP_BIAS_GRAD;
}

static void note(void *context, const struct mt_trace_event *event)
{
	struct passes *p = context;
	const struct mt_op_key *key = event->key;
	double seconds = event->end_s - event->start_s;

	if (!key || !of_the_step(key->kind))
		return;
	p->start_s = p->start_s < 0 ? event->start_s : p->start_s;
	p->end_s = event->end_s;
	*(key->kind == MT_OP_LINEAR_WGRAD ? &p->wgrad_s : goes_back(key->kind) ? &p->backward_s : &p->forward_s) += seconds;
	if (key->kind > MT_OP_LINEAR_WGRAD || key->dims[1] == VOCAB || key->dims[2] == VOCAB || p->count == MOST_OPS)
		return; /* not the head's */
	p->kinds[p->count++] = key->kind == MT_OP_LINEAR ? 'F' : key->kind == MT_OP_LINEAR_DGRAD ? 'B' : 'W';
}

/* Products of a pass, each a letter; a first gradient of weights is one, the rest of its pass the others. */
static int products_of(const struct mt_layout *l, enum mt_action_kind kind, int each)
{
	bool first = l->schedule == MT_SCHEDULE_ZB_H1;

	return kind == MT_WGRAD_FIRST ? 1 : kind == MT_WGRAD && first ? each - 1 : each;
}

/* Whether the products are those of the schedule's passes. On stages that do not put them off, W goes with B. */
static void check_order(const struct mt_layout *l, int stage, const struct passes *p, char why[200])
{
	struct mt_schedule_shape shape = mt_layout_schedule(l);
	struct mt_action_list schedule;
	bool splits = mt_schedule_puts_off((enum mt_schedule)l->schedule, stage);
	int at = 0, forwards = 0;

	for (int i = 0; i < p->count; i++)
		forwards += p->kinds[i] == 'F';
	if (mt_schedule_create(&schedule, &shape, stage) != MT_OK) {
		snprintf(why, 200, "%.190s", mt_error_message());
		return;
	}
	int each = (int)(forwards / (MICROBATCHES * l->vp)); /* products of a pass */
	for (int64_t i = 0; i < schedule.count && !why[0]; i++) {
		enum mt_action_kind kind = schedule.actions[i].kind;
		char want = kind == MT_FORWARD ? 'F' : kind == MT_BACKWARD ? 'B' : 'W';

		if (kind != MT_FORWARD && kind != MT_BACKWARD && kind != MT_WGRAD && kind != MT_WGRAD_FIRST)
			continue;
		for (int k = products_of(l, kind, each); k > 0; k--, at++) {
			while (!splits && at < p->count && p->kinds[at] == 'W')
				at++;
			if (at >= p->count || p->kinds[at] != want) {
				snprintf(why, 200, "product %d of %d: %c, the schedule's action %lld has %c", at, p->count,
					 at < p->count ? p->kinds[at] : '-', (long long)i, want);
				break;
			}
		}
	}
	while (!splits && at < p->count && p->kinds[at] == 'W')
		at++;
	if (!why[0] && (at != p->count || each < 1))
		snprintf(why, 200, "%d products, %d in the schedule", p->count, at);
	mt_schedule_free(&schedule);
}

/* The papers' bubble of a stage whose passes of one micro-batch take F, B and W. Qi et al. 2023 (arXiv:2401.10241), table 2;
 * Narayanan et al. 2021 (arXiv:2104.04473), section 2.2. In a V of F = B = W (Qi et al. 2024, arXiv:2405.15362) nobody waits once
 * all have begun; but the last rank begins when the first micro-batch has come through the first chunks of the others, and ranks
 * that meet after every step all wait that long: a lower bound of every schedule. The papers let ranks begin the next step without
 * that. */
static double formula_s(const struct mt_layout *l, double F, double B, double W)
{
	if (l->schedule == MT_SCHEDULE_ZB_H1)
		return (STAGES - 1) * (F + B - W);
	return (STAGES - 1) * (l->schedule == MT_SCHEDULE_ZB_V ? F : F + B + W) / (double)l->vp;
}

static const struct {
	const char *name;
	int schedule, vp;
} kinds[] = {{"1F1B", MT_SCHEDULE_1F1B, 1},
	     {"interleaved, 2 chunks", MT_SCHEDULE_1F1B, 2},
	     {"interleaved, 4 chunks", MT_SCHEDULE_1F1B, 4},
	     {"ZB-H1", MT_SCHEDULE_ZB_H1, 1},
	     {"ZB-V", MT_SCHEDULE_ZB_V, 2}};

/* Of all ranks: first start, last end, and the means of the passes; activations of the rank with most. */
struct outcome {
	double span_s, forward_s, backward_s, wgrad_s, wall_s, pace;
	int64_t activations;
};

static enum mt_status take(struct outcome *o, struct stand *s, const struct passes *mine, const struct mt_rehearsal *r)
{
	double ends[2] = {-mine->start_s, mine->end_s}, sums[3] = {mine->forward_s, mine->backward_s, mine->wgrad_s};

	MT_TRY(mt_comm_host_all_reduce(s->world, ends, 2, MT_MAX));
	MT_TRY(mt_comm_host_all_reduce(s->world, sums, 3, MT_SUM));
	o->span_s = ends[0] + ends[1];
	o->forward_s = sums[0] / STAGES;
	o->backward_s = sums[1] / STAGES;
	o->wgrad_s = sums[2] / STAGES;
	o->wall_s = r->wall_s;
	for (int i = 0; i < r->ranks; i++) {
		if (r->rank[i].arena_bytes[3] > o->activations)
			o->activations = r->rank[i].arena_bytes[3];
	}
	return MT_OK;
}

static enum mt_status run_kind(struct stand *s, size_t i, struct outcome *o, struct passes *mine, char why[200])
{
	struct mt_rehearse_config config = {.fabric = s->fabric, .steps = 1, .trace = note, .trace_context = mine};
	struct mt_candidate dry = {0};
	struct mt_rehearsal r = {0};
	struct made_up made;
	struct mt_run run;
	enum mt_status st;

	set_tiny_run(&run, &TINY_GPT);
	run.model.layers = LAYERS, run.model.hidden = HIDDEN, run.model.head_dim = HIDDEN / 4, run.model.ffn = 4 * HIDDEN;
	run.model.vocab = VOCAB, run.model.tied = false;
	run.layout.pp = STAGES, run.layout.mbs = 1, run.layout.gbs = MICROBATCHES;
	run.layout.schedule = kinds[i].schedule, run.layout.vp = kinds[i].vp;
	dry.layout = run.layout;
	make_up(&made, STAGES, 0, 1e6, 1e12, 1e15, 0); /* messages and all but products take next to no time */
	made.cost.train = &run.train;
	config.run = &run;
	config.cost = &made.cost;
	mine->start_s = -1;
	MT_GOTO(out, mt_predict_dry(&dry, &run.model, &made.cost, NULL));
	config.pace = o->pace = s->wall_s / dry.step_s;
	MT_GOTO(out, mt_rehearse(&r, &config));
	MT_GOTO(out, take(o, s, mine, &r));
	check_order(&run.layout, mt_fabric_rank(s->fabric), mine, why);
	double busy_s = o->forward_s + o->backward_s + o->wgrad_s, bubble_s = o->span_s - busy_s;
	double want_s =
		formula_s(&run.layout, o->forward_s / MICROBATCHES, o->backward_s / MICROBATCHES, o->wgrad_s / MICROBATCHES);

	if (mt_fabric_rank(s->fabric) == 0 && o->pace > 0)
		printf("%-22s bubble %.4f of the passes, formula %.4f (%+.2f%%); on the real clock %.4f; activations %.1f MB\n",
		       kinds[i].name, bubble_s / busy_s, want_s / busy_s, (bubble_s / want_s - 1) * 100,
		       (o->wall_s / o->pace - (r.step_s - o->span_s) - busy_s) / busy_s, (double)o->activations / 1e6);
	if (!why[0] && fabs(bubble_s - want_s) > 0.05 * want_s)
		snprintf(why, 200, "bubble %.6g s, by formula %.6g s, of passes of %.6g s", bubble_s, want_s, busy_s);
out:
	mt_rehearsal_free(&r);
	free_candidate(&dry);
	make_up_end(&made);
	mt_run_free(&run);
	return st;
}

static void bubbles_are_the_papers(struct stand *s)
{
	int64_t plain = 0;

	for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
		struct passes *mine = calloc(1, sizeof *mine);
		struct outcome o = {0};
		char why[200] = "";

		if (!mine)
			snprintf(why, sizeof why, "no memory");
		else if (run_kind(s, i, &o, mine, why) != MT_OK)
			snprintf(why, sizeof why, "%.190s", mt_error_message());
		plain = i == 0 ? o.activations : plain;
		if (!why[0] && kinds[i].schedule == MT_SCHEDULE_ZB_H1 && o.activations > plain)
			snprintf(why, sizeof why, "activations of %lld bytes, 1F1B has %lld", (long long)o.activations,
				 (long long)plain);
		conclude(s, kinds[i].name, why);
		free(mine);
	}
}

static enum mt_status open_stand(struct stand *s)
{
	struct mt_fabric_config config = {.kind = "mpi"};
	int ranks[64];

	MT_TRY(mt_fabric_create(&s->fabric, &config));
	for (int i = 0; i < mt_fabric_size(s->fabric) && i < 64; i++)
		ranks[i] = i;
	if (mt_fabric_size(s->fabric) != STAGES)
		return mt_fail(MT_INPUT, "start it with mpirun -n %d", STAGES);
	return mt_group_create(s->fabric, "test", ranks, STAGES, &s->world);
}

int main(int argc, char **argv)
{
	struct stand s = {.wall_s = argc > 1 ? strtod(argv[1], NULL) : 0};

	if (open_stand(&s) != MT_OK) {
		fprintf(stderr, "%s\n", mt_error_message());
		return 4;
	}
	if (s.wall_s <= 0) {
		work_ends_when_it_should(&s);
		dry_run_foretells_the_job(&s);
	}
	bubbles_are_the_papers(&s);
	if (mt_fabric_rank(s.fabric) == 0)
		printf("%d passed, %d failed, 0 skipped\n", s.counts.passed, s.counts.failed);
	mt_group_destroy(s.world);
	mt_fabric_destroy(s.fabric);
	return s.counts.failed > 0;
}
