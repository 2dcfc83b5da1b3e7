/* figure collectives: measured bus bandwidth against bytes, with the alpha-beta fit of each curve.
 *
 * seconds = alpha + bytes / bandwidth; busbw = factor * bytes / seconds, where the factor is that of nccl-tests, read off
 * the curve's own points. Both axes are logarithmic: a linear one hides the small messages. */
#include "reports/figure.h"
#include "reports/text.h"

#include "base/json.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MOST_CURVES 6

struct curve {
	const json_t *json;
	double factor;
	int points, position; /* position: in the document */
	bool taken;
};

static bool read_point(const json_t *json, size_t i, double *bytes, double *seconds, double *busbw)
{
	*bytes = mt_record_item(json, "bytes", i);
	*seconds = mt_record_item(json, "seconds", i);
	*busbw = mt_record_item(json, "busbw_gbps", i);
	return *bytes >= 1 && *bytes < 1e18 && *seconds > 1e-12 && *seconds < 1e9 && *busbw > 1e-9 && *busbw < 1e9;
}

static struct curve read_curve(const json_t *json)
{
	struct curve curve = {.json = json};
	double bytes, seconds, busbw;

	for (size_t k = 0; k < json_array_size(mt_record_array(json, "bytes")) && k < 256; k++)
		if (read_point(json, k, &bytes, &seconds, &busbw)) {
			curve.points++;
			curve.factor = busbw * 1e9 * seconds / bytes;
		}
	return curve;
}

/* Larger groups first, those whose ranks lie further apart first among equals. */
static int by_reach(const void *a, const void *b)
{
	const json_t *x = ((const struct curve *)a)->json, *y = ((const struct curve *)b)->json;
	int64_t reach[2] = {mt_json_get_int(x, "size", 0), mt_json_get_int(y, "size", 0)};
	if (reach[0] == reach[1]) {
		reach[0] = mt_json_get_int(x, "stride", 0);
		reach[1] = mt_json_get_int(y, "stride", 0);
	}
	if (reach[0] != reach[1])
		return reach[0] > reach[1] ? -1 : 1;
	return ((const struct curve *)a)->position - ((const struct curve *)b)->position;
}

static bool same_operation(const struct curve *a, const struct curve *b)
{
	return strcmp(mt_json_get_string(a->json, "op", ""), mt_json_get_string(b->json, "op", "")) == 0;
}

/* The curves to draw: one of each operation first, of the largest group, then others while there is room. */
static int collect(const struct record *r, struct curve curves[MOST_CURVES])
{
	const json_t *array = mt_record_array(r->machine, "curves"), *json;
	struct curve *all = calloc(json_array_size(array) + 1, sizeof *all);
	int found = 0, count = 0;
	size_t i;

	if (!all)
		return 0;
	json_array_foreach((json_t *)array, i, json)
	{
		all[found] = read_curve(json);
		all[found].position = (int)i;
		found += all[found].points > 1;
	}
	qsort(all, (size_t)found, sizeof *all, by_reach);
	for (int pass = 0; pass < 2; pass++)
		for (int k = 0; k < found && count < MOST_CURVES; k++) {
			bool taken = all[k].taken;
			for (int other = 0; pass == 0 && other < count; other++)
				taken = taken || same_operation(&all[k], &curves[other]);
			if (taken)
				continue;
			all[k].taken = true;
			curves[count++] = all[k];
		}
	free(all);
	return count;
}

static int rows(const struct record *r)
{
	struct curve curves[MOST_CURVES];
	return collect(r, curves);
}

static void label(const json_t *json, char buf[128])
{
	char op[64], dtype[32];
	int64_t size = mt_json_get_int(json, "size", 0), stride = mt_json_get_int(json, "stride", 1);

	mt_text_copy(op, sizeof op, mt_json_get_string(json, "op", "collective"), 24);
	mt_text_copy(dtype, sizeof dtype, mt_json_get_string(json, "dtype", ""), 8);
	int used = snprintf(buf, 128, "%s %s, %lld ranks", op, dtype, (long long)size);
	if (stride > 1)
		snprintf(buf + used, 128 - (size_t)used, ", stride %lld", (long long)stride);
}

static enum mt_status data(const struct record *r, FILE *file)
{
	struct curve curves[MOST_CURVES];
	int count = collect(r, curves);
	char text[128];

	for (int i = 0; i < count; i++) {
		double bytes, seconds, busbw;
		label(curves[i].json, text);
		fputs(i ? "\n\n# " : "# ", file);
		mt_text_field(file, text, 100);
		fputs("\n# bytes\tseconds\tbusbw_gbps\n", file);
		for (size_t k = 0; k < 256; k++)
			if (read_point(curves[i].json, k, &bytes, &seconds, &busbw))
				fprintf(file, "%.0f\t%.9g\t%.6g\n", bytes, seconds, busbw);
	}
	return MT_OK;
}

static void script(const struct record *r, FILE *file)
{
	static const char *const colours[MOST_CURVES] = {"blue", "orange", "green", "purple", "red", "sky"};
	static const int points[MOST_CURVES] = {7, 9, 13, 5, 11, 6};
	static const struct {
		const char *text;
		double bytes;
	} ticks[] = {{"1 B", 1},          {"32 B", 32},        {"1 KiB", 0x1p10}, {"8 KiB", 0x1p13},
		     {"64 KiB", 0x1p16},  {"512 KiB", 0x1p19}, {"4 MiB", 0x1p22}, {"32 MiB", 0x1p25},
		     {"256 MiB", 0x1p28}, {"2 GiB", 0x1p31},   {"16 GiB", 0x1p34}};
	struct curve curves[MOST_CURVES];
	int count = collect(r, curves);
	double least = NAN, most = NAN;
	char text[128];

	fputs("set logscale xy\nset format y '%g'\nset xlabel 'bytes'\nset ylabel 'bus bandwidth (GB/s, 1e9 bytes/s)'\n"
	      "set grid ytics lt 1 lc rgb faint lw 0.7\nset key inside bottom right Left reverse vertical maxrows 8 samplen 1\nset "
	      "samples 300\n"
	      "set mxtics 1\n",
	      file);
	for (int i = 0; i < count; i++) {
		double bytes, seconds, busbw;
		for (size_t k = 0; k < 256; k++)
			if (read_point(curves[i].json, k, &bytes, &seconds, &busbw)) {
				least = fmin(least, busbw);
				most = fmax(most, busbw);
			}
	}
	fprintf(file, "set yrange [%.3g:%.3g]\nset xtics (", least / 1.6, most * 1.6);
	for (size_t i = 0; i < sizeof ticks / sizeof ticks[0]; i++)
		fprintf(file, "%s'%s' %.0f", i ? ", " : "", ticks[i].text, ticks[i].bytes);
	fputs(")\nset autoscale xfix\n"
	      "# seconds = alpha + bytes/bandwidth; factor: bus bandwidth over bytes/seconds\n"
	      "busbw(bytes, alpha_s, bytes_per_s, factor) = factor * bytes / (alpha_s + bytes/bytes_per_s) / 1e9\n",
	      file);
	for (int i = 0; i < count; i++) {
		double alpha_us = mt_record_number(curves[i].json, "alpha_us"),
		       gbps = mt_record_number(curves[i].json, "bandwidth_gbps");
		label(curves[i].json, text);
		fprintf(file, "%s'collectives.tsv' index %d using 1:3 with points pt %d ps 1 lc rgb %s title ",
			i ? ", \\\n\t" : "plot ", i, points[i], colours[i]);
		mt_text_gnuplot(file, text, 60);
		if (alpha_us >= 0 && gbps > 0)
			fprintf(file, ", \\\n\tbusbw(x, %.6g, %.6g, %.6g) with lines lw 1.5 lc rgb %s notitle", alpha_us * 1e-6,
				gbps * 1e9, curves[i].factor, colours[i]);
	}
	fputc('\n', file);
}

static void alt(const struct record *r, FILE *file)
{
	struct curve curves[MOST_CURVES];
	int count = collect(r, curves);

	fprintf(file, "Bus bandwidth against message size, logarithmic axes, %d curves with fitted lines.", count);
	for (int i = 0; i < count; i++) {
		char text[128], number[TEXT_BYTES];
		double most = 0, bytes, seconds, busbw;
		label(curves[i].json, text);
		for (size_t k = 0; k < 256; k++)
			if (read_point(curves[i].json, k, &bytes, &seconds, &busbw))
				most = fmax(most, busbw);
		fprintf(file, " %s reaches %s GB/s.", text, mt_text_number(number, most));
	}
}

const struct figure mt_figure_collectives = {
	.name = "collectives",
	.title = "bus bandwidth of collectives, measured and fitted",
	.absent = "The machine has no measured collectives.",
	.rows = rows,
	.pixels_per_row = 0,
	.frame_pixels = 430,
	.data = data,
	.script = script,
	.alt = alt,
};
