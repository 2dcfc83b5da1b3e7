/* A layer with experts against a plain implementation in doubles: losses of many kinds of routers, and gradients as the
 * differences of the plain loss. One rank; layouts of several are in mpi_engine_layouts.
 *
 * Which experts a row goes to is a step in the loss: the moves of a difference are small (1e-5), so that none is crossed. */
#include "base/file.h"
#include "base/random.h"
#include "engine/weights.h"
#include "tests/engine_problem.h"
#include "tests/plain_model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <unistd.h>

#include <cmocka.h>

static char scratch[] = "/tmp/mt-experts-XXXXXX";
static int32_t tokens[4 * TINY_SEQ + 1];

enum { ELEMENTS = 4 }; /* sampled of each parameter */

#define STEP 1e-5

struct variant {
	const char *name;
	int64_t experts, top_k, expert_ffn, shared_ffn, dense_first, expert_every, sets, set_top, set_best;
	int router, drop;
	bool normalize, shared_gate, bias, pad;
	double scale, balance, z, capacity;
};

static const struct variant variants[] = {
	{.name = "mixtral", .experts = 8, .top_k = 2, .normalize = true, .balance = 0.02},
	{.name = "qwen", .experts = 16, .top_k = 4, .expert_ffn = 8, .normalize = true, .balance = 0.1, .z = 0.01},
	{.name = "switch", .experts = 4, .top_k = 1, .balance = 0.1, .z = 0.1, .expert_every = 2},
	{.name = "qwen2", .experts = 6, .top_k = 2, .expert_ffn = 10, .shared_ffn = 24, .shared_gate = true, .balance = 0.1},
	{.name = "deepseek",
	 .experts = 16,
	 .top_k = 4,
	 .expert_ffn = 8,
	 .shared_ffn = 16,
	 .dense_first = 1,
	 .router = MT_MODEL_SIGMOID,
	 .normalize = true,
	 .scale = 2.5,
	 .sets = 4,
	 .set_top = 2,
	 .bias = true,
	 .balance = 0.1},
	{.name = "deepseek v2",
	 .experts = 16,
	 .top_k = 5,
	 .expert_ffn = 8,
	 .shared_ffn = 16,
	 .scale = 1.5,
	 .sets = 4,
	 .set_top = 2,
	 .set_best = 1,
	 .balance = 0.1},
	{.name = "sigmoid", .experts = 4, .top_k = 2, .router = MT_MODEL_SIGMOID, .scale = 1.5, .balance = 0.1, .z = 0.1},
	{.name = "capacity", .experts = 4, .top_k = 2, .normalize = true, .capacity = 0.75, .balance = 0.1},
	{.name = "lightest", .experts = 4, .top_k = 2, .normalize = true, .capacity = 0.75, .drop = MT_MODEL_DROP_LIGHTEST},
	{.name = "padded", .experts = 4, .top_k = 2, .normalize = true, .capacity = 1, .pad = true},
};

enum { VARIANTS = sizeof variants / sizeof variants[0] };

static int make_data(void **state)
{
	const int32_t *documents[1] = {tokens};
	int64_t length = 4 * TINY_SEQ + 1;
	char *prefix;
	enum mt_status st;

	if (!mkdtemp(scratch))
		return -1;
	for (int i = 0; i < length; i++)
		tokens[i] = (int32_t)mt_random_integer(7, 1, (uint64_t)i, TINY_VOCAB);
	prefix = mt_string("%s/data", scratch);
	st = mt_indexed_write(prefix, documents, &length, 1, TINY_VOCAB);
	free(prefix);
	return st == MT_OK ? 0 : -1;
}

static int remove_data(void **state)
{
	static const char *const names[] = {"data.bin", "data.idx"};

	for (int i = 0; i < 2; i++) {
		char *path = mt_string("%s/%s", scratch, names[i]);

		unlink(path);
		free(path);
	}
	return rmdir(scratch);
}

static void set_run(struct mt_run *run, const struct variant *v, enum mt_dtype dtype)
{
	struct mt_model *m = &run->model;

	set_tiny_run(run, &TINY_LLAMA);
	m->experts = v->experts;
	m->top_k = v->top_k;
	m->expert_ffn = v->expert_ffn ? v->expert_ffn : 20;
	m->shared_ffn = v->shared_ffn;
	m->shared_gate = v->shared_gate;
	m->dense_first = v->dense_first;
	m->expert_every = v->expert_every ? v->expert_every : 1;
	m->router = v->router;
	m->router_normalize = v->normalize;
	m->router_scale = v->scale > 0 ? v->scale : 1;
	m->router_sets = v->sets ? v->sets : 1;
	m->set_top = v->set_top ? v->set_top : 1;
	m->set_best = v->set_best;
	m->router_bias = v->bias;
	m->balance_loss = v->balance;
	m->z_loss = v->z;
	m->capacity = v->capacity;
	m->drop = v->drop;
	m->capacity_pad = v->pad;
	if (mt_model_complete(m, v->name) != MT_OK)
		fail_msg("%s", mt_error_message());
	run->layout.dtype = dtype;
	run->layout.bucket_bytes = 8 << 10;
	run->train.lr = run->train.min_lr = run->train.weight_decay = run->train.clip = 0;
	run->data.path = mt_string("%s/data", scratch);
	run->data.shuffle = false;
}

static void open_bench(struct engine_bench *b, const struct mt_run *run, const char *device)
{
	if (open_engine(b, run, device, NULL) != MT_OK)
		fail_msg("%s", mt_error_message());
}

static struct mt_step_stats step(struct engine_bench *b)
{
	struct mt_step_stats stats;

	if (mt_engine_step(b->engine, &stats) != MT_OK)
		fail_msg("%s", mt_error_message());
	assert_int_equal(stats.skipped, 0);
	return stats;
}

/* The engine's parameters, for the plain model; the biases of routers moved off zero first. Free with drop_plain. */
static void copy_parameters(struct engine_bench *b, const struct mt_run *run, struct plain_model *plain)
{
	memset(plain, 0, sizeof *plain);
	plain->model = &run->model;
	plain->sequences = run->layout.gbs;
	plain->seq = run->layout.seq;
	plain->tokens = tokens;
	plain->count = mt_engine_param_count(b->engine);
	for (int i = 0; i < plain->count; i++) {
		struct plain_param *p = &plain->params[i];
		struct mt_param_info info;

		mt_engine_param_info(b->engine, i, &info);
		p->rows = info.rows;
		p->cols = info.cols;
		p->values = malloc((size_t)(info.rows * info.cols) * sizeof *p->values);
		assert_non_null(p->values);
		snprintf(p->name, sizeof p->name, "%s", info.name);
		assert_int_equal(mt_engine_read_param_f64(b->engine, i, p->values), MT_OK);
		if (strstr(p->name, "router.bias")) {
			for (int64_t k = 0; k < info.cols; k++)
				p->values[k] = 0.1 * mt_random_normal(5, 1, (uint64_t)k);
			assert_int_equal(mt_engine_write_param(b->engine, i, p->values), MT_OK);
		}
	}
}

static void drop_plain(struct plain_model *plain)
{
	for (int i = 0; i < plain->count; i++)
		free(plain->params[i].values);
}

static double plain_at(struct plain_model *plain, double *value, double moved)
{
	double kept = *value, loss;

	*value = moved;
	loss = plain_loss(plain);
	*value = kept;
	return loss;
}

static void check_gradients(struct engine_bench *b, struct plain_model *plain, const char *name)
{
	int bent = 0;

	for (int i = 0; i < plain->count; i++) {
		struct plain_param *p = &plain->params[i];
		double *gradient = malloc((size_t)(p->rows * p->cols) * sizeof *gradient);

		assert_non_null(gradient);
		assert_int_equal(mt_engine_read_grad_f64(b->engine, i, gradient), MT_OK);
		for (int k = 0; k < ELEMENTS; k++) {
			int64_t at = (int64_t)mt_random_integer(11, (uint64_t)i, (uint64_t)k, (uint64_t)(p->rows * p->cols));
			double x = p->values[at];
			double near = plain_at(plain, &p->values[at], x + STEP) - plain_at(plain, &p->values[at], x - STEP);
			double want = near / (2 * STEP);

			if (strstr(p->name, "router.bias"))
				want = 0; /* it decides, and has no gradient */
			if (strcmp(p->name, "embedding.word") == 0 || strcmp(p->name, "head.weight") == 0) {
				if (at >= TINY_VOCAB * 16)
					want = 0;
			}
			if (!(fabs(gradient[at] - want) <= 1e-6 * fabs(want) + 2e-8))
				fail_msg("%s, %s[%lld]: gradient %.12g, difference of the plain loss %.12g", name, p->name,
					 (long long)at, gradient[at], want);
			bent += fabs(want) > 1e-4;
		}
		free(gradient);
	}
	if (bent < plain->count * ELEMENTS / 3)
		fail_msg("%s: only %d of %d elements had a gradient worth the name", name, bent, plain->count * ELEMENTS);
}

static void losses_and_gradients_equal_a_plain_implementation(void **state)
{
	for (int i = 0; i < VARIANTS; i++) {
		struct mt_step_stats stats;
		struct plain_model plain;
		struct engine_bench b;
		struct mt_run run;

		set_run(&run, &variants[i], MT_F64);
		open_bench(&b, &run, "reference");
		copy_parameters(&b, &run, &plain);
		stats = step(&b);
		plain_loss(&plain);
		if (!(fabs(stats.loss - plain.loss) <= 1e-12 * plain.loss) ||
		    !(fabs(stats.balance_loss - plain.balance) <= 1e-12) || !(fabs(stats.z_loss - plain.z) <= 1e-12))
			fail_msg("%s: loss %.15g, balance %.15g, z %.15g; plain %.15g, %.15g, %.15g", variants[i].name, stats.loss,
				 stats.balance_loss, stats.z_loss, plain.loss, plain.balance, plain.z);
		check_gradients(&b, &plain, variants[i].name);
		drop_plain(&plain);
		close_engine(&b);
		mt_run_free(&run);
	}
}

/* All gradients of one step, one after the other. free() them. */
static double *gradients_of(const struct mt_run *run, const char *device, double *loss, int64_t *count)
{
	struct engine_bench b;
	double *all = NULL;

	open_bench(&b, run, device);
	*loss = step(&b).loss;
	*count = 0;
	for (int i = 0; i < mt_engine_param_count(b.engine); i++) {
		struct mt_param_info info;
		double *longer;

		mt_engine_param_info(b.engine, i, &info);
		longer = realloc(all, (size_t)(*count + info.rows * info.cols) * sizeof *all);
		assert_non_null(longer);
		all = longer;
		assert_int_equal(mt_engine_read_grad_f64(b.engine, i, all + *count), MT_OK);
		*count += info.rows * info.cols;
	}
	close_engine(&b);
	return all;
}

static void check_equal(const char *name, const struct mt_run *a, const char *device_a, const struct mt_run *b,
			const char *device_b, double tolerance)
{
	double loss[2], *gradient[2], error = 0, size = 0;
	int64_t count[2];

	gradient[0] = gradients_of(a, device_a, &loss[0], &count[0]);
	gradient[1] = gradients_of(b, device_b, &loss[1], &count[1]);
	assert_int_equal(count[0], count[1]);
	for (int64_t i = 0; i < count[0]; i++) {
		error += (gradient[0][i] - gradient[1][i]) * (gradient[0][i] - gradient[1][i]);
		size += gradient[0][i] * gradient[0][i];
	}
	if (!(fabs(loss[0] - loss[1]) <= tolerance * loss[0]) || !(sqrt(error / size) <= tolerance))
		fail_msg("%s: losses %.12g and %.12g, gradients differ by %.3g of their norm, more than %.3g", name, loss[0],
			 loss[1], sqrt(error / size), tolerance);
	free(gradient[0]);
	free(gradient[1]);
}

static void the_fast_device_gives_the_plain_devices_gradients(void **state)
{
	for (int i = 0; i < VARIANTS; i++) {
		struct mt_run exact, fast;

		set_run(&exact, &variants[i], MT_F64);
		set_run(&fast, &variants[i], MT_F32);
		check_equal(variants[i].name, &exact, "reference", &fast, "cpu", 2e-5);
		mt_run_free(&exact);
		mt_run_free(&fast);
	}
}

static void recompute_gives_the_same_bits(void **state)
{
	for (int i = 0; i < VARIANTS; i++) {
		struct mt_run plain, again;

		set_run(&plain, &variants[i], MT_F32);
		set_run(&again, &variants[i], MT_F32);
		again.layout.recompute = MT_RECOMPUTE_FULL;
		check_equal(variants[i].name, &plain, "cpu", &again, "cpu", 0);
		again.layout.recompute = MT_RECOMPUTE_SELECTIVE;
		again.layout.recompute_attention = true;
		check_equal(variants[i].name, &plain, "cpu", &again, "cpu", 0);
		mt_run_free(&plain);
		mt_run_free(&again);
	}
}

/* Micro-batches change nothing: what is counted is counted by sequence. */
static void microbatches_do_not_change_the_gradients(void **state)
{
	for (int i = 0; i < VARIANTS; i++) {
		struct mt_run ones, fours;

		set_run(&ones, &variants[i], MT_F64);
		set_run(&fours, &variants[i], MT_F64);
		ones.layout.mbs = 1;
		fours.layout.mbs = 4;
		check_equal(variants[i].name, &ones, "reference", &fours, "reference", 1e-13);
		mt_run_free(&ones);
		mt_run_free(&fours);
	}
}

/* Up by the rate where an expert had fewer rows than the mean, down where it had more. */
static void biases_follow_the_load(void **state)
{
	static const enum mt_dtype dtypes[] = {MT_F32, MT_BF16};

	for (int d = 0; d < 2; d++) {
		int up = 0, down = 0;
		struct engine_bench b;
		struct mt_run run;

		set_run(&run, &variants[4], dtypes[d]);
		run.model.bias_rate = 0.25;
		open_bench(&b, &run, "cpu");
		step(&b);
		for (int i = 0; i < mt_engine_param_count(b.engine); i++) {
			struct mt_param_info info;
			double values[64];

			mt_engine_param_info(b.engine, i, &info);
			if (!strstr(info.name, "router.bias"))
				continue;
			assert_int_equal(mt_engine_read_param_f64(b.engine, i, values), MT_OK);
			for (int64_t k = 0; k < info.cols; k++) {
				assert_true(values[k] == 0.25 || values[k] == -0.25 || values[k] == 0);
				up += values[k] > 0;
				down += values[k] < 0;
			}
		}
		assert_true(up > 0 && down > 0);
		close_engine(&b);
		mt_run_free(&run);
	}
}

static void save(struct engine_bench *b, const struct mt_run *run, const char *directory)
{
	struct mt_saver_config config = {.engine = b->engine, .run = run, .directory = directory};
	struct mt_saver *saver = NULL;
	int rank = 0;

	assert_int_equal(mt_group_create(b->own, "save", &rank, 1, &config.world), MT_OK);
	assert_int_equal(mt_saver_create(&saver, &config), MT_OK);
	assert_int_equal(mt_saver_start(saver, NULL), MT_OK);
	assert_int_equal(mt_saver_finish(saver), MT_OK);
	mt_saver_destroy(saver);
	mt_group_destroy(config.world);
}

static void remove_tree(const char *directory)
{
	char *command = mt_string("rm -rf '%s'", directory);

	assert_int_equal(system(command), 0);
	free(command);
}

/* Out as a Mixtral of transformers and in again, into a model that began with other weights. */
static void mixtral_weights_go_out_and_come_back(void **state)
{
	char *saved = mt_string("%s/saved", scratch), *hf = mt_string("%s/hf", scratch), *from = mt_checkpoint_path(saved, 1);
	struct engine_bench a, b;
	struct mt_weights weights;
	struct mt_model described;
	struct mt_run run, other;
	char *config = mt_string("%s/config.json", hf);

	set_run(&run, &variants[0], MT_F32);
	set_run(&other, &variants[0], MT_F32);
	other.train.seed = 99;
	open_bench(&a, &run, "cpu");
	step(&a);
	save(&a, &run, saved);
	assert_int_equal(mt_weights_open(&weights, from, &run.model), MT_OK);
	if (mt_weights_export(&weights, MT_EXPORT_HF, MT_STORED_F32, 20000, hf) != MT_OK)
		fail_msg("%s", mt_error_message());
	mt_weights_close(&weights);
	assert_int_equal(mt_model_load(&described, config), MT_OK);
	assert_int_equal(described.experts, run.model.experts);
	assert_int_equal(described.expert_ffn, run.model.expert_ffn);
	assert_true(described.balance_loss == run.model.balance_loss);
	mt_model_free(&described);
	open_bench(&b, &other, "cpu");
	if (mt_weights_load(b.engine, hf) != MT_OK)
		fail_msg("%s", mt_error_message());
	for (int i = 0; i < mt_engine_param_count(a.engine); i++) {
		struct mt_param_info info;
		float *want, *got;

		mt_engine_param_info(a.engine, i, &info);
		want = malloc((size_t)(info.rows * info.cols) * sizeof *want);
		got = malloc((size_t)(info.rows * info.cols) * sizeof *got);
		assert_int_equal(mt_engine_read_param(a.engine, i, want), MT_OK);
		assert_int_equal(mt_engine_read_param(b.engine, i, got), MT_OK);
		if (memcmp(want, got, (size_t)(info.rows * info.cols) * sizeof *want) != 0)
			fail_msg("%s is not what it was", info.name);
		free(want);
		free(got);
	}
	close_engine(&a);
	close_engine(&b);
	mt_run_free(&run);
	mt_run_free(&other);
	remove_tree(saved);
	remove_tree(hf);
	free(config);
	free(from);
	free(hf);
	free(saved);
}

/* What transformers has no architecture for is refused with what there is. */
static void other_routers_have_no_hugging_face_form(void **state)
{
	struct mt_run run;

	set_run(&run, &variants[4], MT_F32);
	assert_int_equal(mt_hf_check(&run.model), MT_INPUT);
	assert_non_null(strstr(mt_error_message(), "mixtral"));
	mt_error_clear();
	mt_run_free(&run);
}

static void options_that_exclude_each_other_are_refused(void **state)
{
	static const struct {
		const char *word;
		int64_t top_k, sets, set_top, set_best;
		bool bias, router_bias, pad;
	} wrong[] = {{"top_k 9 is more", 9, 1, 1, 0, false, false, false},
		     {"teaches the router nothing", 1, 1, 1, 0, false, false, false},
		     {"not a multiple of router_sets", 2, 3, 1, 0, false, false, false},
		     {"cannot give a token", 4, 4, 1, 0, false, false, false},
		     {"give router_sets", 2, 1, 1, 1, false, false, false},
		     {"set_best 3 is more than the 2", 2, 4, 2, 3, false, false, false},
		     {"no biases", 2, 1, 1, 0, true, false, false},
		     {"router_bias is of the sigmoid", 2, 1, 1, 0, false, true, false},
		     {"needs a capacity", 2, 1, 1, 0, false, false, true}};

	for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
		struct mt_run run;
		struct mt_model *m = &run.model;

		set_run(&run, &variants[0], MT_F32);
		m->top_k = wrong[i].top_k;
		m->router_sets = wrong[i].sets;
		m->set_top = wrong[i].set_top;
		m->set_best = wrong[i].set_best;
		m->mlp = wrong[i].bias ? MT_MODEL_GELU : m->mlp; /* swiglu refuses biases itself */
		m->bias = wrong[i].bias;
		m->router_bias = wrong[i].router_bias;
		m->capacity_pad = wrong[i].pad;
		assert_int_equal(mt_model_complete(m, "here"), MT_INPUT);
		if (!strstr(mt_error_message(), wrong[i].word))
			fail_msg("'%s' is not in: %s", wrong[i].word, mt_error_message());
		mt_error_clear();
		mt_run_free(&run);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(losses_and_gradients_equal_a_plain_implementation),
		cmocka_unit_test(the_fast_device_gives_the_plain_devices_gradients),
		cmocka_unit_test(recompute_gives_the_same_bits),
		cmocka_unit_test(microbatches_do_not_change_the_gradients),
		cmocka_unit_test(biases_follow_the_load),
		cmocka_unit_test(mixtral_weights_go_out_and_come_back),
		cmocka_unit_test(other_routers_have_no_hugging_face_form),
		cmocka_unit_test(options_that_exclude_each_other_are_refused),
	};
	return cmocka_run_group_tests_name("engine experts", tests, make_data, remove_data);
}
