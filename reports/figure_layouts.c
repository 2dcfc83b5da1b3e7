/* figure layouts: the best layouts by step time, predicted with intervals, measured where they were run. */
#include "reports/figure.h"
#include "reports/text.h"

#include <math.h>

#define MOST_ROWS 24

static bool drawable(const struct candidate *c)
{
	return isfinite(mt_record_step_s(c));
}

static int rows(const struct record *r)
{
	int count = 0;
	for (int i = 0; i < r->count && count < MOST_ROWS; i++)
		count += drawable(&r->candidates[i]);
	return count;
}

static enum mt_status data(const struct record *r, FILE *file)
{
	int row = 0;

	fputs("# row\tlayout\tpredicted_s\tpredicted_lo_s\tpredicted_hi_s\tmeasured_s\tfailed\tmfu_percent\n", file);
	for (int i = 0; i < r->count && row < MOST_ROWS; i++) {
		const struct candidate *c = &r->candidates[i];
		if (!drawable(c))
			continue;
		fprintf(file, "%d\t", ++row);
		mt_text_field(file, c->text, 60);
		fprintf(file, "\t%.9g\t%.9g\t%.9g\t%.9g\t%d\t%.4g\n", c->predicted_s, c->predicted_lo_s, c->predicted_hi_s,
			c->measured_s, c->failure != NULL, 100 * mt_record_candidate_mfu(r, c, mt_record_step_s(c)));
	}
	return MT_OK;
}

static void script(const struct record *r, FILE *file)
{
	double least = NAN, most = NAN, scale;
	int row = 0, measured = 0, failed = 0;

	for (int i = 0; i < r->count && row < MOST_ROWS; i++) {
		const struct candidate *c = &r->candidates[i];
		if (!drawable(c))
			continue;
		mt_figure_row_label(file, ++row, c->text);
		least = fmin(least, fmin(c->measured_s, fmin(c->predicted_s, c->predicted_lo_s)));
		most = fmax(most, fmax(c->measured_s, fmax(c->predicted_s, c->predicted_hi_s)));
		measured += isfinite(c->measured_s);
		failed += c->failure != NULL;
	}
	mt_figure_rows_end(file, row);
	const char *unit = mt_figure_unit(most, &scale);
	mt_figure_range(file, least * scale, most * scale, unit);
	fputs("set grid ytics lt 1 lc rgb faint lw 0.7\n", file);
	fprintf(file,
		"scale = %g\n"
		"plot '%s.tsv' using ($4*scale):1:(($5-$4)*scale):(0) with vectors nohead lw 5 lc rgb sky title '90%% interval', "
		"\\\n"
		"\t'' using ($7 > 0 ? NaN : $3*scale):1 with points pt 7 ps 0.8 lc rgb blue title 'predicted'",
		scale, "layouts");
	if (measured)
		fputs(", \\\n\t'' using ($6*scale):1 with points pt 13 ps 1.2 lc rgb red title 'measured'", file);
	if (failed)
		fputs(", \\\n\t'' using ($7 > 0 ? $3*scale : NaN):1 with points pt 2 ps 1.1 lw 2.5 lc rgb 'black' title 'run, and "
		      "failed'",
		      file);
	fputc('\n', file);
}

static void alt(const struct record *r, FILE *file)
{
	char best[TEXT_BYTES], last[TEXT_BYTES];
	double least = NAN, most = NAN;

	for (int i = 0, row = 0; i < r->count && row < MOST_ROWS; i++)
		if (drawable(&r->candidates[i])) {
			least = fmin(least, mt_record_step_s(&r->candidates[i]));
			most = fmax(most, mt_record_step_s(&r->candidates[i]));
			row++;
		}
	fprintf(file, "Dot plot of the step time of the best %d layout%s, from %s to %s.", rows(r), rows(r) == 1 ? "" : "s",
		mt_text_seconds(best, least), mt_text_seconds(last, most));
}

const struct figure mt_figure_layouts = {
	.name = "layouts",
	.title = "the best layouts by step time",
	.absent = "No layout has a step time.",
	.rows = rows,
	.pixels_per_row = 25,
	.frame_pixels = 105,
	.data = data,
	.script = script,
	.alt = alt,
};
