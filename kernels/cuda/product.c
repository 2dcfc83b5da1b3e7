/* product: matrix products through cuBLASLt, with a plan kept for each shape.
 *
 * cuBLASLt is column-major, so a row-major matrix (R,N) is its (N,R), and the three products of a linear layer are
 *   forward  y^T(N,R)  = w(N,K) x^T(K,R)      A = w transposed, B = x, bias along N as the epilogue
 *   dgrad    dx^T(K,R) = w^T(K,N) dy^T(N,R)   A = w, B = dy
 *   wgrad    dw^T(K,N) += x^T(K,R) dy(R,N)    A = x, B = dy transposed, C = D = dw in f32, beta 1
 * Of fp8 operands all come with the summed dimension contiguous (kernels/op.h), and both inverse scales are read on the device.
 * Epilogues (kernels/op.h): GELU with its input as the auxiliary matrix, which lies as D does, so its leading dimension is N of
 * forward and K of dgrad and must be a multiple of 8; the gradient through it from that matrix; and bias' gradients, along D's rows
 * with the latter and along B = dy^T in wgrad. cuBLASLt writes a bias' gradient where we add to one, so it goes to scratch and a
 * kernel adds it; and it writes it in D's type, so that dgrad has it in f32 only. product_fused.c decides what is done instead.
 * Sums are f32 (f64 for f64), TF32 is off. Partial sums of a split sum are kept in f32 and added in a fixed order, so a plan
 * gives the same bits each time. The algorithm of a plan is chosen when its shape is first met (product_measure.c). */
#include "kernels/cuda/cuda.h"

#include "kernels/fp8.h"

#include <stdlib.h>
#include <string.h>

enum { SUGGESTIONS = 8 };

/* What decides how a product is done. All bytes are compared. */
struct plan_key {
	int32_t kind, dtype, epilogue, fp8;
	int64_t rows, in, out;
	uint32_t a_align, b_align, c_align, bias_align, aux_align, unused;
};

struct cuda_plan {
	struct cuda_plan *next;
	struct plan_key key;
	struct cuda_product product;
	cublasLtMatmulAlgo_t algorithm;
	size_t workspace_bytes;
	bool impossible; /* cuBLASLt has no such epilogue for it */
};

struct operands {
	const void *a, *b, *bias;
	const void *a_inverse, *b_inverse; /* of fp8 */
	void *c;
	void *aux, *sums; /* GELU's input; where a bias' gradient is added */
	int64_t m, n, k;
	bool a_transposed, b_transposed;
};

static enum mt_status blas_fail(cublasStatus_t status, const char *what)
{
	enum mt_status st = status == CUBLAS_STATUS_NOT_SUPPORTED  ? MT_UNAVAILABLE
			    : status == CUBLAS_STATUS_ALLOC_FAILED ? MT_NOMEM
								   : MT_FAILED;
	return mt_fail(st, "cuBLASLt: %s: %s", what, cublasLtGetStatusString(status));
}

#define BLAS_TRY(call)                                                                                                             \
	do {                                                                                                                       \
		cublasStatus_t blas_try_status_ = (call);                                                                          \
		if (blas_try_status_ != CUBLAS_STATUS_SUCCESS)                                                                     \
			return blas_fail(blas_try_status_, #call);                                                                 \
	} while (0)

static cudaDataType_t type_of(enum mt_dtype dtype)
{
	if (mt_dtype_is_fp8(dtype))
		return dtype == MT_E4M3 ? CUDA_R_8F_E4M3 : CUDA_R_8F_E5M2;
	return dtype == MT_F64 ? CUDA_R_64F : dtype == MT_BF16 ? CUDA_R_16BF : dtype == MT_F16 ? CUDA_R_16F : CUDA_R_32F;
}

/* In fp8 all three are y^T = A^T B, the one form that the tensor cores of sm_89 and sm_90 have, on operands that come turned. */
static struct operands fp8_operands_of(const struct mt_op *op)
{
	const struct mt_linear *l = &op->linear;
	struct operands o = {.a_transposed = true};
	switch (op->kind) {
	case MT_OP_LINEAR:
		o.a = l->w, o.b = l->x, o.c = l->y, o.bias = l->bias;
		o.a_inverse = l->w_inverse, o.b_inverse = l->x_inverse;
		o.m = l->out, o.n = l->rows, o.k = l->in;
		return o;
	case MT_OP_LINEAR_DGRAD:
		o.a = l->w, o.b = l->dy, o.c = l->dx;
		o.a_inverse = l->w_inverse, o.b_inverse = l->dy_inverse;
		o.m = l->in, o.n = l->rows, o.k = l->out;
		return o;
	default:
		o.a = l->x, o.b = l->dy, o.c = l->dw;
		o.a_inverse = l->x_inverse, o.b_inverse = l->dy_inverse;
		o.m = l->in, o.n = l->out, o.k = l->rows;
		return o;
	}
}

static struct operands plain_operands_of(const struct mt_op *op)
{
	const struct mt_linear *l = &op->linear;
	if (l->fp8)
		return fp8_operands_of(op);
	switch (op->kind) {
	case MT_OP_LINEAR:
		return (struct operands){.a = l->w,
					 .b = l->x,
					 .bias = l->bias,
					 .c = l->y,
					 .m = l->out,
					 .n = l->rows,
					 .k = l->in,
					 .a_transposed = true};
	case MT_OP_LINEAR_DGRAD:
		return (struct operands){.a = l->w, .b = l->dy, .c = l->dx, .m = l->in, .n = l->rows, .k = l->out};
	default:
		return (struct operands){
			.a = l->x, .b = l->dy, .c = l->dw, .m = l->in, .n = l->out, .k = l->rows, .b_transposed = true};
	}
}

static struct operands operands_of(const struct mt_op *op)
{
	struct operands o = plain_operands_of(op);
	o.aux = op->kind == MT_OP_LINEAR_WGRAD ? NULL : op->linear.pre;
	o.sums = op->kind == MT_OP_LINEAR ? NULL : op->linear.dbias;
	return o;
}

static cublasLtEpilogue_t epilogue_of(const struct mt_op *op, const struct operands *o)
{
	if (op->kind == MT_OP_LINEAR && o->aux)
		return o->bias ? CUBLASLT_EPILOGUE_GELU_AUX_BIAS : CUBLASLT_EPILOGUE_GELU_AUX;
	if (o->aux)
		return o->sums ? CUBLASLT_EPILOGUE_DGELU_BGRAD : CUBLASLT_EPILOGUE_DGELU;
	if (o->sums)
		return CUBLASLT_EPILOGUE_BGRADB;
	return o->bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
}

/* The largest power of two up to 256 that divides the address. */
static uint32_t align_of(const void *pointer)
{
	uintptr_t value = (uintptr_t)pointer | 256;
	return (uint32_t)(value & -value);
}

static void set_key(struct plan_key *key, const struct mt_op *op, const struct operands *o)
{
	memset(key, 0, sizeof *key);
	key->kind = (int32_t)op->kind;
	key->dtype = (int32_t)op->dtype;
	key->epilogue = (int32_t)epilogue_of(op, o);
	key->fp8 = op->linear.fp8;
	key->rows = op->linear.rows;
	key->in = op->linear.in;
	key->out = op->linear.out;
	key->a_align = align_of(o->a);
	key->b_align = align_of(o->b);
	key->c_align = align_of(o->c);
	key->bias_align = o->bias ? align_of(o->bias) : 0;
	key->aux_align = o->aux ? align_of(o->aux) : 0;
}

static void free_product(struct cuda_product *p)
{
	cublasLtMatmulDescDestroy(p->how);
	cublasLtMatrixLayoutDestroy(p->a);
	cublasLtMatrixLayoutDestroy(p->b);
	cublasLtMatrixLayoutDestroy(p->c);
}

static enum mt_status set_pointers(const struct cuda_product *p, const void *bias, const void *aux)
{
	if (bias)
		BLAS_TRY(cublasLtMatmulDescSetAttribute(p->how, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias));
	if (aux)
		BLAS_TRY(cublasLtMatmulDescSetAttribute(p->how, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, &aux, sizeof aux));
	return MT_OK;
}

/* What is done with the sums; c_dtype is known. Vectors of sums are of D's type, and no gradient of a parameter may be rounded. */
static enum mt_status describe_epilogue(struct cuda_product *p, const struct mt_op *op, const struct operands *o)
{
	cublasLtEpilogue_t epilogue = epilogue_of(op, o);
	const void *scratch =
		(const void *)(uintptr_t)MT_ARENA_ALIGN_BYTES; /* where sums go is not yet known but for its alignment */
	int64_t ld = o->m;

	if (epilogue == CUBLASLT_EPILOGUE_DEFAULT)
		return MT_OK;
	if (o->sums && p->c_dtype != MT_F32)
		return MT_UNAVAILABLE;
	if (o->aux && (ld % 8 != 0 || align_of(o->aux) < 16))
		return MT_UNAVAILABLE;
	p->aux_bytes = o->aux ? (size_t)(o->m * o->n) * mt_dtype_bytes(op->dtype) : 0;
	p->aux_written = op->kind == MT_OP_LINEAR;
	p->sums_bytes = o->sums ? (size_t)(op->kind == MT_OP_LINEAR_DGRAD ? o->m : o->n) * mt_dtype_bytes(p->c_dtype) : 0;
	BLAS_TRY(cublasLtMatmulDescSetAttribute(p->how, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue));
	if (o->aux)
		BLAS_TRY(cublasLtMatmulDescSetAttribute(p->how, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, &ld, sizeof ld));
	return set_pointers(p, o->sums ? scratch : o->bias, o->aux);
}

/* What the sums are multiplied by: both inverse scales, read on the device. */
static enum mt_status set_scales(const struct cuda_product *p, const struct operands *o)
{
	BLAS_TRY(cublasLtMatmulDescSetAttribute(p->how, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &o->a_inverse, sizeof o->a_inverse));
	BLAS_TRY(cublasLtMatmulDescSetAttribute(p->how, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &o->b_inverse, sizeof o->b_inverse));
	return MT_OK;
}

static enum mt_status describe(struct cuda_product *p, const struct mt_op *op, const struct operands *o)
{
	cublasOperation_t turned = CUBLAS_OP_T;
	int64_t a_rows = o->a_transposed ? o->k : o->m, a_cols = o->a_transposed ? o->m : o->k;
	int64_t b_rows = o->b_transposed ? o->n : o->k, b_cols = o->b_transposed ? o->k : o->n;
	bool wide = op->dtype == MT_F64;

	p->dtype = p->a_dtype = p->b_dtype = op->dtype;
	if (op->linear.fp8) {
		p->a_dtype = MT_E4M3;
		p->b_dtype = op->kind == MT_OP_LINEAR ? MT_E4M3 : mt_fp8_gradient(op->linear.fp8);
	}
	p->c_dtype = op->kind == MT_OP_LINEAR_WGRAD && !wide ? MT_F32 : op->dtype;
	p->beta = op->kind == MT_OP_LINEAR_WGRAD ? 1 : 0;
	p->a_bytes = (size_t)(a_rows * a_cols) * mt_dtype_bytes(p->a_dtype);
	p->b_bytes = (size_t)(b_rows * b_cols) * mt_dtype_bytes(p->b_dtype);
	p->c_bytes = (size_t)(o->m * o->n) * mt_dtype_bytes(p->c_dtype);
	BLAS_TRY(cublasLtMatmulDescCreate(&p->how, wide ? CUBLAS_COMPUTE_64F : CUBLAS_COMPUTE_32F, wide ? CUDA_R_64F : CUDA_R_32F));
	if (o->a_transposed)
		BLAS_TRY(cublasLtMatmulDescSetAttribute(p->how, CUBLASLT_MATMUL_DESC_TRANSA, &turned, sizeof turned));
	if (o->b_transposed)
		BLAS_TRY(cublasLtMatmulDescSetAttribute(p->how, CUBLASLT_MATMUL_DESC_TRANSB, &turned, sizeof turned));
	MT_TRY(describe_epilogue(p, op, o));
	if (op->linear.fp8)
		MT_TRY(set_scales(p, o));
	BLAS_TRY(cublasLtMatrixLayoutCreate(&p->a, type_of(p->a_dtype), (uint64_t)a_rows, (uint64_t)a_cols, a_rows));
	BLAS_TRY(cublasLtMatrixLayoutCreate(&p->b, type_of(p->b_dtype), (uint64_t)b_rows, (uint64_t)b_cols, b_rows));
	BLAS_TRY(cublasLtMatrixLayoutCreate(&p->c, type_of(p->c_dtype), (uint64_t)o->m, (uint64_t)o->n, o->m));
	return MT_OK;
}

static enum mt_status prefer(cublasLtMatmulPreference_t preference, const struct plan_key *key, size_t workspace_bytes)
{
	uint32_t schemes = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
	const struct {
		cublasLtMatmulPreferenceAttributes_t attribute;
		const void *value;
		size_t bytes;
	} settings[] = {
		{CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace_bytes, sizeof workspace_bytes},
		{CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &schemes, sizeof schemes},
		{CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &key->a_align, sizeof key->a_align},
		{CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &key->b_align, sizeof key->b_align},
		{CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &key->c_align, sizeof key->c_align},
		{CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &key->c_align, sizeof key->c_align},
	};
	for (size_t i = 0; i < sizeof settings / sizeof settings[0]; i++)
		BLAS_TRY(cublasLtMatmulPreferenceSetAttribute(preference, settings[i].attribute, settings[i].value,
							      settings[i].bytes));
	return MT_OK;
}

static enum mt_status choose_algorithm(struct cuda_device *cuda, struct mt_stream *stream, struct cuda_plan *plan)
{
	cublasLtMatmulHeuristicResult_t suggested[SUGGESTIONS];
	cublasLtMatmulPreference_t preference;
	const struct cuda_product *p = &plan->product;
	int count = 0, chosen = 0;

	BLAS_TRY(cublasLtMatmulPreferenceCreate(&preference));
	enum mt_status st = prefer(preference, &plan->key, cuda->workspace_bytes);
	cublasStatus_t status = CUBLAS_STATUS_SUCCESS;
	if (st == MT_OK)
		status = cublasLtMatmulAlgoGetHeuristic(cuda->blas, p->how, p->a, p->b, p->c, p->c, preference, SUGGESTIONS,
							suggested, &count);
	cublasLtMatmulPreferenceDestroy(preference);
	bool none = status == CUBLAS_STATUS_NOT_SUPPORTED || status == CUBLAS_STATUS_INVALID_VALUE || count == 0;
	if (st == MT_OK && none && (p->aux_bytes || p->sums_bytes))
		return MT_UNAVAILABLE; /* no such epilogue */
	if (st == MT_OK && (status != CUBLAS_STATUS_SUCCESS || count == 0))
		st = blas_fail(
			status == CUBLAS_STATUS_SUCCESS ? CUBLAS_STATUS_NOT_SUPPORTED : status,
			plan->key.fp8
				? "no algorithm for a product in fp8, which needs sm_89 or later and every size a multiple of 16"
				: "no algorithm for a product");
	if (st == MT_OK && count > 1 && cuda->choice != CUDA_CHOICE_FIRST)
		st = cuda_product_choose(cuda, stream, p, suggested, count, &chosen);
	if (st != MT_OK)
		return st;
	plan->algorithm = suggested[chosen].algo;
	plan->workspace_bytes = suggested[chosen].workspaceSize;
	return MT_OK;
}

static enum mt_status make_plan(struct cuda_device *cuda, struct mt_stream *stream, const struct mt_op *op,
				const struct operands *o, const struct plan_key *key, struct cuda_plan **plan)
{
	struct cuda_plan *made = calloc(1, sizeof *made);
	if (!made)
		return mt_fail(MT_NOMEM, "CUDA: no host memory for the plan of a product");
	made->key = *key;
	enum mt_status st = describe(&made->product, op, o);
	if (st == MT_OK)
		st = choose_algorithm(cuda, stream, made);
	made->impossible = st == MT_UNAVAILABLE && (o->aux || o->sums);
	if (st != MT_OK && !made->impossible) {
		free_product(&made->product);
		free(made);
		return st;
	}
	if (made->impossible)
		mt_error_clear();
	made->next = cuda->plans;
	cuda->plans = *plan = made;
	return MT_OK;
}

enum mt_status cuda_product_run(struct cuda_device *cuda, struct mt_stream *stream, const struct cuda_product *p,
				const struct cuda_operands *at, const cublasLtMatmulAlgo_t *algorithm, size_t workspace_bytes,
				void **sums)
{
	const float one = 1, beta = (float)p->beta;
	const double one_wide = 1, beta_wide = p->beta;
	bool wide = p->dtype == MT_F64;
	void *workspace, *bias = at->bias;
	size_t before = (workspace_bytes + MT_ARENA_ALIGN_BYTES - 1) / MT_ARENA_ALIGN_BYTES * MT_ARENA_ALIGN_BYTES;
	MT_TRY(cuda_scratch(stream, before + p->sums_bytes, &workspace));
	if (p->sums_bytes && !bias)
		*sums = bias = (void *)((uintptr_t)workspace + before);
	MT_TRY(set_pointers(p, bias, at->aux));
	BLAS_TRY(cublasLtMatmul(cuda->blas, p->how, wide ? (const void *)&one_wide : &one, at->a, p->a, at->b, p->b,
				wide ? (const void *)&beta_wide : &beta, at->c, p->c, at->c, p->c, algorithm, workspace,
				workspace_bytes, cuda_stream(stream)));
	return MT_OK;
}

/* Shapes are few, and the last plan used is often the next: the list is searched from the front, where each plan found goes. */
static struct cuda_plan *find_plan(struct cuda_device *cuda, const struct plan_key *key)
{
	for (struct cuda_plan **at = &cuda->plans; *at; at = &(*at)->next) {
		struct cuda_plan *plan = *at;
		if (memcmp(&plan->key, key, sizeof *key) != 0)
			continue;
		*at = plan->next;
		plan->next = cuda->plans;
		return cuda->plans = plan;
	}
	return NULL;
}

/* dbias += what cuBLASLt left in scratch. */
static enum mt_status add_sums(struct cuda_device *cuda, struct mt_stream *stream, const struct operands *o,
			       const struct cuda_product *p, const void *sums)
{
	struct mt_cuda_launch launch = cuda->launch;
	struct mt_op op = {.kind = MT_OP_COMBINE, .dtype = p->c_dtype};
	op.combine = (struct mt_combine){.count = (int64_t)(p->sums_bytes / mt_dtype_bytes(p->c_dtype)),
					 .alpha = 1,
					 .beta = 1,
					 .a = o->sums,
					 .b = sums,
					 .out = o->sums};
	launch.stream = cuda_stream(stream);
	return mt_cuda_combine(&launch, &op);
}

static enum mt_status run_plan(struct cuda_device *cuda, struct mt_stream *stream, const struct cuda_plan *plan,
			       const struct operands *o)
{
	const struct cuda_operands at = {.a = o->a, .b = o->b, .c = o->c, .bias = (void *)(uintptr_t)o->bias, .aux = o->aux};
	void *sums = NULL;
	MT_TRY(cuda_product_run(cuda, stream, &plan->product, &at, &plan->algorithm, plan->workspace_bytes, &sums));
	return sums ? add_sums(cuda, stream, o, &plan->product, sums) : MT_OK;
}

static enum mt_status get_plan(struct cuda_device *cuda, struct mt_stream *stream, const struct mt_op *op, const struct operands *o,
			       struct cuda_plan **plan)
{
	struct plan_key key;
	set_key(&key, op, o);
	*plan = find_plan(cuda, &key);
	return *plan ? MT_OK : make_plan(cuda, stream, op, o, &key, plan);
}

enum mt_status cuda_product_plan(struct mt_device *device, struct mt_stream *stream, const struct mt_op *op, bool *possible)
{
	struct operands o = operands_of(op);
	struct cuda_plan *plan;
	MT_TRY(get_plan(cuda_of(device), stream, op, &o, &plan));
	*possible = !plan->impossible;
	return MT_OK;
}

enum mt_status cuda_product_whole(struct mt_device *device, struct mt_stream *stream, const struct mt_op *op)
{
	struct cuda_device *cuda = cuda_of(device);
	struct operands o = operands_of(op);
	struct cuda_plan *plan;
	MT_TRY(get_plan(cuda, stream, op, &o, &plan));
	if (plan->impossible)
		return mt_fail(MT_UNAVAILABLE, "cuBLASLt has no such epilogue for a product");
	if (op->linear.fp8)
		MT_TRY(set_scales(&plan->product, &o));
	return run_plan(cuda, stream, plan, &o);
}

enum mt_status cuda_product(struct mt_device *device, struct mt_stream *stream, const struct mt_op *op)
{
	if (op->dtype == MT_I32)
		return mt_fail(MT_UNAVAILABLE, "%s: no CUDA product for %s", mt_op_name(op->kind), mt_dtype_name(op->dtype));
	return mt_op_is_fused(op) ? cuda_product_fused(device, stream, op) : cuda_product_whole(device, stream, op);
}

enum mt_status cuda_product_once(struct mt_device *device, struct mt_stream *stream, const struct mt_op *op)
{
	struct cuda_device *cuda = cuda_of(device);
	struct operands o = operands_of(op);
	enum cuda_choice kept = cuda->choice;
	struct cuda_plan plan = {0};
	if (op->dtype == MT_I32)
		return mt_fail(MT_UNAVAILABLE, "%s: no CUDA product for %s", mt_op_name(op->kind), mt_dtype_name(op->dtype));
	set_key(&plan.key, op, &o);
	enum mt_status st = describe(&plan.product, op, &o);
	cuda->choice = CUDA_CHOICE_FIRST;
	if (st == MT_OK)
		st = choose_algorithm(cuda, stream, &plan);
	cuda->choice = kept;
	if (st == MT_OK)
		st = run_plan(cuda, stream, &plan, &o);
	free_product(&plan.product);
	return st;
}

static enum mt_status read_choice(enum cuda_choice *choice)
{
	static const char *const names[] = {
		[CUDA_CHOICE_FIRST] = "first", [CUDA_CHOICE_SAME] = "same", [CUDA_CHOICE_FASTEST] = "fastest"};
	const char *wish = getenv("MEGATUNE_CUBLASLT");
	*choice = CUDA_CHOICE_SAME;
	if (!wish || !*wish)
		return MT_OK;
	for (int i = 0; i <= CUDA_CHOICE_FASTEST; i++) {
		if (strcmp(wish, names[i]) != 0)
			continue;
		*choice = (enum cuda_choice)i;
		return MT_OK;
	}
	return mt_fail(MT_INPUT,
		       "MEGATUNE_CUBLASLT is '%s': first (nothing is measured), same (the fastest of the same bits), fastest, "
		       "or not set",
		       wish);
}

enum mt_status cuda_products_open(struct cuda_device *cuda)
{
	MT_TRY(read_choice(&cuda->choice));
	cuda->workspace_bytes = mt_gpu_workspace_bytes(cuda->launch.arch);
	BLAS_TRY(cublasLtCreate(&cuda->blas));
	return MT_OK;
}

void cuda_products_close(struct cuda_device *cuda)
{
	cuda_splits_close(cuda);
	while (cuda->plans) {
		struct cuda_plan *next = cuda->plans->next;
		free_product(&cuda->plans->product);
		free(cuda->plans);
		cuda->plans = next;
	}
	if (cuda->blas)
		cublasLtDestroy(cuda->blas);
}
