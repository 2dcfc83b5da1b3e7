/* cost: see cost.h. */
#include "tuner/cost.h"

#include "tuner/memory.h"

#include <math.h>

static double comm_seconds(void *context, const struct mt_comm_key *key)
{
	const struct mt_cost_model *model = context;

	return mt_machine_comm_s(model->machine, key, NULL);
}

struct mt_cost_source mt_cost_ops(struct mt_cost_model *model)
{
	return (struct mt_cost_source){
		.op_s = mt_profile_op_s, .context = model->profile, .gpu_arch = mt_machine_gpu_arch(model->machine)};
}

struct mt_comm_cost_source mt_cost_comms(struct mt_cost_model *model)
{
	return (struct mt_comm_cost_source){.comm_s = comm_seconds, .context = model};
}

double mt_cost_transfer_s(const struct mt_cost_model *model, size_t bytes)
{
	const struct mt_machine_copies *copies = &model->machine->copies;
	double gbps = copies->to_device_gbps < copies->from_device_gbps ? copies->to_device_gbps : copies->from_device_gbps;

	return gbps > 0 ? (double)bytes / (gbps * 1e9) : 0;
}

bool mt_cost_scales(int32_t kind)
{
	return kind == MT_OP_FILL || kind == MT_OP_ADAMW || kind == MT_OP_SUMSQ || kind == MT_OP_CAST || kind == MT_OP_SGD ||
	       kind == MT_OP_COMBINE;
}

struct mt_profile_rates mt_cost_fallback(const struct mt_machine *machine, int threads, int busy_ranks)
{
	struct mt_profile_rates rates = {.overhead_s = 1e-6};

	for (int dtype = 0; dtype < MT_DTYPE_COUNT; dtype++)
		rates.flops_per_s[dtype] = mt_machine_tflops(machine, (enum mt_dtype)dtype, threads, busy_ranks) * 1e12;
	rates.bytes_per_s = machine->memory_gbps * 1e9 / (busy_ranks > 0 ? busy_ranks : 1);
	if (rates.bytes_per_s <= 0)
		rates.bytes_per_s = 10e9;
	if (rates.flops_per_s[MT_F32] <= 0)
		rates.flops_per_s[MT_F32] = 50e9;
	if (rates.flops_per_s[MT_BF16] <= 0)
		rates.flops_per_s[MT_BF16] = rates.flops_per_s[MT_F32];
	if (rates.flops_per_s[MT_F16] <= 0) /* as fast as bf16 on a GPU, through f32 on a processor */
		rates.flops_per_s[MT_F16] = rates.flops_per_s[machine->gpu_count > 0 ? MT_BF16 : MT_F32];
	rates.flops_per_s[MT_F64] = rates.flops_per_s[MT_F32] / 2;
	return rates;
}

/* 90% of a normal distribution lie within 1.645 standard deviations. Jitter of single kernels averages out over a step;
 * what is left is the machine's own, short and over minutes, and the model's error. Guessed kernels count with 30%. */
void mt_predict_interval(struct mt_candidate *candidate, const struct mt_cost_model *cost)
{
	double jitter = cost->machine->step_jitter_frac, drift = cost->machine->step_drift_frac,
	       guessed = 0.3 * candidate->guessed_frac;
	double sigma = sqrt(jitter * jitter + drift * drift + cost->model_error_frac * cost->model_error_frac + guessed * guessed);

	candidate->lo_s = candidate->step_s / (1 + 1.645 * sigma);
	candidate->hi_s = candidate->step_s * (1 + 1.645 * sigma);
}
