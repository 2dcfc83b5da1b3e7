/* figure step_split: where the time of a step goes, for the best layouts: one stacked bar each. */
#include "reports/figure.h"
#include "reports/text.h"

#include <math.h>

#define MOST_ROWS 10

static bool drawable(const struct candidate *c)
{
	return isfinite(c->split_s[0]);
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

	fputs("# row\tlayout\tmeasured_s\tcompute_s\ttp_s\tdp_s\tpp_s\tbubble_s\toptimizer_s\n", file);
	for (int i = 0; i < r->count && row < MOST_ROWS; i++) {
		const struct candidate *c = &r->candidates[i];
		if (!drawable(c))
			continue;
		fprintf(file, "%d\t", ++row);
		mt_text_field(file, c->text, 60);
		fprintf(file, "\t%.9g", c->measured_s);
		for (int part = 0; part < PART_COUNT; part++)
			fprintf(file, "\t%.9g", c->split_s[part]);
		fputc('\n', file);
	}
	return MT_OK;
}

static void script(const struct record *r, FILE *file)
{
	static const char *const colours[PART_COUNT] = {"blue", "orange", "red", "purple", "grey", "green"};
	double most = 0, scale;
	bool used[PART_COUNT] = {false}, measured = false, first = true;
	int row = 0;

	for (int i = 0; i < r->count && row < MOST_ROWS; i++) {
		const struct candidate *c = &r->candidates[i];
		double sum = 0;
		if (!drawable(c))
			continue;
		mt_figure_row_label(file, ++row, c->text);
		for (int part = 0; part < PART_COUNT; part++) {
			used[part] = used[part] || c->split_s[part] > 0;
			sum += c->split_s[part];
		}
		most = fmax(most, fmax(sum, c->measured_s));
		measured = measured || isfinite(c->measured_s);
	}
	mt_figure_rows_end(file, row);
	const char *unit = mt_figure_unit(most, &scale);
	fprintf(file,
		"set xrange [0:%.6g]\nset xlabel 'step time (%s), predicted'\nscale = %g\n"
		"# a part begins where the columns before it end\n"
		"from(c) = scale * (c > 4 ? sum [i=4:c-1] column(i) : 0)\n",
		most * scale * 1.04, unit, scale);
	for (int part = 0; part < PART_COUNT; part++) {
		if (!used[part])
			continue;
		int c = part + 4;
		fprintf(file,
			"%s%s using (from(%d)):1:(from(%d)):(from(%d)):($1-0.34):($1+0.34) with boxxyerror lc rgb %s title '%s'",
			first ? "plot " : ", \\\n\t", first ? "'step_split.tsv'" : "''", c, c, c + 1, colours[part],
			mt_record_part_names[part]);
		first = false;
	}
	if (measured)
		fputs(", \\\n\t'' using ($3*scale):1 with points pt 13 ps 1.3 lc rgb 'black' title 'measured step'", file);
	fputc('\n', file);
}

static void alt(const struct record *r, FILE *file)
{
	const struct candidate *c = r->choice && drawable(r->choice) ? r->choice : NULL;
	bool first = true;
	double sum = 0;

	fputs("Stacked bars of the predicted step time of the best layouts by what it is spent on.", file);
	for (int part = 0; c && part < PART_COUNT; part++)
		sum += c->split_s[part];
	for (int part = 0; c && part < PART_COUNT; part++) {
		char percent[TEXT_BYTES];
		if (!(c->split_s[part] > 0))
			continue;
		fprintf(file, "%s%s %s", first ? " The chosen layout: " : ", ", mt_record_part_names[part],
			mt_text_percent(percent, c->split_s[part] / sum, ""));
		first = false;
	}
	if (!first)
		fputc('.', file);
}

const struct figure mt_figure_step_split = {
	.name = "step_split",
	.title = "where the time of a step goes",
	.absent = "The result has no split of the step time.",
	.rows = rows,
	.pixels_per_row = 34,
	.frame_pixels = 105,
	.data = data,
	.script = script,
	.alt = alt,
};
