/* The engine against an implementation of the same models that shares nothing with it (tests/plain_whole.h), on random weights:
 * the loss of a step, and the gradient of every parameter. In f64 on the plain device to rounding; in f32 on the fast one.
 *
 * Difference in relative norm: |engine - plain| / |plain| of each tensor. A tensor whose gradient is only rounding (the bias of
 * keys, which softmax cancels) is held against the largest gradient of its kind, that of the queries. */
#include "base/file.h"
#include "base/random.h"
#include "tests/engine_problem.h"
#include "tests/plain_whole.h"

#include <setjmp.h>
#include <stdarg.h>
#include <unistd.h>

#include <cmocka.h>

static char scratch[] = "/tmp/mt-plain-XXXXXX";
static struct plain_tape tape;

enum { SEQUENCES = 4, TOKENS = SEQUENCES * TINY_SEQ };
static int32_t data[TOKENS + 1];

static int make_data(void **state)
{
	const int32_t *documents[1] = {data};
	int64_t length = TOKENS + 1;
	char *prefix;
	enum mt_status st;

	if (!mkdtemp(scratch))
		return -1;
	for (int i = 0; i <= TOKENS; i++)
		data[i] = (int32_t)mt_random_integer(17, 1, (uint64_t)i, TINY_VOCAB);
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

/* Leaves of the tape by the engine's names. */
struct leaves {
	struct engine_bench bench;
	struct plain_node *nodes[256];
};

static struct plain_node *find_leaf(void *context, const char *name)
{
	struct leaves *l = context;

	for (int i = 0; i < mt_engine_param_count(l->bench.engine); i++) {
		if (strcmp(l->nodes[i]->name, name) == 0)
			return l->nodes[i];
	}
	return NULL;
}

/* The engine's weights, away from the ones and zeros that vectors begin with. */
static void make_leaves(struct leaves *l)
{
	for (int i = 0; i < mt_engine_param_count(l->bench.engine); i++) {
		struct mt_param_info info;

		mt_engine_param_info(l->bench.engine, i, &info);
		l->nodes[i] = plain_new(&tape, info.rows, info.cols, NULL);
		l->nodes[i]->name = info.name;
		assert_int_equal(mt_engine_read_param_f64(l->bench.engine, i, l->nodes[i]->v), MT_OK);
		for (int64_t k = 0; (info.rows == 1 || info.cols == 1) && k < info.rows * info.cols; k++)
			l->nodes[i]->v[k] += 0.2 * mt_random_normal(5, (uint64_t)i, (uint64_t)k);
		assert_int_equal(mt_engine_write_param(l->bench.engine, i, l->nodes[i]->v), MT_OK);
		/* as the engine has them, rounded to its type */
		assert_int_equal(mt_engine_read_param_f64(l->bench.engine, i, l->nodes[i]->v), MT_OK);
	}
}

static double norm_of(const double *x, int64_t count)
{
	double sum = 0;

	for (int64_t i = 0; i < count; i++)
		sum += x[i] * x[i];
	return sqrt(sum);
}

static void compare_gradient(struct leaves *l, int index, double bound, const char *model)
{
	const struct plain_node *leaf = l->nodes[index];
	int64_t count = leaf->rows * leaf->cols;
	double *got = malloc((size_t)count * sizeof *got), size = norm_of(leaf->g, count), error;
	char *other = strstr(leaf->name, ".k.bias") ? strdup(leaf->name) : NULL;

	assert_non_null(got);
	if (other) {
		struct plain_node *q;

		strstr(other, ".k.bias")[1] = 'q';
		q = find_leaf(l, other);
		size = norm_of(q->g, q->rows * q->cols);
		free(other);
	}
	assert_int_equal(mt_engine_read_grad_f64(l->bench.engine, index, got), MT_OK);
	for (int64_t i = 0; i < count; i++)
		got[i] -= leaf->g[i];
	error = norm_of(got, count);
	if (size == 0) { /* an expert that no row went to, a bias that only decides */
		assert_true(error == 0);
		free(got);
		return;
	}
	if (!(size > 1e-6) || !(error <= bound * size))
		fail_msg("%s: gradient of %s differs by %.3g of its norm %.3g, more than %.3g", model, leaf->name, error / size,
			 size, bound);
	free(got);
}

static void check_on(const struct tiny_model *tiny, enum mt_dtype dtype, const char *device, double bound)
{
	struct leaves l = {0};
	struct plain_model plain = {.tape = &tape, .param = find_leaf, .context = &l, .seq = TINY_SEQ};
	struct mt_step_stats stats;
	int64_t tokens[TOKENS], targets[TOKENS];
	struct mt_run run;
	double loss, modules;

	set_tiny_run(&run, tiny);
	run.layout.dtype = dtype;
	run.train.lr = run.train.min_lr = run.train.weight_decay = run.train.clip = 0;
	run.data.path = mt_string("%s/data", scratch);
	run.data.shuffle = false;
	if (open_engine(&l.bench, &run, device, NULL) != MT_OK)
		fail_msg("%s", mt_error_message());
	make_leaves(&l);
	for (int i = 0; i < TOKENS; i++) {
		tokens[i] = data[i];
		targets[i] = data[i + 1];
	}
	plain.m = &run.model;
	loss = plain_loss_of(&plain, tokens, targets, TOKENS, &modules);
	plain_backward(&tape);
	if (mt_engine_step(l.bench.engine, &stats) != MT_OK)
		fail_msg("%s", mt_error_message());
	if (!(fabs(stats.loss - loss) <= bound * loss) || !(fabs(stats.mtp_loss - modules) <= bound * modules + 1e-300))
		fail_msg("%s: losses %.12g and %.12g, plain %.12g and %.12g", tiny->name, stats.loss, stats.mtp_loss, loss,
			 modules);
	for (int i = 0; i < mt_engine_param_count(l.bench.engine); i++)
		compare_gradient(&l, i, bound, tiny->name);
	close_engine(&l.bench);
	mt_run_free(&run);
	plain_free(&tape);
}

static void check(const struct tiny_model *tiny)
{
	check_on(tiny, MT_F64, "reference", 1e-11);
	check_on(tiny, MT_F32, "cpu", 1e-5);
}

static void gpt_equals_a_plain_implementation(void **state)
{
	check(&TINY_GPT);
}

static void llama_equals_a_plain_implementation(void **state)
{
	check(&TINY_LLAMA);
}

static void qwen_equals_a_plain_implementation(void **state)
{
	check(&TINY_QWEN);
	check(&TINY_BIASED);
}

static void deepseek_equals_a_plain_implementation(void **state)
{
	check(&TINY_DEEPSEEK);
	check(&TINY_DEEPSEEK_LITE);
}

static void experts_equal_a_plain_implementation(void **state)
{
	check(&TINY_MIXTRAL);
	check(&TINY_SMALL_EXPERTS);
	check(&TINY_SIGMOID_EXPERTS);
}

static void all_of_deepseek_equals_a_plain_implementation(void **state)
{
	check(&TINY_DEEPSEEK_FULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(gpt_equals_a_plain_implementation),
		cmocka_unit_test(llama_equals_a_plain_implementation),
		cmocka_unit_test(qwen_equals_a_plain_implementation),
		cmocka_unit_test(deepseek_equals_a_plain_implementation),
		cmocka_unit_test(experts_equal_a_plain_implementation),
		cmocka_unit_test(all_of_deepseek_equals_a_plain_implementation),
	};
	return cmocka_run_group_tests_name("engine against plain loops", tests, make_data, remove_data);
}
