/* target_cost: seconds of products, vector operations and collectives on a machine that is described, not measured.
 *
 * Product. The output is cut into tiles; `units` of them run at once; a wave takes as long as its tile:
 *     t_tiles = ceil(tiles / units) * 2 a b (k + k0) / (peak / units * frac * tile_frac),   least over the tiles 256x128 to 64x64
 *     t = overhead + (t_tiles^4 + t_memory^4)^(1/4)
 * k0 is the pipeline's fill and the epilogue; the power mean rounds the corner of the roofline. Fitted to measured products
 * (docs/prediction.md): 4% mean error in bf16.
 *
 * Collective within a domain, as NCCL's protocols: a quick one with part of the bandwidth, a bulk one with a longer start:
 *     t = min(base + hop * steps + w / (fast * bw),  base + bulk + hop * steps + w / bw)
 * w: bytes through a rank's port, 2(n-1)/n or (n-1)/n of the buffer; steps: 2(n-1) or n-1. The switch reduces where it can.
 * Between nodes a ring crosses each node once and uses the NICs of its local ranks; a tree pays 2 log2(nodes) hops but less
 * bandwidth; the less of the two. Groups of different ranks share the node's NICs in equal parts, which is what `local` says. */
#include "profiles/target.h"

#include <math.h>

static double tiles_s(const struct mt_target *t, double groups, double m, double n, double k, double rate)
{
	/* fill and epilogue take the time that they take in 16 bits: more steps where a step is shorter */
	double fill = t->product_k0 * rate / (t->tflops_16 * t->product_frac * t->sustained_frac * 1e12);
	static const double sides[4][2] = {{256, 128}, {128, 256}, {128, 128}, {64, 64}};
	const double fracs[4] = {1, 1, t->tile_128_frac, t->tile_64_frac};
	double best = INFINITY, units = (double)t->units;

	for (int i = 0; i < 4; i++) {
		double tiles = groups * ceil(m / sides[i][0]) * ceil(n / sides[i][1]);
		double s = ceil(tiles / units) * 2 * sides[i][0] * sides[i][1] * (k + fill) / (rate / units * fracs[i]);

		best = s < best ? s : best;
	}
	return best;
}

double mt_target_peak_tflops(const struct mt_target *t, enum mt_width width)
{
	const double peaks[] = {
		[MT_WIDTH_16] = t->tflops_16, [MT_WIDTH_8] = t->tflops_8, [MT_WIDTH_4] = t->tflops_4, [MT_WIDTH_MX8] = t->tflops_8};

	return peaks[width];
}

/* TFLOP/s of the inner loop in training. */
static double product_rate(const struct mt_target *t, enum mt_width width)
{
	const double fracs[] = {[MT_WIDTH_16] = t->product_frac,
				[MT_WIDTH_8] = t->product_8_frac,
				[MT_WIDTH_4] = t->product_4_frac > 0 ? t->product_4_frac : t->product_8_frac,
				[MT_WIDTH_MX8] = t->product_8_frac * t->product_mx8_gain};
	enum mt_width there = mt_target_peak_tflops(t, width) > 0 ? width : MT_WIDTH_16;

	return mt_target_peak_tflops(t, there) * fracs[there] * t->sustained_frac;
}

double mt_target_width_bytes(enum mt_width width)
{
	static const double bytes[] = {[MT_WIDTH_16] = 2, [MT_WIDTH_8] = 1, [MT_WIDTH_4] = 0.5625, [MT_WIDTH_MX8] = 1 + 1.0 / 32};

	return bytes[width];
}

double mt_target_product_s(const struct mt_target *t, enum mt_width width, double groups, double m, double n, double k)
{
	double rate = product_rate(t, width), bytes = mt_target_width_bytes(width);
	double tile_s, memory_s, ratio;

	tile_s = tiles_s(t, groups, m, n, k, rate * 1e12);
	memory_s = groups * (bytes * (m * k + n * k) + 2 * m * n) / (t->memory_gbps * 1e9 * t->product_memory_frac);
	ratio = tile_s > memory_s ? memory_s / tile_s : tile_s / memory_s;
	ratio *= ratio;
	return t->product_us * 1e-6 + (tile_s > memory_s ? tile_s : memory_s) * sqrt(sqrt(1 + ratio * ratio));
}

double mt_target_vector_s(const struct mt_target *t, double bytes)
{
	return t->kernel_us * 1e-6 + bytes / (t->memory_gbps * 1e9 * t->memory_frac);
}

struct mt_span mt_target_span(const struct mt_target *t, double ranks, double stride)
{
	double domain = (double)t->domain_gpus, local = stride < domain ? floor(domain / stride) : 1;
	struct mt_span span = {.ranks = ranks, .local = local < ranks ? local : ranks};

	return span;
}

struct mt_span mt_target_span_blocks(const struct mt_target *t, double ranks, double step, double block, double stride,
				     double apart)
{
	double domain = (double)t->domain_gpus;
	struct mt_span of_block = mt_target_span(t, block, stride);
	double blocks = of_block.local < block || apart >= domain ? 1 : floor(domain / apart);
	double local = floor(of_block.local * blocks / step);

	local = local < 1 ? 1 : local;
	return (struct mt_span){
		.ranks = ranks,
		.local = local < ranks ? local : ranks,
		.nodes_apart = apart / domain * (step > block ? step / block : 1),
	};
}

void mt_target_collective(const struct mt_target *t, enum mt_collective op, struct mt_span span, double bytes, double *link_s,
			  double *nic_s)
{
	double n = span.ranks, nodes = ceil(n / span.local), ways = op == MT_ALL_REDUCE ? 2 : 1;
	double w = ways * bytes * (n - 1) / n, steps = op == MT_ALL_TO_ALL ? 0 : ways * (span.local - 1);
	double bw = t->link_gbps * 1e9 * t->link_frac, quick_s, bulk_s;

	*link_s = *nic_s = 0;
	if (n <= 1 || bytes <= 0)
		return;
	if (op == MT_ALL_REDUCE && span.local >= 5)
		bw *= t->switch_gain;
	if (span.local > 1) {
		quick_s = w / (bw * t->link_fast_frac);
		bulk_s = t->link_bulk_us * 1e-6 + w / bw;
		*link_s = (t->link_us + t->link_hop_us * steps) * 1e-6 + (quick_s < bulk_s ? quick_s : bulk_s);
	}
	if (nodes > 1) {
		double inter = t->nic_gbps * 1e9 * t->nic_frac * span.local, reach = span.nodes_apart > 1 ? span.nodes_apart : 1;
		double leaves = fmin(nodes, nodes * reach / (double)t->leaf_nodes), ring_s, tree_s;

		if (leaves > 1)
			inter *= pow(t->spine_frac, log(leaves) / log(8));
		if (op == MT_ALL_TO_ALL) /* all that leaves the node goes through its NICs */
			w = bytes * (n - span.local) / n * span.local;
		ring_s = t->nic_us * 1e-6 * (op == MT_ALL_TO_ALL ? log2(nodes) : ways * (nodes - 1)) + w / inter;
		/* up and down once: between two nodes every byte crosses once each way, beyond them twice */
		tree_s = t->nic_us * 1e-6 * 2 * ceil(log2(nodes)) + (nodes <= 2 ? 1 : 2) * bytes / (0.85 * inter);
		*nic_s = op == MT_ALL_REDUCE && tree_s < ring_s ? tree_s : ring_s;
		/* The ring's links inside and between nodes work at once: the slower sets the pace. */
		if (*nic_s > *link_s)
			*link_s = 0;
		else
			*nic_s = 0;
	}
}

double mt_target_message_s(const struct mt_target *t, double bytes, double stride, bool *crosses_node)
{
	*crosses_node = stride >= (double)t->domain_gpus;
	if (*crosses_node)
		return 2 * t->nic_us * 1e-6 + bytes / (t->nic_gbps * 1e9 * t->nic_frac);
	return t->link_us * 1e-6 + bytes / (t->link_gbps * 1e9 * t->link_frac);
}
