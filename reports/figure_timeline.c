/* figure timeline: what every stream of the ranks does during one step. */
#include "reports/figure.h"
#include "reports/lanes.h"
#include "reports/text.h"

#include <math.h>

static int rows(const struct record *r)
{
	int count = mt_lanes_count(r);
	return count > LANES_MOST ? LANES_MOST : count;
}

static enum mt_status data(const struct record *r, FILE *file)
{
	struct lanes lanes;
	char text[128];

	MT_TRY(mt_lanes_read(&lanes, r));
	fputs("# lane\tstream\tkind\tkind_name\tstart_s\tend_s\tspans\tlongest\n", file);
	for (int i = 0; i < lanes.count; i++)
		for (int k = 0; k < lanes.lanes[i].count; k++) {
			const struct bar *bar = &lanes.lanes[i].bars[k];
			mt_lanes_label(&lanes, &lanes.lanes[i], text);
			fprintf(file, "%d\t", i + 1);
			mt_text_field(file, text, 60);
			fprintf(file, "\t%d\t%s\t%.9f\t%.9f\t%d\t", (int)bar->kind, mt_lanes_kind_names[bar->kind], bar->start_s,
				bar->end_s, bar->spans);
			mt_text_field(file, bar->name, 32);
			fputc('\n', file);
		}
	mt_lanes_free(&lanes);
	return MT_OK;
}

static void script(const struct record *r, FILE *file)
{
	static const char *const colours[BAR_KINDS] = {"blue", "sky", "purple", "green", "orange", "pale"};
	/* The widened bars of what is short first, so that they never cover a neighbour. */
	static const enum bar_kind order[BAR_KINDS] = {BAR_OTHER,   BAR_COLLECTIVE, BAR_WAIT,
						       BAR_PRODUCT, BAR_ATTENTION,  BAR_OPTIMIZER};
	struct lanes lanes;
	bool used[BAR_KINDS] = {false}, first = true;
	char text[128];
	double scale;

	if (mt_lanes_read(&lanes, r) != MT_OK) /* out of memory: data() has failed the report for it */
		return;
	for (int i = 0; i < lanes.count; i++) {
		mt_lanes_label(&lanes, &lanes.lanes[i], text);
		mt_figure_row_label(file, i + 1, text);
		for (int kind = 0; kind < BAR_KINDS; kind++)
			used[kind] = used[kind] || lanes.lanes[i].busy_s[kind] > 0;
	}
	mt_figure_rows_end(file, lanes.count);
	const char *unit = mt_figure_unit(lanes.length_s, &scale);
	fprintf(file, "set key maxcols 3\nscale = %g\nset xrange [0:%.6g]\nset xlabel 'time since the start of the step (%s)'\n",
		scale, lanes.length_s * scale * 1.005, unit);
	fprintf(file,
		"least = %.6g # so that a short bar is seen\nwide(start, end) = scale * (end - start < least ? start + least : "
		"end)\n",
		lanes.length_s / 620);
	for (int i = 1; i < lanes.count; i++) /* a line between ranks */
		if (lanes.lanes[i].rank != lanes.lanes[i - 1].rank)
			fprintf(file, "set arrow from graph 0, first %.1f to graph 1, first %.1f nohead lw 0.7 lc rgb faint\n",
				i + 0.5, i + 0.5);
	for (int i = 0; i < BAR_KINDS; i++) {
		int kind = order[i];
		if (!used[kind])
			continue;
		fprintf(file,
			"%s%s using ($3 == %d ? $5*scale : NaN):1:($5*scale):(wide($5, $6)):($1-0.36):($1+0.36) with boxxyerror lc "
			"rgb %s title '%s'",
			first ? "plot " : ", \\\n\t", first ? "'timeline.tsv'" : "''", kind, colours[kind],
			mt_lanes_kind_names[kind]);
		first = false;
	}
	fputc('\n', file);
	mt_lanes_free(&lanes);
}

static void alt(const struct record *r, FILE *file)
{
	struct lanes lanes;
	char text[128], length[TEXT_BYTES], percent[TEXT_BYTES];

	if (mt_lanes_read(&lanes, r) != MT_OK)
		return;
	fprintf(file, "Timeline of one step of %s: one row a stream, bars for kernels by kind, collectives and waits.",
		mt_text_seconds(length, lanes.length_s));
	if (lanes.count > 0) {
		mt_lanes_label(&lanes, &lanes.lanes[0], text);
		fprintf(file, " The stream %s is busy for %s of it.", text,
			mt_text_percent(percent, mt_lanes_busy_s(&lanes.lanes[0]) / lanes.length_s, ""));
	}
	if (lanes.left_out)
		fprintf(file, " %d more streams are not drawn.", lanes.left_out);
	mt_lanes_free(&lanes);
}

const struct figure mt_figure_timeline = {
	.name = "timeline",
	.title = "one step of the chosen layout",
	.absent = "The result has no timeline.",
	.rows = rows,
	.pixels_per_row = 36,
	.frame_pixels = 105,
	.data = data,
	.script = script,
	.alt = alt,
};
