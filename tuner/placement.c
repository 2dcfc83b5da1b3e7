/* placement: see placement.h.
 *
 * What a step sends, by kind of group, n its size and e the bytes of an activation of a micro-batch on a rank:
 *
 *   tp    4 all-reduces of e a layer and micro-batch (or gathers and scatters that move as much)   ring, 2 (n-1) e / n each
 *   cp    keys and values once round in the forward pass, twice in the backward                    ring, 3 (n-1) kv
 *   dp    gradients once, f32, over all ranks with the same parameters                             ring, 2 (n-1) g / n
 *   pp    e forward and back a micro-batch and edge
 *   ep    rows to their experts and back, forward and backward, a layer of experts                 exchange, 4 k e / ep a peer
 *   edp   gradients of experts, over the ranks that have the same                                  ring
 *
 * A ring is as slow as its slowest link, an exchange as the rank whose links to all others take longest; all groups of a kind work
 * at once, and their kinds one after the other:
 *
 *     cost = sum over kinds of max over groups of (messages * latency + bytes / bandwidth) on those links
 *
 * Start: ranks one by one, each on the free device that is cheapest to those placed. Then swaps of two devices, worse ones too
 * with a probability that falls (Kirkpatrick et al. 1983); the best seen is kept, and the launcher's order where nothing beats it.
 */
#define _GNU_SOURCE
#include "tuner/placement.h"

#include "base/random.h"
#include "base/units.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const mt_rank_order_names[] = {[MT_RANKS_DP_PP] = "tp-cp-ep-dp-pp", [MT_RANKS_PP_DP] = "tp-cp-ep-pp-dp"};

#define SEED 20240917
enum { TP, CP, DP, PP, EP, EDP, KINDS };
enum { SWAPS_A_RANK = 400 };

enum pattern { RING, EDGES, EXCHANGE };

/* Traffic along each link of the groups of a kind: between neighbours, in an exchange between any two. */
struct traffic {
	enum pattern pattern;
	bool experts; /* the axis is one of mt_layout_expert_group */
	char axis;
	int size;
	double messages, bytes;
};

struct ground {
	const struct mt_machine *machine;
	const struct mt_layout *layout;
	struct traffic traffic[KINDS];
	int world;
	/* owned, KINDS of world each: the members of all groups of a kind, group by group; of each rank its group; of each group
	 * its seconds as ranks are placed */
	int *members, *group;
	double *seconds;
};

bool mt_placement_matters(const struct mt_machine *m)
{
	int first = -1;

	for (int i = 0; m->pair_class && i < m->world * m->world; i++) {
		if (m->pair_class[i] < 0)
			continue;
		if (first >= 0 && m->pair_class[i] != first)
			return true;
		first = m->pair_class[i];
	}
	return false;
}

/* All-reduces of so many bytes. */
static void reduce(struct traffic *t, double times, double bytes)
{
	double n = t->size;

	t->messages = times * 2 * (n - 1);
	t->bytes = times * 2 * (n - 1) / n * bytes;
}

static double expert_parameters(const struct mt_model *m)
{
	int64_t expert = mt_model_mlp_matrices(m) * m->expert_ffn * m->hidden;

	return (double)mt_model_expert_layers(m) * (double)m->experts * (double)expert;
}

/* `rows`: of hidden states that a rank sends through experts, `layers` on a stage. */
static void survey_experts(struct traffic traffic[KINDS], const struct mt_model *model, const struct mt_layout *l, double rows,
			   double layers, double element)
{
	bool same_rows = l->tp > 1 && !l->sp; /* then each has its own slice of experts (engine/experts.h) */
	double m = (double)mt_layout_microbatches(l), slice = (double)(mt_layout_etp(l) * l->ep);
	struct traffic *ep = &traffic[EP], *edp = &traffic[EDP];

	*ep = (struct traffic){.pattern = EXCHANGE,
			       .experts = true,
			       .axis = same_rows ? 'e' : 'x',
			       .size = (int)(same_rows ? l->ep : mt_layout_etp(l) * l->ep)};
	*edp = (struct traffic){.experts = true, .axis = 'd', .size = (int)mt_layout_edp(l)};
	ep->messages = 4 * m * layers;
	ep->bytes = ep->messages * (double)model->top_k * rows * (double)model->hidden * element / (double)l->ep;
	reduce(edp, 1, 4 * expert_parameters(model) / (slice * (double)l->pp));
}

static void survey(struct ground *g, const struct mt_machine *machine, const struct mt_model *model, const struct mt_layout *l)
{
	double m = (double)mt_layout_microbatches(l), element = l->dtype == MT_F64 ? 8 : l->dtype == MT_F32 ? 4 : 2;
	double rows = (double)(l->mbs * l->seq) / (double)l->cp, layers = (double)model->layers / (double)l->pp;
	double keys = 2 * rows * (double)(model->kv_heads * model->head_dim) / (double)l->tp * element;
	double dense = (double)mt_model_parameters(model) - expert_parameters(model);
	double own_rows = l->sp ? rows / (double)l->tp : rows;
	struct traffic *tp = &g->traffic[TP], *cp = &g->traffic[CP], *dp = &g->traffic[DP], *pp = &g->traffic[PP];

	g->machine = machine;
	g->layout = l;
	g->world = (int)mt_layout_world(l);
	*tp = (struct traffic){.axis = 't', .size = (int)l->tp};
	*cp = (struct traffic){.axis = 'c', .size = (int)l->cp};
	*dp = (struct traffic){.axis = 'r', .size = (int)mt_layout_replicas(l)};
	*pp = (struct traffic){.pattern = EDGES, .axis = 'p', .size = (int)l->pp};
	reduce(tp, 4 * m * layers, rows * (double)model->hidden * element);
	cp->messages = 3 * m * layers * (cp->size - 1);
	cp->bytes = cp->messages * keys;
	reduce(dp, 1, 4 * dense / (double)(l->tp * l->pp));
	pp->messages = 2 * m * (double)l->vp;
	pp->bytes = pp->messages * own_rows * (double)model->hidden * element;
	if (model->experts > 0)
		survey_experts(g->traffic, model, l, own_rows, (double)mt_model_expert_layers(model) / (double)l->pp, element);
}

static double link_s(const struct ground *g, const struct traffic *t, int a, int b)
{
	const struct mt_machine_pair_class *c = &g->machine->classes[g->machine->pair_class[a * g->machine->world + b]];

	return t->messages * c->latency_us * 1e-6 + t->bytes / (c->bandwidth_gbps * 1e9);
}

static const int *members_of(const struct ground *g, int kind, int group)
{
	return g->members + (size_t)kind * (size_t)g->world + (size_t)group * (size_t)g->traffic[kind].size;
}

/* Neighbours of a group that it has links between, from each to the next; only a pipeline does not close its ring. */
static int links_of(const struct traffic *t)
{
	return t->size == 2 || t->pattern == EDGES ? t->size - 1 : t->size;
}

static double group_s(const struct ground *g, int kind, int group, const int *device)
{
	const struct traffic *t = &g->traffic[kind];
	const int *ranks = members_of(g, kind, group);
	double most = 0;

	for (int i = 0; i < t->size && t->pattern == EXCHANGE; i++) {
		double sum = 0;

		for (int k = 0; k < t->size; k++)
			sum += k == i ? 0 : link_s(g, t, device[ranks[i]], device[ranks[k]]);
		most = fmax(most, sum);
	}
	for (int i = 0; i < links_of(t) && t->pattern != EXCHANGE; i++)
		most = fmax(most, link_s(g, t, device[ranks[i]], device[ranks[(i + 1) % t->size]]));
	return most;
}

/* Of all kinds, from the seconds of their groups. */
static double sum_kinds(const struct ground *g)
{
	double sum = 0;

	for (int k = 0; k < KINDS; k++) {
		const double *seconds = g->seconds + (size_t)k * (size_t)g->world;
		double most = 0;

		for (int i = 0; g->traffic[k].size > 1 && i < g->world / g->traffic[k].size; i++)
			most = fmax(most, seconds[i]);
		sum += most;
	}
	return sum;
}

/* The groups of one rank anew. */
static void recount(struct ground *g, int rank, const int *device)
{
	for (int k = 0; k < KINDS; k++) {
		int group = g->group[k * g->world + rank];

		if (g->traffic[k].size > 1)
			g->seconds[k * g->world + group] = group_s(g, k, group, device);
	}
}

static double cost_of(struct ground *g, const int *device)
{
	for (int r = 0; r < g->world; r++)
		recount(g, r, device);
	return sum_kinds(g);
}

/* Of a kind that the model has: its groups have two ranks or more. */
static void find_groups(struct ground *g, int kind)
{
	const struct traffic *t = &g->traffic[kind];
	int *members = g->members + (size_t)kind * (size_t)g->world, *group = g->group + (size_t)kind * (size_t)g->world, count = 0;

	for (int r = 0; r < g->world; r++)
		group[r] = -1;
	for (int r = 0; r < g->world; r++) {
		int *ranks = members + (size_t)count * (size_t)t->size;

		if (group[r] >= 0)
			continue;
		(t->experts ? mt_layout_expert_group : mt_layout_group)(g->layout, r, t->axis, ranks, NULL);
		for (int i = 0; i < t->size; i++)
			group[ranks[i]] = count;
		count++;
	}
}

static void close_ground(struct ground *g)
{
	free(g->members);
	free(g->group);
	free(g->seconds);
}

/* Close it after a failure too. */
static enum mt_status open_ground(struct ground *g, const struct mt_machine *machine, const struct mt_model *model,
				  const struct mt_layout *layout)
{
	size_t count = KINDS * (size_t)machine->world;

	*g = (struct ground){.members = malloc(count * sizeof *g->members),
			     .group = malloc(count * sizeof *g->group),
			     .seconds = calloc(count, sizeof *g->seconds)};
	if (!g->members || !g->group || !g->seconds)
		return mt_fail(MT_NOMEM, "no memory for the placement of %d ranks", machine->world);
	survey(g, machine, model, layout);
	for (int k = 0; k < KINDS; k++) {
		if (g->traffic[k].size > 1)
			find_groups(g, k);
	}
	return MT_OK;
}

/* Whether two ranks of a group are joined. */
static bool joined(const struct traffic *t, const int *ranks, int r, int q)
{
	for (int i = 0; i < links_of(t) && t->pattern != EXCHANGE; i++) {
		int next = ranks[(i + 1) % t->size];

		if ((ranks[i] == r && next == q) || (ranks[i] == q && next == r))
			return true;
	}
	return t->pattern == EXCHANGE;
}

/* What rank r has to do with rank q: the links between them. */
static double affinity_s(const struct ground *g, int r, int q, int a, int b)
{
	double sum = 0;

	for (int k = 0; k < KINDS; k++) {
		const struct traffic *t = &g->traffic[k];
		const int *group = g->group + (size_t)k * (size_t)g->world;

		if (t->size > 1 && group[r] == group[q] && joined(t, members_of(g, k, group[r]), r, q))
			sum += link_s(g, t, a, b);
	}
	return sum;
}

/* taken: of each device, none yet. */
static void place_greedy(const struct ground *g, int *device, char *taken)
{
	for (int r = 0; r < g->world; r++) {
		double least = INFINITY;
		int best = -1;

		for (int d = 0; d < g->world; d++) {
			double sum = 0;

			for (int q = 0; q < r && !taken[d]; q++)
				sum += affinity_s(g, r, q, d, device[q]);
			if (!taken[d] && sum < least) {
				least = sum;
				best = d;
			}
		}
		device[r] = best;
		taken[best] = 1;
	}
}

static void exchange(struct ground *g, int *device, int a, int b)
{
	int kept = device[a];

	device[a] = device[b];
	device[b] = kept;
	recount(g, a, device);
	recount(g, b, device);
}

/* Returns the cost of what is in best. */
static double anneal(struct ground *g, int *device, int *best)
{
	double now_s = cost_of(g, device), best_s = now_s, heat = 0.1 * now_s;
	int64_t swaps = (int64_t)SWAPS_A_RANK * g->world;
	double cooling = pow(1e-4, 1.0 / (double)swaps);

	memcpy(best, device, (size_t)g->world * sizeof *best);
	for (int64_t i = 0; i < swaps; i++, heat *= cooling) {
		int a = (int)mt_random_integer(SEED, 1, (uint64_t)i, (uint64_t)g->world);
		int b = (int)mt_random_integer(SEED, 2, (uint64_t)i, (uint64_t)g->world);
		double next_s;

		if (a == b)
			continue;
		exchange(g, device, a, b);
		next_s = sum_kinds(g);
		if (next_s > now_s && mt_random_uniform(SEED, 3, (uint64_t)i) >= exp((now_s - next_s) / heat)) {
			exchange(g, device, a, b);
			continue;
		}
		now_s = next_s;
		if (now_s < best_s) {
			best_s = now_s;
			memcpy(best, device, (size_t)g->world * sizeof *best);
		}
	}
	return best_s;
}

static enum mt_status check(const struct mt_machine *machine, const struct mt_layout *layout)
{
	if (!machine->pair_class || machine->class_count == 0)
		return mt_fail(MT_UNAVAILABLE, "no links between pairs were measured: probe with all ranks");
	if (mt_layout_world(layout) != machine->world)
		return mt_fail(MT_UNAVAILABLE, "links were measured between %d devices, the layout has %lld ranks", machine->world,
			       (long long)mt_layout_world(layout));
	return MT_OK;
}

double mt_placement_cost(const struct mt_machine *machine, const struct mt_model *model, const struct mt_layout *layout,
			 const int *device)
{
	struct ground g;
	double seconds = open_ground(&g, machine, model, layout) == MT_OK ? cost_of(&g, device) : NAN;

	close_ground(&g);
	return seconds;
}

enum mt_status mt_placement_find(struct mt_placement *p, const struct mt_machine *machine, const struct mt_model *model,
				 const struct mt_layout *layout)
{
	struct ground g;
	size_t world = (size_t)machine->world;
	int *device;
	char *taken;
	enum mt_status st;

	memset(p, 0, sizeof *p);
	MT_TRY(check(machine, layout));
	device = malloc(world * sizeof *device);
	taken = calloc(world, 1);
	p->device = malloc(world * sizeof *p->device);
	MT_GOTO(out, open_ground(&g, machine, model, layout));
	if (!taken || !device || !p->device) {
		st = mt_fail(MT_NOMEM, "no memory for the placement of %d ranks", machine->world);
		goto out;
	}
	p->world = machine->world;
	for (int r = 0; r < p->world; r++)
		device[r] = r;
	p->launcher_s = cost_of(&g, device);
	place_greedy(&g, device, taken);
	p->placed_s = anneal(&g, device, p->device);
	if (!(p->placed_s < p->launcher_s)) {
		p->placed_s = p->launcher_s;
		for (int r = 0; r < p->world; r++)
			p->device[r] = r;
	}
out:
	close_ground(&g);
	free(device);
	free(taken);
	if (st != MT_OK)
		mt_placement_free(p);
	return st;
}

enum mt_status mt_placement_sorted(const struct mt_machine *m, int *device)
{
	char *taken = calloc((size_t)m->world, 1);

	if (!taken)
		return mt_fail(MT_NOMEM, "no memory for the order of %d devices", m->world);
	for (int r = 0; r < m->world; r++) {
		double most = -1;

		for (int d = 0; d < m->world; d++) {
			double gbps;

			if (taken[d])
				continue;
			gbps = r == 0 ? 0 : m->classes[m->pair_class[device[r - 1] * m->world + d]].bandwidth_gbps;
			if (gbps > most) {
				most = gbps;
				device[r] = d;
			}
		}
		taken[device[r]] = 1;
	}
	free(taken);
	return MT_OK;
}

void mt_placement_free(struct mt_placement *placement)
{
	free(placement->device);
	memset(placement, 0, sizeof *placement);
}

char *mt_placement_text(const struct mt_placement *p)
{
	char *text = NULL;
	size_t bytes = 0;
	FILE *file = open_memstream(&text, &bytes);

	if (!file)
		return NULL;
	for (int r = 0; r < p->world; r++)
		fprintf(file, "%s%d", r ? "," : "", p->device[r]);
	fclose(file);
	return text;
}

/* Where each rank runs in an order that has a name. */
static void place_named(enum mt_rank_order order, const struct mt_layout *l, int *device)
{
	for (int r = 0; r < mt_layout_world(l); r++) {
		struct mt_coordinates at = mt_layout_coordinates(l, r);
		int64_t stage = l->tp * l->cp, outer = order == MT_RANKS_PP_DP ? at.pp + l->pp * at.dp : at.dp + l->dp * at.pp;

		device[r] = (int)(at.tp + l->tp * at.cp + stage * outer);
	}
}

static enum mt_status read_list(const char *text, int world, int *device)
{
	char *copy = strdup(text), *list = copy, *seen = calloc((size_t)world, 1), *word;
	int count = 0;
	enum mt_status st = copy && seen ? MT_OK : mt_fail(MT_NOMEM, "no memory for a placement");

	while (st == MT_OK && (word = strsep(&list, ","))) {
		int64_t value;

		if (!mt_units_read_int(word, &value) || value < 0 || value >= world || count == world || seen[value]) {
			st = mt_fail(MT_INPUT,
				     "rank_order: '%s' must be tp-cp-ep-pp-dp, or name each of 0 to %d once, commas between; '%s' "
				     "does not fit",
				     text, world - 1, word);
			break;
		}
		seen[value] = 1;
		device[count++] = (int)value;
	}
	if (st == MT_OK && count < world)
		st = mt_fail(MT_INPUT, "rank_order: '%s' names %d of %d ranks", text, count, world);
	free(seen);
	free(copy);
	return st;
}

enum mt_status mt_placement_read(const char *text, const struct mt_layout *layout, int *device)
{
	for (int order = 0; order < MT_RANK_ORDERS; order++) {
		if (strcmp(text, mt_rank_order_names[order]) == 0) {
			place_named((enum mt_rank_order)order, layout, device);
			return MT_OK;
		}
	}
	return read_list(text, (int)mt_layout_world(layout), device);
}

int mt_placement_named(const char *text, const struct mt_layout *layout)
{
	size_t bytes = (size_t)mt_layout_world(layout) * sizeof(int);
	int *device = malloc(bytes), *named = malloc(bytes), found = -1;

	if (!device || !named || mt_placement_read(text, layout, device) != MT_OK) {
		mt_error_clear();
		goto out;
	}
	for (int order = 0; order < MT_RANK_ORDERS && found < 0; order++) {
		place_named((enum mt_rank_order)order, layout, named);
		found = memcmp(device, named, bytes) == 0 ? order : -1;
	}
out:
	free(named);
	free(device);
	return found;
}
