/* Figures: files that are whole, scripts that work by themselves, SVG that is fit for a page. */
#define _GNU_SOURCE
#include "reports/figure.h"
#include "reports/lanes.h"
#include "reports/report.h"

#include "base/process.h"
#include "tests/reports_scratch.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <cmocka.h>

#define MOST_TIMELINE_BYTES (300 << 10)

static json_t *load(const char *name)
{
	json_t *result;
	char *path = mt_string("tests/data/results/%s.json", name);
	if (mt_json_load(&result, path) != MT_OK)
		fail_msg("%s", mt_error_message());
	free(path);
	return result;
}

static char *read_figure(const char *directory, const char *file, size_t *bytes)
{
	char *path = mt_string("%s/figures/%s", directory, file), *text;
	if (mt_file_read(path, 0, &text, bytes) != MT_OK)
		fail_msg("%s", mt_error_message());
	free(path);
	return text;
}

static void need_gnuplot(void)
{
	char *program = mt_process_find("gnuplot");
	if (!program) {
		print_message("skipped: gnuplot is not installed\n");
		skip();
	}
	free(program);
}

static void every_figure_has_five_files(void **state)
{
	static const char *const suffixes[] = {"svg", "png", "pdf", "gp", "tsv"};
	static const char *const starts[] = {"<?xml", "\x89PNG", "%PDF", "# ", "# "};
	json_t *result = load("tune_2ranks");
	(void)state;
	need_gnuplot();
	char *directory = mt_string("%s/it's a folder; $(touch owned) `id`", scratch); /* quotes of gnuplot and of a shell */
	assert_int_equal(mt_report_write(result, directory), MT_OK);
	for (int i = 0; i < mt_figure_count; i++)
		for (size_t k = 0; k < 5; k++) {
			char *file = mt_string("%s.%s", mt_figures[i]->name, suffixes[k]);
			size_t bytes;
			char *text = read_figure(directory, file, &bytes);
			if (bytes < 100 || strncmp(text, starts[k], strlen(starts[k])) != 0)
				fail_msg("%s has %zu bytes and begins with %.5s", file, bytes, text);
			free(text);
			free(file);
		}
	/* nothing but these: no temporaries are left */
	char *folder = mt_string("%s/figures", directory);
	DIR *listing = opendir(folder);
	int files = 0;
	for (struct dirent *entry; (entry = readdir(listing));)
		files += entry->d_name[0] != '.';
	closedir(listing);
	assert_int_equal(files, 5 * mt_figure_count);
	free(folder);
	free(directory);
	json_decref(result);
}

static void a_script_draws_its_figure_again_in_its_folder(void **state)
{
	json_t *result = load("tune_2ranks");
	struct mt_process_result run;
	(void)state;
	need_gnuplot();
	char *directory = mt_string("%s/again", scratch);
	assert_int_equal(mt_report_write(result, directory), MT_OK);
	for (int i = 0; i < mt_figure_count; i++) {
		char *svg = mt_string("%s/figures/%s.svg", directory, mt_figures[i]->name),
		     *script = mt_string("%s.gp", mt_figures[i]->name);
		char *folder = mt_string("%s/figures", directory);
		assert_int_equal(unlink(svg), 0);
		const char *const argv[] = {"env", "-C", folder, "gnuplot", script, NULL};
		assert_int_equal(mt_process_run(&run, argv, NULL, 60), MT_OK);
		if (run.exit_code != 0 || *run.errors || !mt_file_exists(svg))
			fail_msg("gnuplot %s ended with %d and said \"%s\"", script, run.exit_code, run.errors);
		mt_process_result_free(&run);
		free(folder);
		free(script);
		free(svg);
	}
	free(directory);
	json_decref(result);
}

static void hostile_documents_can_be_drawn(void **state)
{
	json_t *result = load("hostile");
	(void)state;
	need_gnuplot();
	char *directory = mt_string("%s/hostile", scratch);
	assert_int_equal(mt_report_write(result, directory), MT_OK);
	size_t bytes;
	char *svg = read_figure(directory, "predicted_measured.svg", &bytes);
	assert_int_equal(count_of(svg, "<script"), 0);
	free(svg);
	char *data = read_figure(directory, "layouts.tsv", &bytes);
	for (const char *line = data; *line; line += strcspn(line, "\n") + 1) { /* a name cannot add a row or a column */
		int tabs = 0;
		for (size_t i = 0; i < strcspn(line, "\n"); i++)
			tabs += line[i] == '\t';
		assert_int_equal(tabs, 7);
	}
	free(data);
	free(directory);
	json_decref(result);
}

static void figures_of_an_earlier_result_do_not_stay(void **state)
{
	json_t *first = load("tune_2ranks"), *second = load("plan_1rank");
	(void)state;
	need_gnuplot();
	char *directory = mt_string("%s/twice", scratch), *svg = mt_string("%s/figures/timeline.svg", directory);
	assert_int_equal(mt_report_write(first, directory), MT_OK);
	assert_true(mt_file_exists(svg));
	assert_int_equal(mt_report_write(second, directory), MT_OK);
	assert_false(mt_file_exists(svg));
	free(svg);
	free(directory);
	json_decref(first);
	json_decref(second);
}

/* A step of many ranks with tens of thousands of kernels. */
static json_t *large_timeline(int ranks, int spans)
{
	json_t *result = load("plan_1rank"), *list = json_array();
	static const char *const names[] = {"linear", "norm", "attention", "copy"};

	for (int r = 0; r < ranks; r++) {
		json_t *all = json_array();
		for (int i = 0; i < spans; i++)
			json_array_append_new(all, json_pack("{s:s, s:f, s:f, s:s}", "name", names[i % 4], "start_s", i * 1e-4,
							     "end_s", i * 1e-4 + (i % 4 == 1 ? 2e-5 : 9e-5), "kind", "kernel"));
		json_array_append_new(list, json_pack("{s:i, s:i, s:[{s:s, s:o}]}", "rank", r, "stage", r, "streams", "name",
						      "compute", "spans", all));
	}
	json_object_set_new(result, "timeline", json_pack("{s:o}", "ranks", list));
	return result;
}

static void a_timeline_stays_small(void **state)
{
	json_t *result = large_timeline(30, 4000);
	struct record record;
	struct lanes lanes;
	int bars = 0;

	(void)state;
	assert_int_equal(mt_record_read(&record, result), MT_OK);
	assert_int_equal(mt_lanes_read(&lanes, &record), MT_OK);
	assert_int_equal(lanes.count, LANES_MOST);
	assert_int_equal(lanes.left_out, 30 - LANES_MOST);
	for (int i = 0; i < lanes.count; i++) {
		const struct lane *lane = &lanes.lanes[i];
		double end_s = 0;
		int spans = 0;
		for (int k = 0; k < lane->count; k++) {
			assert_true(lane->bars[k].start_s >= end_s); /* in order, nothing twice */
			end_s = lane->bars[k].end_s;
			spans += lane->bars[k].spans;
		}
		assert_int_equal(spans, 4000);
		assert_int_equal(lane->spans, 4000);
		assert_true(fabs(mt_lanes_busy_s(lane) - (3000 * 9e-5 + 1000 * 2e-5)) < 1e-6);
		bars += lane->count;
	}
	assert_true(bars <= LANES_MOST_BARS);
	mt_lanes_free(&lanes);
	mt_record_free(&record);

	char *gnuplot = mt_process_find("gnuplot");
	if (gnuplot) {
		char *directory = mt_string("%s/large", scratch);
		size_t bytes;
		assert_int_equal(mt_report_write(result, directory), MT_OK);
		free(read_figure(directory, "timeline.svg", &bytes));
		if (bytes >= MOST_TIMELINE_BYTES)
			fail_msg("timeline.svg has %zu bytes, at most %d", bytes, MOST_TIMELINE_BYTES);
		free(directory);
	}
	free(gnuplot);
	json_decref(result);
}

static void svg_passes_shapes_and_text_only(void **state)
{
	static const char input[] =
		"<?xml version=\"1.0\"?>\n<svg width=\"9\" viewBox=\"0 0 9 9\" xmlns=\"http://www.w3.org/2000/svg\" "
		"onload=\"alert(1)\">\n"
		"<title>Gnuplot</title><desc>by</desc><script>alert(2)</script><style>@import url(http://x)</style>\n"
		"<defs><circle id='gpDot' r='1'/></defs><image xlink:href='http://x/y.png'/><foreignObject>\n</foreignObject>\n"
		"<g fill=\"none\" color=\"black\">\n</g>\n"
		"<use xlink:href='#gpDot' onclick='alert(3)'/><use xlink:href='http://x#y'/><a href='javascript:alert(4)'><text>a "
		"&lt;b&gt;</text></a>\n"
		"<path stroke='rgb(  0, 114, 178)' d='M1,1 L2,2' style='fill:url(http://x)'/></svg>\n";
	static const char *const forbidden[] = {"http",   "alert", "script", "onload", "onclick", "image",   "style",
						"import", "title", "xmlns",  "width",  "<a",      "foreign", "black"};
	char *svg = mt_svg_inline(input, "f1");
	(void)state;
	assert_non_null(svg);
	for (size_t i = 0; i < sizeof forbidden / sizeof forbidden[0]; i++)
		if (strstr(svg, forbidden[i]))
			fail_msg("%s passed: %s", forbidden[i], svg);
	assert_non_null(strstr(svg, "id=\"f1-gpDot\""));
	assert_non_null(strstr(svg, "href=\"#f1-gpDot\""));
	assert_non_null(strstr(svg, "<text>a &lt;b&gt;</text>"));
	assert_non_null(strstr(svg, "stroke=\"var(--blue)\""));
	assert_non_null(strstr(svg, "viewBox=\"0 0 9 9\""));
	free(svg);
}

static void broken_svg_is_refused(void **state)
{
	static const char good[] = "<svg viewBox=\"0 0 9 9\"><g fill='none'><text>t</text></g></svg>";
	(void)state;
	assert_null(mt_svg_inline("no picture", "f"));
	for (size_t cut = 0; cut < sizeof good; cut++) { /* any cut is survived; within a tag it is refused */
		char *part = strndup(good, cut), *svg = mt_svg_inline(part, "f");
		const char *open = strrchr(part, '<');
		if (open && !strchr(open, '>') && svg)
			fail_msg("\"%s\" passed as \"%s\"", part, svg);
		free(svg);
		free(part);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_figure_has_five_files),    cmocka_unit_test(a_script_draws_its_figure_again_in_its_folder),
		cmocka_unit_test(hostile_documents_can_be_drawn), cmocka_unit_test(figures_of_an_earlier_result_do_not_stay),
		cmocka_unit_test(a_timeline_stays_small),         cmocka_unit_test(svg_passes_shapes_and_text_only),
		cmocka_unit_test(broken_svg_is_refused),
	};
	return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
