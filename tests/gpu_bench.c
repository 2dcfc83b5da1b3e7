/* gpu_bench: how far each kernel of a device is from its floor, at the shapes of two models' training steps.
 *   gpu_bench [DEVICE [few]]          (cuda; few: small shapes)
 *
 * The floor of an operation is the longer of its FLOPs over the product rate and its bytes over the memory's rate (kernels/op.h
 * says what they are); both rates are measured first, with the device's own kernels: products of large cubes, and the best of
 * copies, sums and casts of arrays larger than any cache. Times are medians of an operation alone (profiles/profile.h says how). */
#include "engine/model.h"
#include "kernels/rate.h"
#include "profiles/profile.h"
#include "tests/gpu_device.h"

struct bench {
	struct mt_device *device;
	struct mt_profile *profile;
	double flops_per_s[MT_DTYPE_COUNT], bytes_per_s, budget_s;
	enum mt_dtype dtype;
	int failed, skipped;
};

/* Seconds of an operation alone; 0 and a message when it could not be measured. */
static double seconds_of(struct bench *b, const struct mt_op_key *key, const char *text)
{
	int source = 0;
	enum mt_status st = mt_profile_measure(b->profile, b->device, key, b->budget_s);
	double seconds = st == MT_OK ? mt_profile_op_cost(b->profile, key, &source, NULL) : 0;
	if (st == MT_OK && source == 0 && seconds > 0)
		return seconds;
	printf("%-48s %s\n", text, st == MT_OK ? "has no time" : mt_error_message());
	st == MT_UNAVAILABLE ? b->skipped++ : b->failed++;
	mt_error_clear();
	return 0;
}

static void row(struct bench *b, enum mt_op_kind kind, const int64_t dims[MT_OP_DIMS])
{
	struct mt_op_key key = {.kind = kind, .dtype = (int32_t)b->dtype};
	char text[96];
	memcpy(key.dims, dims, sizeof key.dims);
	mt_op_key_text(&key, text);
	const double s = seconds_of(b, &key, text);
	if (s == 0)
		return;
	const double flops = mt_op_key_flops(&key), bytes = mt_op_key_bytes(&key);
	const double compute_s = flops / b->flops_per_s[b->dtype], memory_s = bytes / b->bytes_per_s;
	const double floor_s = compute_s > memory_s ? compute_s : memory_s;
	printf("%-48s %10.1f us  floor %9.1f us (%s)  %5.2f of it", text, s * 1e6, floor_s * 1e6,
	       compute_s > memory_s ? "FLOPs" : "bytes", floor_s / s);
	if (flops > 0)
		printf("  %8.2f TFLOP/s\n", flops / s * 1e-12);
	else
		printf("  %8.1f GB/s\n", bytes / s * 1e-9);
	fflush(stdout);
}
#define ROW(b, kind, ...) row(b, kind, (const int64_t[MT_OP_DIMS]){__VA_ARGS__})

static void products(struct bench *b, const struct mt_model *m, int64_t rows)
{
	const int64_t c = m->hidden, up = m->mlp == MT_MODEL_SWIGLU ? 2 * m->ffn : m->ffn;
	const int64_t shapes[][2] = {
		{c, (m->heads + 2 * m->kv_heads) * m->head_dim}, {m->heads * m->head_dim, c}, {c, up}, {m->ffn, c}};
	for (int i = 0; i < 4; i++) {
		ROW(b, MT_OP_LINEAR, rows, shapes[i][0], shapes[i][1], m->bias);
		ROW(b, MT_OP_LINEAR_DGRAD, rows, shapes[i][0], shapes[i][1]);
		ROW(b, MT_OP_LINEAR_WGRAD, rows, shapes[i][0], shapes[i][1]);
	}
	if (m->mlp != MT_MODEL_SWIGLU) {
		ROW(b, MT_OP_LINEAR, rows, c, m->ffn, MT_LINEAR_GELU | (m->bias ? MT_LINEAR_BIAS : 0));
		ROW(b, MT_OP_LINEAR_DGRAD, rows, m->ffn, c, MT_LINEAR_GELU);
	}
	if (m->bias)
		ROW(b, MT_OP_LINEAR_WGRAD, rows, c, m->ffn, MT_LINEAR_DBIAS);
	ROW(b, MT_OP_LINEAR, rows, c, m->vocab);
	ROW(b, MT_OP_LINEAR_DGRAD, rows, c, m->vocab);
	ROW(b, MT_OP_LINEAR_WGRAD, rows, c, m->vocab);
}

static void layers(struct bench *b, const struct mt_model *m, int64_t batch, int64_t seq)
{
	const int64_t rows = batch * seq, norm = m->norm == MT_MODEL_RMSNORM ? MT_NORM_RMS : MT_NORM_LAYER;
	const int64_t activation = m->mlp == MT_MODEL_SWIGLU ? MT_SWIGLU : MT_GELU;
	ROW(b, MT_OP_ATTENTION, batch, seq, m->heads, m->kv_heads, m->head_dim);
	ROW(b, MT_OP_ATTENTION_BWD, batch, seq, m->heads, m->kv_heads, m->head_dim);
	ROW(b, MT_OP_NORM, norm, rows, m->hidden, 1);
	ROW(b, MT_OP_NORM_BWD, norm, rows, m->hidden, 1);
	ROW(b, MT_OP_ACTIVATION, activation, rows, m->ffn);
	ROW(b, MT_OP_ACTIVATION_BWD, activation, rows, m->ffn);
	if (m->position == MT_MODEL_ROPE)
		ROW(b, MT_OP_ROPE, batch, seq, m->heads, m->head_dim);
	if (m->bias)
		ROW(b, MT_OP_BIAS_GRAD, rows, m->ffn);
	ROW(b, MT_OP_ADD, rows, m->hidden, 1);
	ROW(b, MT_OP_COPY, rows, m->hidden);
}

static void ends(struct bench *b, const struct mt_model *m, int64_t rows, int64_t seq)
{
	ROW(b, MT_OP_EMBEDDING, rows, m->hidden, seq, m->vocab);
	ROW(b, MT_OP_EMBEDDING_BWD, rows, m->hidden, seq, m->vocab);
	ROW(b, MT_OP_LOSS_STATS, rows, m->vocab);
	ROW(b, MT_OP_LOSS, rows, m->vocab, 1, 1);
}

/* Of all parameters of one layer together. */
static void optimizer(struct bench *b, const struct mt_model *m)
{
	const int64_t count = mt_model_matmul_parameters(m) / m->layers;
	ROW(b, MT_OP_ADAMW, count);
	ROW(b, MT_OP_SUMSQ, count);
	ROW(b, MT_OP_FILL, count, MT_F32);
	ROW(b, MT_OP_CAST, count, MT_F32, MT_BF16);
}

static enum mt_status bench_model(struct bench *b, const char *name, int64_t batch, int64_t seq)
{
	struct mt_model model = {0};
	MT_TRY(mt_model_load(&model, name));
	printf("\n%s, %lld x %lld tokens, %s\n", model.name, (long long)batch, (long long)seq, mt_dtype_name(b->dtype));
	products(b, &model, batch * seq);
	layers(b, &model, batch, seq);
	ends(b, &model, batch * seq, seq);
	optimizer(b, &model);
	mt_model_free(&model);
	return MT_OK;
}

static enum mt_status measure_peaks(struct bench *b, int64_t cube, int64_t elements)
{
	const struct mt_op_key keys[] = {
		{.kind = MT_OP_COPY, .dtype = MT_F32, .dims = {elements >> 12, 4096}},
		{.kind = MT_OP_ADD, .dtype = MT_F32, .dims = {elements >> 12, 4096, 1}},
		{.kind = MT_OP_CAST, .dtype = MT_BF16, .dims = {elements, MT_F32, MT_BF16}},
	};
	for (int dtype = MT_F32; dtype <= MT_BF16; dtype++)
		MT_TRY(mt_device_product_rate(b->device, (enum mt_dtype)dtype, cube, 2 * b->budget_s, &b->flops_per_s[dtype],
					      NULL));
	for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
		const double s = seconds_of(b, &keys[i], mt_op_name((enum mt_op_kind)keys[i].kind));
		const double rate = s > 0 ? mt_op_key_bytes(&keys[i]) / s : 0;
		b->bytes_per_s = rate > b->bytes_per_s ? rate : b->bytes_per_s;
	}
	if (b->bytes_per_s <= 0)
		return mt_fail(MT_FAILED, "the rate of the memory could not be measured");
	printf("peaks measured: %lld-cube products f32 %.2f, bf16 %.2f TFLOP/s; memory %.1f GB/s\n", (long long)cube,
	       b->flops_per_s[MT_F32] * 1e-12, b->flops_per_s[MT_BF16] * 1e-12, b->bytes_per_s * 1e-9);
	return MT_OK;
}

static enum mt_status bench_all(struct bench *b, bool few)
{
	MT_TRY(measure_peaks(b, few ? 256 : 8192, few ? 1 << 20 : 1 << 28));
	b->dtype = MT_F32;
	MT_TRY(few ? bench_model(b, "gpt-tiny", 1, 32) : bench_model(b, "gpt2-124m", 8, 1024));
	b->dtype = MT_BF16;
	MT_TRY(few ? bench_model(b, "llama-tiny", 1, 32) : bench_model(b, "gpt2-124m", 8, 1024));
	return few ? MT_OK : bench_model(b, "llama3-8b", 1, 8192);
}

int main(int argc, char **argv)
{
	const bool few = argc > 2 && strcmp(argv[2], "few") == 0;
	struct bench b = {.budget_s = few ? 0.005 : 0.15};
	enum mt_status st = gpu_device_open(&b.device, argc > 1 ? argv[1] : "cuda", 0);

	if (st != MT_OK)
		return gpu_device_missing(st);
	printf("%s: %s, %s\n", b.device->info.kind, b.device->info.name, b.device->info.libraries);
	MT_GOTO(out, mt_profile_create(&b.profile, b.device->info.threads, 1, NULL));
	st = bench_all(&b, few);
out:
	if (st != MT_OK)
		printf("failed: %s\n", mt_error_message());
	if (b.failed || b.skipped)
		printf("%d operations failed, %d could not be measured here\n", b.failed, b.skipped);
	mt_profile_destroy(b.profile);
	mt_device_destroy(b.device);
	return st != MT_OK || b.failed > 0;
}
