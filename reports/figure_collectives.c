/* figure collectives: measured bus bandwidth against bytes, with the alpha-beta fit of each curve.
 *
 * seconds = alpha + bytes / bandwidth; busbw = factor * bytes / seconds, where the factor is that of nccl-tests, read off
 * the curve's own points. Both axes are logarithmic: a linear one hides the small messages. */
#include "reports/figure.h"
#include "reports/text.h"

#include "base/json.h"

#include <math.h>
#include <stdlib.h>

#define MOST_CURVES 6

struct curve {
	const json_t *json;
	double factor;
	int points;
};

static bool read_point(const json_t *json, size_t i, double *bytes, double *seconds, double *busbw)
{
	*bytes = mt_record_item(json, "bytes", i);
	*seconds = mt_record_item(json, "seconds", i);
	*busbw = mt_record_item(json, "busbw_gbps", i);
	return *bytes >= 1 && *bytes < 1e18 && *seconds > 1e-12 && *seconds < 1e9 && *busbw > 1e-9 && *busbw < 1e9;
}

static int collect(const struct record *r, struct curve curves[MOST_CURVES])
{
	const json_t *array = mt_record_array(r->machine, "curves"), *json;
	int count = 0;
	size_t i;

	json_array_foreach ((json_t *)array, i, json) {
		struct curve curve = {.json = json};
		double bytes, seconds, busbw;
		for (size_t k = 0; k < json_array_size(mt_record_array(json, "bytes")) && k < 256; k++)
			if (read_point(json, k, &bytes, &seconds, &busbw)) {
				curve.points++;
				curve.factor = busbw * 1e9 * seconds / bytes;
			}
		if (curve.points > 1 && count < MOST_CURVES)
			curves[count++] = curve;
	}
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
	} ticks[] = {{"1 B", 1},	   {"32 B", 32},	   {"1 KiB", 0x1p10},  {"8 KiB", 0x1p13}, {"64 KiB", 0x1p16}, {"512 KiB", 0x1p19},
		     {"4 MiB", 0x1p22}, {"32 MiB", 0x1p25}, {"256 MiB", 0x1p28}, {"2 GiB", 0x1p31},  {"16 GiB", 0x1p34}};
	struct curve curves[MOST_CURVES];
	int count = collect(r, curves);
	char text[128];

	fputs("set logscale xy\nset format y '%g'\nset xlabel 'bytes'\nset ylabel 'bus bandwidth (GB/s, 1e9 bytes/s)'\n"
	      "set grid ytics lt 1 lc rgb faint lw 0.7\nset key inside bottom right Left reverse vertical maxrows 8\nset samples 300\n"
	      "set mxtics 1\nset xtics (",
	      file);
	for (size_t i = 0; i < sizeof ticks / sizeof ticks[0]; i++)
		fprintf(file, "%s'%s' %.0f", i ? ", " : "", ticks[i].text, ticks[i].bytes);
	fputs(")\nset autoscale xfix\n"
	      "# seconds = alpha + bytes/bandwidth; factor: bus bandwidth over bytes/seconds\n"
	      "busbw(bytes, alpha_s, bytes_per_s, factor) = factor * bytes / (alpha_s + bytes/bytes_per_s) / 1e9\n",
	      file);
	for (int i = 0; i < count; i++) {
		double alpha_us = mt_record_number(curves[i].json, "alpha_us"), gbps = mt_record_number(curves[i].json, "bandwidth_gbps");
		label(curves[i].json, text);
		fprintf(file, "%s'collectives.tsv' index %d using 1:3 with points pt %d ps 1 lc rgb %s title ", i ? ", \\\n\t" : "plot ", i, points[i],
			colours[i]);
		mt_text_gnuplot(file, text, 60);
		if (alpha_us >= 0 && gbps > 0)
			fprintf(file, ", \\\n\tbusbw(x, %.6g, %.6g, %.6g) with lines lw 1.5 lc rgb %s notitle", alpha_us * 1e-6, gbps * 1e9,
				curves[i].factor, colours[i]);
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
