/* figure memory: what one rank of each stage holds, by component, against the limit; the chosen layout first. */
#include "reports/figure.h"
#include "reports/text.h"

#include <math.h>

#define MOST_ROWS    18
#define MOST_LAYOUTS 6

/* A bar: one stage of one layout. */
struct column {
	const struct candidate *candidate;
	int stage;
	double bytes[STORE_COUNT];
	double sum, measured_bytes; /* NaN: not measured */
};

static int collect(const struct record *r, struct column *bars)
{
	int count = 0, layouts = 0;

	for (int i = -1; i < r->count && layouts < MOST_LAYOUTS; i++) {
		const struct candidate *c = i < 0 ? r->choice : &r->candidates[i];
		int before = count;
		if (!c || (i >= 0 && c == r->choice))
			continue;
		for (int stage = 0; stage < c->stages && count < MOST_ROWS; stage++) {
			struct column *bar = &bars[count];
			if (!mt_record_memory(c, stage, bar->bytes))
				continue;
			bar->candidate = c;
			bar->stage = stage;
			bar->sum = 0;
			for (int k = 0; k < STORE_COUNT; k++)
				bar->sum += bar->bytes[k];
			bar->measured_bytes = mt_record_taken_bytes(c, stage, true);
			count++;
		}
		layouts += count > before;
	}
	return count;
}

static int rows(const struct record *r)
{
	struct column bars[MOST_ROWS];
	return collect(r, bars);
}

static void label(char buf[160], const struct column *bar)
{
	char text[128];
	mt_text_copy(text, sizeof text, bar->candidate->text, 32);
	if (bar->candidate->stages > 1)
		snprintf(buf, 160, "%s, stage %d", text, bar->stage);
	else
		snprintf(buf, 160, "%s", text);
}

static enum mt_status data(const struct record *r, FILE *file)
{
	struct column bars[MOST_ROWS];
	int count = collect(r, bars);
	char text[160];

	fputs("# row\tlayout and "
	      "stage\tmeasured_bytes\tparameters_bytes\tgradients_bytes\toptimizer_bytes\tactivations_bytes\t"
	      "workspace_bytes\tother_bytes\n",
	      file);
	for (int i = 0; i < count; i++) {
		label(text, &bars[i]);
		fprintf(file, "%d\t", i + 1);
		mt_text_field(file, text, 60);
		fprintf(file, "\t%.0f", bars[i].measured_bytes);
		for (int k = 0; k < STORE_COUNT; k++)
			fprintf(file, "\t%.0f", bars[i].bytes[k]);
		fputc('\n', file);
	}
	return MT_OK;
}

static void script(const struct record *r, FILE *file)
{
	static const char *const colours[STORE_COUNT] = {"blue", "orange", "green", "purple", "sky", "grey"};
	struct column bars[MOST_ROWS];
	int count = collect(r, bars);
	double most = 0, limit = r->memory_limit_bytes;
	bool used[STORE_COUNT] = {false}, measured = false, first = true;
	char text[160];

	for (int i = 0; i < count; i++) {
		label(text, &bars[i]);
		mt_figure_row_label(file, i + 1, text);
		most = fmax(most, fmax(bars[i].sum, bars[i].measured_bytes));
		measured = measured || isfinite(bars[i].measured_bytes);
		for (int k = 0; k < STORE_COUNT; k++)
			used[k] = used[k] || bars[i].bytes[k] > 0;
	}
	mt_figure_rows_end(file, count);
	bool near = limit < 4 * most; /* else the bars would be slivers */
	double gib = most >= 0x1p30 ? 0x1p30 : 0x1p20, end = (near ? fmax(most, limit) : most) / gib;
	fprintf(file, "gib = %.0f.0 # bytes in the unit of the axis\nset xrange [0:%.6g]\n", gib, end * 1.06);
	fprintf(file, "set xlabel 'memory of one rank (%s)", gib == 0x1p30 ? "GiB" : "MiB");
	if (isfinite(limit) && !near)
		fprintf(file, "; the limit, %s, is beyond the right end", mt_text_bytes(text, limit));
	fputs("'\n", file);
	fputs("set key maxcols 4\n# a part begins where the columns before it end\n"
	      "from(c) = (c > 4 ? sum [i=4:c-1] column(i) : 0) / gib\n",
	      file);
	if (near)
		fprintf(file, "limit = %.0f / gib\nset arrow from limit, graph 0 to limit, graph 1 nohead lw 2 dt 2 lc rgb red\n",
			limit);
	for (int k = 0; k < STORE_COUNT; k++) {
		if (!used[k])
			continue;
		fprintf(file,
			"%s%s using (from(%d)):1:(from(%d)):(from(%d)):($1-0.34):($1+0.34) with boxxyerror lc rgb %s title '%s'",
			first ? "plot " : ", \\\n\t", first ? "'memory.tsv'" : "''", k + 4, k + 4, k + 5, colours[k],
			mt_record_store_names[k]);
		first = false;
	}
	if (measured)
		fputs(", \\\n\t'' using ($3/gib):1 with points pt 13 ps 1.3 lc rgb 'black' title 'measured'", file);
	if (near)
		fputs(", \\\n\tNaN with lines lw 2 dt 2 lc rgb red title 'limit'", file);
	fputc('\n', file);
}

static void alt(const struct record *r, FILE *file)
{
	char peak[TEXT_BYTES], limit[TEXT_BYTES];

	fputs("Stacked bars of the predicted memory of one rank, by component, for each stage of the best layouts.", file);
	if (r->choice && isfinite(mt_record_peak_bytes(r->choice, false)))
		fprintf(file, " The chosen layout needs %s", mt_text_bytes(peak, mt_record_peak_bytes(r->choice, false)));
	else
		return;
	if (isfinite(r->memory_limit_bytes))
		fprintf(file, " of a limit of %s", mt_text_bytes(limit, r->memory_limit_bytes));
	fputc('.', file);
}

const struct figure mt_figure_memory = {
	.name = "memory",
	.title = "memory of one rank, by component and stage",
	.absent = "The result has no memory by component.",
	.rows = rows,
	.pixels_per_row = 32,
	.frame_pixels = 125,
	.data = data,
	.script = script,
	.alt = alt,
};
