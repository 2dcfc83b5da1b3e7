/* figure predicted_measured: for each layout that was run, the predicted step time with its interval above the measured one. */
#include "reports/figure.h"
#include "reports/text.h"

#include <math.h>

#define MOST_ROWS 16

static int rows(const struct record *r)
{
	return r->measured_count > MOST_ROWS ? MOST_ROWS : r->measured_count;
}

static enum mt_status data(const struct record *r, FILE *file)
{
	int row = 0;

	fputs("# row\tlayout\tpredicted_s\tpredicted_lo_s\tpredicted_hi_s\tmeasured_s\tmeasured_lo_s\tmeasured_hi_s\n", file);
	for (int i = 0; i < r->count && row < MOST_ROWS; i++) {
		const struct candidate *c = &r->candidates[i];
		if (!isfinite(c->measured_s))
			continue;
		bool interval = isfinite(c->measured_lo_s);
		fprintf(file, "%d\t", ++row);
		mt_text_field(file, c->text, 60);
		fprintf(file, "\t%.9g\t%.9g\t%.9g\t%.9g\t%.9g\t%.9g\n", c->predicted_s, c->predicted_lo_s, c->predicted_hi_s,
			c->measured_s, interval ? c->measured_lo_s : c->measured_s, interval ? c->measured_hi_s : c->measured_s);
	}
	return MT_OK;
}

static void script(const struct record *r, FILE *file)
{
	double least = NAN, most = NAN, scale;
	int row = 0;

	for (int i = 0; i < r->count && row < MOST_ROWS; i++) {
		const struct candidate *c = &r->candidates[i];
		if (!isfinite(c->measured_s))
			continue;
		mt_figure_row_label(file, ++row, c->text);
		least = fmin(fmin(least, fmin(c->predicted_s, c->predicted_lo_s)), fmin(c->measured_s, c->measured_lo_s));
		most = fmax(fmax(most, fmax(c->predicted_s, c->predicted_hi_s)), fmax(c->measured_s, c->measured_hi_s));
	}
	mt_figure_rows_end(file, row);
	const char *unit = mt_figure_unit(most, &scale);
	mt_figure_range(file, least * scale, most * scale, unit);
	fprintf(file,
		"scale = %g\n"
		"plot '%s.tsv' using ($4*scale):($1-0.16):(($5-$4)*scale):(0) with vectors nohead lw 7 lc rgb sky title '90%% "
		"interval', \\\n"
		"\t'' using ($3*scale):($1-0.16) with points pt 7 ps 0.9 lc rgb blue title 'predicted', \\\n"
		"\t'' using ($6*scale):($1+0.16):($7*scale):($8*scale) with xerrorbars pt 13 ps 1.1 lw 1.5 lc rgb red title "
		"'measured'\n",
		scale, "predicted_measured");
}

static void alt(const struct record *r, FILE *file)
{
	int inside = 0, known = 0;
	double worst = 0;

	for (int i = 0; i < r->count; i++) {
		const struct candidate *c = &r->candidates[i];
		if (!isfinite(c->measured_s) || !isfinite(c->predicted_s))
			continue;
		known += isfinite(c->predicted_lo_s);
		inside += c->measured_s >= c->predicted_lo_s && c->measured_s <= c->predicted_hi_s;
		worst = fmax(worst, fabs(mt_record_error_frac(c)));
	}
	char percent[TEXT_BYTES];
	fprintf(file,
		"Dot plot, one row a measured layout: predicted step time with its 90%% interval above the measured one. "
		"%d of %d measurements lie in the interval; the largest error is %s.",
		inside, known, mt_text_percent(percent, worst, ""));
}

const struct figure mt_figure_predicted_measured = {
	.name = "predicted_measured",
	.title = "step time of the layouts that were run, predicted and measured",
	.absent = "No layout was measured.",
	.rows = rows,
	.pixels_per_row = 46,
	.frame_pixels = 105,
	.data = data,
	.script = script,
	.alt = alt,
};
