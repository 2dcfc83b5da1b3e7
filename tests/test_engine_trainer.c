/* Whole runs: the loss falls, the log has a line a step, a deadline ends a run after a whole step, the trace holds together. */
#include "base/file.h"
#include "base/json.h"
#include "engine/trainer.h"
#include "tests/engine_problem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <unistd.h>

#include <cmocka.h>

static char scratch[] = "/tmp/mt-trainer-XXXXXX";

static int make_scratch(void **state)
{
	return mkdtemp(scratch) ? 0 : -1;
}

static int remove_scratch(void **state)
{
	static const char *const names[] = {"text.txt", "log.jsonl", "trace.json"};

	for (int i = 0; i < 3; i++) {
		char *path = mt_string("%s/%s", scratch, names[i]);

		unlink(path);
		free(path);
	}
	return rmdir(scratch);
}

/* A tiny GPT of bytes on a text that repeats itself, `steps` steps on one rank. */
static void set_run(struct mt_run *run, int64_t steps)
{
	static const char line[] = "the quick brown fox jumps over the lazy dog.\n";
	char text[60 * (sizeof line - 1)];

	set_tiny_run(run, &TINY_GPT);
	run->model.vocab = 257;
	run->model.seq = run->layout.seq = 16;
	run->model.init_std = 0.02;
	run->layout.gbs = 8;
	run->layout.mbs = 4;
	run->train.steps = steps;
	run->train.lr = 1e-2;
	run->train.min_lr = 1e-3;
	run->train.peak_tflops = 1; /* not measured: this takes time */
	for (size_t i = 0; i < sizeof text; i++)
		text[i] = line[i % (sizeof line - 1)];
	run->data.path = mt_string("%s/text.txt", scratch);
	assert_int_equal(mt_file_write(run->data.path, text, sizeof text), MT_OK);
}

struct seen {
	int64_t steps;
	struct mt_step_report last;
};

static void note(void *context, const struct mt_step_report *report)
{
	struct seen *seen = context;

	assert_int_equal(report->stats.step, seen->steps);
	seen->steps++;
	seen->last = *report;
}

static void train(const struct mt_run *run, struct mt_train_summary *summary, struct seen *seen)
{
	struct mt_device_config device_config = {.kind = "cpu", .threads = 1};
	struct mt_fabric_config fabric_config = {.kind = "self"};
	struct mt_trainer_config config = {.run = run, .warmup = 2, .report = note, .context = seen};

	memset(seen, 0, sizeof *seen);
	assert_int_equal(mt_device_create(&config.device, &device_config), MT_OK);
	assert_int_equal(mt_fabric_create(&config.fabric, &fabric_config), MT_OK);
	if (mt_train(summary, &config) != MT_OK)
		fail_msg("%s", mt_error_message());
	mt_fabric_destroy(config.fabric);
	mt_device_destroy(config.device);
}

static void loss_falls_on_text_that_repeats(void **state)
{
	struct mt_train_summary summary;
	struct mt_run run;
	struct seen seen;

	set_run(&run, 60);
	train(&run, &summary, &seen);
	if (!(summary.first_loss > 5 && summary.last_loss < 0.6 * summary.first_loss))
		fail_msg("loss %g at first (uniform over 257 is 5.55), %g after %lld steps", summary.first_loss, summary.last_loss,
			 (long long)summary.steps);
	assert_int_equal(summary.steps, 60);
	assert_int_equal(summary.timed_steps, 58);
	assert_int_equal(seen.steps, 60);
	assert_true(seen.last.stats.loss == summary.last_loss);
	assert_true(summary.step_s.lo <= summary.median_step_s && summary.median_step_s <= summary.step_s.hi);
	assert_false(summary.interrupted);
	assert_int_equal(summary.stages, 1);
	assert_int_equal(summary.stage[0].peak_bytes, seen.last.memory_bytes);
	mt_train_summary_free(&summary);
	mt_run_free(&run);
}

/* The lines of a file as JSON objects; at most `most`. */
static int read_lines(const char *path, json_t **lines, int most)
{
	int count = 0;
	char *text, *save = NULL;
	size_t bytes;

	assert_int_equal(mt_file_read(path, 0, &text, &bytes), MT_OK);
	assert_true(bytes > 0 && text[bytes - 1] == '\n');
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		json_error_t error;

		assert_true(count < most);
		lines[count] = json_loads(line, 0, &error);
		if (!lines[count])
			fail_msg("%s, line %d: %s: %s", path, count + 1, error.text, line);
		count++;
	}
	free(text);
	return count;
}

static void log_has_a_line_a_step_and_a_summary(void **state)
{
	static const char *const numbers[] = {
		"loss",         "grad_norm", "lr",   "step_time_s", "tokens_per_s", "tflops_per_device", "mfu_frac",
		"memory_bytes", "compute_s", "tp_s", "dp_s",        "pp_s",         "optimizer_s"};
	struct mt_train_summary summary;
	json_t *lines[16];
	struct mt_run run;
	struct seen seen;
	int count;

	set_run(&run, 7);
	run.train.log = mt_string("%s/log.jsonl", scratch);
	train(&run, &summary, &seen);
	count = read_lines(run.train.log, lines, 16);
	assert_int_equal(count, 8);
	for (int i = 0; i < 7; i++) {
		assert_string_equal(mt_json_get_string(lines[i], "event", ""), "step");
		assert_int_equal(mt_json_get_int(lines[i], "step", -1), i);
		for (size_t k = 0; k < sizeof numbers / sizeof numbers[0]; k++)
			if (!json_is_number(json_object_get(lines[i], numbers[k])))
				fail_msg("step %d has no number %s", i, numbers[k]);
		assert_true(mt_json_get_number(lines[i], "tokens_per_s", 0) > 0);
	}
	assert_string_equal(mt_json_get_string(lines[7], "event", ""), "summary");
	assert_int_equal(mt_json_get_int(lines[7], "steps", -1), 7);
	assert_int_equal(mt_json_get_int(lines[7], "timed_steps", -1), 5);
	assert_true(json_is_false(json_object_get(lines[7], "interrupted")));
	assert_int_equal(json_array_size(json_object_get(lines[7], "memory_bytes")), 1);
	for (int i = 0; i < count; i++)
		json_decref(lines[i]);
	mt_train_summary_free(&summary);
	mt_run_free(&run);
}

/* A deadline in the past still leaves one whole step, with its line and the summary. */
static void deadline_stops_after_a_whole_step(void **state)
{
	struct mt_train_summary summary;
	json_t *lines[16];
	struct mt_run run;
	struct seen seen;
	int count;

	set_run(&run, 1000000);
	run.train.deadline_s = 1e-9;
	run.train.log = mt_string("%s/log.jsonl", scratch);
	train(&run, &summary, &seen);
	assert_int_equal(summary.steps, 1);
	assert_int_equal(seen.steps, 1);
	assert_true(summary.interrupted);
	assert_true(summary.last_loss > 1);
	count = read_lines(run.train.log, lines, 16);
	assert_int_equal(count, 2);
	assert_true(json_is_true(json_object_get(lines[1], "interrupted")));
	for (int i = 0; i < count; i++)
		json_decref(lines[i]);
	mt_train_summary_free(&summary);
	mt_run_free(&run);
}

struct span {
	const char *stream;
	double start_us, end_us;
};

static int by_stream_and_start(const void *a, const void *b)
{
	const struct span *p = a, *q = b;
	int streams = strcmp(p->stream, q->stream);

	return streams ? streams : (p->start_us > q->start_us) - (p->start_us < q->start_us);
}

static void spans_of_a_stream_do_not_overlap(void **state)
{
	struct mt_train_summary summary;
	json_t *root, *events;
	struct mt_run run;
	struct seen seen;
	struct span *spans;
	size_t count;

	set_run(&run, 3);
	run.train.trace = mt_string("%s/trace.json", scratch);
	train(&run, &summary, &seen);
	assert_int_equal(mt_json_load(&root, run.train.trace), MT_OK);
	events = json_object_get(root, "traceEvents");
	count = json_array_size(events);
	/* two micro-batches of two layers: at least seven kernels forward and more backward a layer */
	assert_true(count > 2 * 2 * 20);
	spans = calloc(count, sizeof *spans);
	for (size_t i = 0; i < count; i++) {
		const json_t *event = json_array_get(events, i);
		double dur_us = mt_json_get_number(event, "dur", -1);

		spans[i].stream = mt_json_get_string(event, "tid", NULL);
		spans[i].start_us = mt_json_get_number(event, "ts", -1);
		spans[i].end_us = spans[i].start_us + dur_us;
		assert_string_equal(mt_json_get_string(event, "ph", ""), "X");
		assert_int_equal(mt_json_get_int(event, "pid", -1), 0);
		assert_non_null(spans[i].stream);
		assert_true(strlen(mt_json_get_string(event, "name", "")) > 0);
		if (!(spans[i].start_us >= 0 && dur_us >= 0))
			fail_msg("event %zu starts at %g us and takes %g us", i, spans[i].start_us, dur_us);
	}
	qsort(spans, count, sizeof *spans, by_stream_and_start);
	for (size_t i = 1; i < count; i++) {
		/* microseconds in decimal: rounded to a thousandth of one */
		if (strcmp(spans[i - 1].stream, spans[i].stream) == 0 && spans[i].start_us < spans[i - 1].end_us - 1e-3)
			fail_msg("stream %s: a span starts at %.6f us, the one before ends at %.6f us", spans[i].stream,
				 spans[i].start_us, spans[i - 1].end_us);
	}
	free(spans);
	json_decref(root);
	mt_train_summary_free(&summary);
	mt_run_free(&run);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(loss_falls_on_text_that_repeats),
		cmocka_unit_test(log_has_a_line_a_step_and_a_summary),
		cmocka_unit_test(deadline_stops_after_a_whole_step),
		cmocka_unit_test(spans_of_a_stream_do_not_overlap),
	};
	return cmocka_run_group_tests_name("engine trainer", tests, make_scratch, remove_scratch);
}
