/* update: sgd      g = grad * grad_scale + decay master,  m = momentum m + g,  master -= lr (nesterov ? g + momentum m : m)
 *                  param = master in dtype; param may be master when they are of one type
 *         combine  out = alpha a + beta b, alpha divided by sqrt(*norm2) + eps where norm2 is given
 * grad, master, m, a, b, out f32. Moves each operand once: bandwidth-bound. */
#include "kernels/cuda/vector.cuh"

struct sgd_arguments {
	const float *grad;
	float *master, *m;
	int64_t count;
	float lr, momentum, decay, grad_scale;
	bool nesterov;
};

template <typename T, int N> __global__ void __launch_bounds__(MT_CUDA_THREADS) sgd_step(struct sgd_arguments a, T *param)
{
	for (int64_t i = first_item() * N; i < a.count; i += item_stride() * N) {
		float g[N], master[N], m[N];
		load_values<float, N>(a.grad + i, a.count - i, g);
		load_values<float, N>(a.master + i, a.count - i, master);
		if (a.m)
			load_values<float, N>(a.m + i, a.count - i, m);
#pragma unroll
		for (int n = 0; n < N; n++) {
			g[n] = g[n] * a.grad_scale + a.decay * master[n];
			float step = g[n];
			if (a.m) {
				m[n] = a.momentum * m[n] + g[n];
				step = a.nesterov ? g[n] + a.momentum * m[n] : m[n];
			}
			master[n] -= a.lr * step;
		}
		if (a.m)
			store_values<float, N>(a.m + i, a.count - i, m);
		store_values<float, N>(a.master + i, a.count - i, master);
		for (int n = 0; n < N && i + n < a.count; n++)
			param[i + n] = from_f32<T>(master[n]);
	}
}

template <typename T> static void launch_sgd(const struct mt_cuda_launch *launch, const struct mt_sgd *s)
{
	struct sgd_arguments a;
	a.grad = static_cast<const float *>(s->grad), a.master = static_cast<float *>(s->master), a.m = static_cast<float *>(s->m);
	a.count = s->count, a.nesterov = s->nesterov;
	a.lr = (float)s->lr, a.momentum = (float)s->momentum, a.decay = (float)s->decay, a.grad_scale = (float)s->grad_scale;
	T *param = static_cast<T *>(s->param);
	if (aligned(s->grad, s->master) && (!s->m || aligned(s->m)))
		MT_LAUNCH((sgd_step<T, 4>), grid_for(launch, divide_up(s->count, 4)), MT_CUDA_THREADS, 0, launch->stream, a,
			  param);
	else
		MT_LAUNCH((sgd_step<T, 1>), grid_for(launch, s->count), MT_CUDA_THREADS, 0, launch->stream, a, param);
}

enum mt_status mt_cuda_sgd(struct mt_cuda_launch *launch, const struct mt_op *op)
{
	if (!has_type(op->dtype))
		return mt_cuda_no_kernel(op);
	if (op->sgd.count == 0)
		return MT_OK;
	MT_BY_TYPE(op->dtype, launch_sgd, launch, &op->sgd);
	return mt_cuda_launched(op);
}

template <int N>
__global__ void __launch_bounds__(MT_CUDA_THREADS) combine_tensors(const float *a, const float *b, const double *norm2, float *out,
								   int64_t count, double alpha, float beta, double eps)
{
	const float factor = (float)(norm2 ? alpha / (sqrt(*norm2) + eps) : alpha);
	for (int64_t i = first_item() * N; i < count; i += item_stride() * N) {
		float x[N], y[N];
		load_values<float, N>(a + i, count - i, x);
		if (b)
			load_values<float, N>(b + i, count - i, y);
#pragma unroll
		for (int n = 0; n < N; n++)
			x[n] = b ? factor * x[n] + beta * y[n] : factor * x[n];
		store_values<float, N>(out + i, count - i, x);
	}
}

enum mt_status mt_cuda_combine(struct mt_cuda_launch *launch, const struct mt_op *op)
{
	const struct mt_combine *c = &op->combine;
	const float *a = static_cast<const float *>(c->a), *b = static_cast<const float *>(c->b);
	const double *norm2 = static_cast<const double *>(c->norm2);
	float *out = static_cast<float *>(c->out);
	if (!has_type(op->dtype))
		return mt_cuda_no_kernel(op);
	if (c->count == 0)
		return MT_OK;
	if (aligned(a, out) && (!b || aligned(b)))
		MT_LAUNCH(combine_tensors<4>, grid_for(launch, divide_up(c->count, 4)), MT_CUDA_THREADS, 0, launch->stream, a, b,
			  norm2, out, c->count, c->alpha, (float)c->beta, c->eps);
	else
		MT_LAUNCH(combine_tensors<1>, grid_for(launch, c->count), MT_CUDA_THREADS, 0, launch->stream, a, b, norm2, out,
			  c->count, c->alpha, (float)c->beta, c->eps);
	return mt_cuda_launched(op);
}
