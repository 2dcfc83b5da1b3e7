/* figure scale_mfu, scale_split: how far a model scales, and what the time of a step goes to, over the number of accelerators. */
#include "reports/scale.h"
#include "reports/text.h"

#include "base/json.h"

#include <math.h>

static const json_t *row_of(const struct record *r, size_t i)
{
	return json_array_get(mt_record_array(r->json, "rows"), i);
}

static size_t count_of(const struct record *r)
{
	return json_array_size(mt_record_array(r->json, "rows"));
}

static int rows(const struct record *r)
{
	int count = 0;

	for (size_t i = 0; i < count_of(r); i++)
		count += isfinite(mt_record_number(json_object_get(row_of(r, i), "best"), "step_s"));
	return count > 1 ? count : 0;
}

static double mfu(const json_t *row, const char *which)
{
	return 100 * mt_record_number(json_object_get(row, which), "mfu_frac");
}

static void put(FILE *file, double value)
{
	if (isfinite(value))
		fprintf(file, "\t%.6g", value);
	else
		fputs("\tNaN", file);
}

static enum mt_status mfu_data(const struct record *r, FILE *file)
{
	double seen = mt_record_number(r->json, "seen_gpus");

	fputs("# gpus\tbest_mfu_percent\tkept_mfu_percent\twith_failures_percent\textrapolates\n", file);
	for (size_t i = 0; i < count_of(r); i++) {
		const json_t *row = row_of(r, i);
		double gpus = mt_record_number(row, "gpus");

		if (!isfinite(gpus))
			continue;
		fprintf(file, "%.0f", gpus);
		put(file, mfu(row, "best"));
		put(file, mfu(row, "fixed"));
		put(file, mfu(row, "best") * mt_record_number(row, "goodput_frac"));
		fprintf(file, "\t%d\n", gpus > seen);
	}
	return MT_OK;
}

/* 8, 64, 512 ...: sizes as labels of a logarithmic axis. */
static void size_axis(FILE *file)
{
	fputs("set logscale x 2\nset format x '%.0f'\nset xlabel 'accelerators'\nset xtics rotate by -30\nset offsets graph 0.03, "
	      "graph "
	      "0.03, 0, 0\n",
	      file);
}

static void mfu_script(const struct record *r, FILE *file)
{
	size_axis(file);
	fputs("set ylabel 'MFU (%)'\nset yrange [0:*]\nset grid ytics lt 1 lc rgb faint lw 0.7\nset datafile missing 'NaN'\n"
	      "plot 'scale_mfu.tsv' using 1:2 with lines lw 2 lc rgb blue title 'best layout of each size', \\\n"
	      "\t'' using 1:($5 > 0.5 ? NaN : $2) with points pt 7 ps 1 lc rgb blue title 'held against runs of this size', \\\n"
	      "\t'' using 1:($5 > 0.5 ? $2 : NaN) with points pt 6 ps 1 lc rgb blue title 'extrapolated', \\\n"
	      "\t'' using 1:3 with linespoints pt 9 lw 1.5 lc rgb orange title 'one layout kept', \\\n"
	      "\t'' using 1:4 with lines dt 2 lw 1.5 lc rgb red title 'best, less what failures take'\n",
	      file);
}

static void mfu_alt(const struct record *r, FILE *file)
{
	char a[TEXT_BYTES], b[TEXT_BYTES];
	const json_t *first = NULL, *last = NULL;

	for (size_t i = 0; i < count_of(r); i++) {
		if (!isfinite(mfu(row_of(r, i), "best")))
			continue;
		first = first ? first : row_of(r, i);
		last = row_of(r, i);
	}
	fputs("MFU over the number of accelerators: the best layout of each size, one layout kept, and what failures leave.", file);
	if (first && last != first)
		fprintf(file, " From %s at %.0f to %s at %.0f accelerators.", mt_text_percent(a, mfu(first, "best") / 100, ""),
			mt_record_number(first, "gpus"), mt_text_percent(b, mfu(last, "best") / 100, ""),
			mt_record_number(last, "gpus"));
}

static const struct {
	const char *key, *name, *colour;
} parts[] = {{"compute_s", "compute", "blue"},    {"tp_s", "tensor parallel", "orange"},
	     {"cp_s", "context parallel", "sky"}, {"ep_s", "experts", "purple"},
	     {"dp_s", "data parallel", "red"},    {"pp_s", "messages", "'#7A5C00'"},
	     {"bubble_s", "bubble", "pale"},      {"optimizer_s", "optimizer", "green"},
	     {"host_s", "host", "'#004D40'"},     {"other_s", "slowest rank, step", "grey"}};
enum { PARTS = sizeof parts / sizeof parts[0] };

static double share(const json_t *row, int part)
{
	const json_t *best = json_object_get(row, "best");

	return 100 * mt_record_number(json_object_get(best, "split"), parts[part].key) / mt_record_number(best, "step_s");
}

static enum mt_status split_data(const struct record *r, FILE *file)
{
	fputs("# gpus", file);
	for (int k = 0; k < PARTS; k++)
		fprintf(file, "\t%.*s_percent", (int)(sizeof "optimizer" - 1), parts[k].key);
	fputc('\n', file);
	for (size_t i = 0; i < count_of(r); i++) {
		if (!isfinite(mfu(row_of(r, i), "best")))
			continue;
		fprintf(file, "%.0f", mt_record_number(row_of(r, i), "gpus"));
		for (int k = 0; k < PARTS; k++)
			put(file, share(row_of(r, i), k));
		fputc('\n', file);
	}
	return MT_OK;
}

static void split_script(const struct record *r, FILE *file)
{
	const char *plot = "plot 'scale_split.tsv'";

	fputs("set style data histograms\nset style histogram rowstacked\nset boxwidth 0.75\nset xlabel 'accelerators'\n"
	      "set ylabel 'share of a step (%)'\nset yrange [0:100]\nset xtics rotate by -30\n",
	      file);
	for (int k = 0; k < PARTS; k++) {
		double most = 0;

		for (size_t i = 0; i < count_of(r); i++)
			most = fmax(most, share(row_of(r, i), k));
		if (most <= 0.05)
			continue;
		fprintf(file, "%s using %d:xtic(1) lc rgb %s title '%s'", plot, k + 2, parts[k].colour, parts[k].name);
		plot = ", \\\n\t''";
	}
	fputc('\n', file);
}

static void split_alt(const struct record *r, FILE *file)
{
	fputs("Stacked bars: what the time of a step goes to at each size, for the best layout there.", file);
}

const struct figure mt_figure_scale_mfu = {
	.name = "scale_mfu",
	.title = "how far it scales",
	.absent = "Fewer than two sizes fit: nothing to draw.",
	.rows = rows,
	.frame_pixels = 420,
	.data = mfu_data,
	.script = mfu_script,
	.alt = mfu_alt,
};

const struct figure mt_figure_scale_split = {
	.name = "scale_split",
	.title = "where the time goes",
	.absent = "Fewer than two sizes fit: nothing to draw.",
	.rows = rows,
	.frame_pixels = 420,
	.data = split_data,
	.script = split_script,
	.alt = split_alt,
};
