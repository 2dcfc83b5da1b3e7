/* Run files: what is written is read back, what is wrong is named. */
#include "base/catalog.h"
#include "base/file.h"
#include "engine/run.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static char directory[] = "/tmp/mt-run-XXXXXX";

static const char *path_of(const char *name)
{
	static char path[256];

	snprintf(path, sizeof path, "%s/%s", directory, name);
	return path;
}

static const char *write_text(const char *text)
{
	const char *path = path_of("run.yaml");

	assert_int_equal(mt_file_write(path, text, strlen(text)), MT_OK);
	return path;
}

static void load(struct mt_run *run, const char *path)
{
	mt_error_clear();
	if (mt_run_load(run, path) != MT_OK)
		fail_msg("%s: %s", path, mt_error_message());
}

static void refused(const char *text, const char *a, const char *b)
{
	struct mt_run run;
	const char *path = write_text(text);

	mt_error_clear();
	assert_int_equal(mt_run_load(&run, path), MT_INPUT);
	if (!strstr(mt_error_message(), a) || (b && !strstr(mt_error_message(), b)))
		fail_msg("no '%s' and '%s' in: %s", a, b ? b : a, mt_error_message());
}

/* All values of a run as text: equal runs have equal text. */
static char *describe(const struct mt_run *run)
{
	json_t *all = json_pack(
		"[o,o,o,o]", mt_options_json(&mt_model_options, &run->model), mt_options_json(&mt_layout_options, &run->layout),
		mt_options_json(&mt_train_options_table, &run->train), mt_options_json(&mt_data_options_table, &run->data));
	char *text = json_dumps(all, JSON_REAL_PRECISION(17));

	json_decref(all);
	return text;
}

static void check_round_trip(const char *text, const char *header)
{
	struct mt_run a, b;

	load(&a, write_text(text));
	assert_int_equal(mt_run_save(&a, path_of("again.yaml"), header), MT_OK);
	load(&b, path_of("again.yaml"));
	char *x = describe(&a), *y = describe(&b);
	assert_string_equal(x, y);
	/* and to the bit */
	assert_memory_equal(&a.layout, &b.layout, offsetof(struct mt_layout, bucket_bytes));
	assert_true(a.train.lr == b.train.lr && a.train.eps == b.train.eps && a.model.norm_eps == b.model.norm_eps);
	free(x);
	free(y);
	mt_run_free(&a);
	mt_run_free(&b);
}

static void run_file_round_trips(void **state)
{
	check_round_trip("model: gpt-tiny\n", NULL);
	check_round_trip("model: gpt-tiny\n", "two lines\n\nand a third: {not yaml");
	check_round_trip(
		"model: llama-tiny-gqa\n"
		"layout: {tp: 2, pp: 3, dp: 4, mbs: 2, gbs: 24, sp: true, zero: 1, recompute: full, dtype: bf16, threads: 3,\n"
		"         bucket_bytes: 1Mi, seq: 32}\n"
		"train: {steps: 7, seed: 9000000000000000, lr: 0.1234567890123456789, min_lr: 3.3333333333333333e-7, eps: "
		"1.7e-11,\n"
		"        warmup_steps: 3, decay: linear, decay_steps: 5, clip: 0, log: 'a b: #c \\ \"d\"', trace: \"null\",\n"
		"        peak_tflops: 0.1, deadline_s: 12.75}\n"
		"data: {path: 'x:y', shuffle: false}\n",
		NULL);
	check_round_trip(
		"model: {name: '7', layers: 3, hidden: 48, heads: 6, vocab: 999, seq: 17, norm_eps: 1e-7, init_std: 0.0123}\n"
		"train: {device: reference}\nlayout: {dtype: f64}\n",
		NULL);
}

static void defaults_are_those_of_the_tables(void **state)
{
	struct mt_run run;

	mt_run_default(&run);
	assert_int_equal(run.train.steps, 20);
	assert_int_equal(run.train.seed, 1234);
	assert_float_equal(run.train.lr, 6e-4, 0);
	assert_string_equal(run.train.device, "cpu");
	assert_null(run.train.log);
	assert_null(run.data.path);
	assert_null(run.model.name);
	assert_int_equal(run.layout.bucket_bytes, 40 << 20);
	assert_int_equal(mt_layout_world(&run.layout), 1);
	mt_run_free(&run);
	mt_run_free(&run); /* twice is fine */
}

static void a_sequence_not_given_is_the_models(void **state)
{
	struct mt_run run;

	load(&run, write_text("model: gpt2-124m\n"));
	assert_int_equal(run.layout.seq, 1024);
	mt_run_free(&run);
	load(&run, write_text("model: gpt2-124m\nlayout: {seq: 100}\n"));
	assert_int_equal(run.layout.seq, 100);
	mt_run_free(&run);
}

static void a_model_path_is_relative_to_the_run_file(void **state)
{
	static const char text[] = "{layers: 2, hidden: 64, heads: 4, vocab: 300, seq: 32}\n";
	struct mt_run run;

	assert_int_equal(mt_file_write(path_of("mine.yaml"), text, strlen(text)), MT_OK);
	load(&run, write_text("model: ./mine.yaml\n"));
	assert_string_equal(run.model.name, "mine");
	mt_run_free(&run);
	load(&run, write_text("model: mine.yaml\n"));
	assert_int_equal(run.model.layers, 2);
	mt_run_free(&run);
}

static void the_shipped_runs_are_sound(void **state)
{
	static const char *const names[] = {"gpt-tiny", "llama-tiny-tp2-pp2", "gpt2-124m"};
	char *models = mt_catalog_directory("models");

	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
		struct mt_run run;
		char *path = mt_string("%s/../runs/%s.yaml", models, names[i]);
		load(&run, path);
		mt_run_free(&run);
		free(path);
	}
	free(models);
}

static void a_wrong_run_is_refused_with_line_and_cause(void **state)
{
	refused("layout: {tp: 1}\n", "no model", "gpt2-124m");
	refused("- 1\n- 2\n", "sections", NULL);
	refused("model: gpt-tiny\nlayuot: {tp: 1}\n", "run.yaml:2", "layout");
	refused("model: gpt-tiny\nlayout:\n  tp: 1\n  pq: 2\n", "run.yaml:4", "pp");
	refused("model: gpt-tiny\ntrain:\n  lr: fast\n", "run.yaml:3", "lr");
	refused("model: gpt-tiny\ntrain: {steps: 0}\n", "steps", NULL);
	refused("model: gpt-tiny\ntrain: {decay: cosin}\n", "cosine", NULL);
	refused("model: gpt-tiny\ndata: {split: bpe}\n", "split", NULL);
	refused("model: gpt-tiny\ntrain: {lr: 1e-5, min_lr: 1e-4}\n", "min_lr", NULL);
	refused("model: gpt-tiny\ntrain: {beta2: 1}\n", "beta2", NULL);
	refused("model: gpt-tiny\nlayout: {dtype: f64}\n", "reference", NULL);
	refused("model: gpt-tiny\nlayout: {tp: 3}\n", "(heads 8, tp 3)", NULL);
	refused("model: gpt-tiny\nlayout: {vp: 2}\n", "vp above 1 needs pp above 1", NULL);
	refused("model: gpt-tinny\n", "gpt-tiny", "did you mean");
	refused("model: [1]\n", "mapping", "run.yaml:1");
	refused("model:\n", "model", NULL);
	refused("model:\n  layers: 2\n", "run.yaml", "hidden");
	refused("", "run.yaml", NULL);
}

static void a_run_that_cannot_be_written_is_an_error(void **state)
{
	struct mt_run run;

	load(&run, write_text("model: gpt-tiny\n"));
	mt_error_clear();
	assert_int_equal(mt_run_save(&run, "/proc/no/such/run.yaml", NULL), MT_IO);
	mt_run_free(&run);
}

static int set_up(void **state)
{
	if (access("examples/models", R_OK) == 0)
		setenv("MEGATUNE_DATA", "examples", 0);
	return mkdtemp(directory) ? 0 : -1;
}

static int clean_up(void **state)
{
	unlink(path_of("run.yaml"));
	unlink(path_of("again.yaml"));
	unlink(path_of("mine.yaml"));
	return rmdir(directory);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(run_file_round_trips),
		cmocka_unit_test(defaults_are_those_of_the_tables),
		cmocka_unit_test(a_sequence_not_given_is_the_models),
		cmocka_unit_test(a_model_path_is_relative_to_the_run_file),
		cmocka_unit_test(the_shipped_runs_are_sound),
		cmocka_unit_test(a_wrong_run_is_refused_with_line_and_cause),
		cmocka_unit_test(a_run_that_cannot_be_written_is_an_error),
	};
	return cmocka_run_group_tests(tests, set_up, clean_up);
}
