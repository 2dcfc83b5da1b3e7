/* fit_gpu: whether a run's layout fits the GPU's memory, by its dry run, before anything is made there. */
#ifndef MT_TUNER_FIT_GPU_H
#define MT_TUNER_FIT_GPU_H

#include "engine/run.h"
#include "kernels/device.h"

/* `sharing`: ranks that share a GPU of this kind. MT_INPUT when the arenas alone are more than there is: the message says of which
 * stage, its largest arena, and the nearest layout that would fit. Less than the context and NCCL want beside it is a warning that
 * says the same. Nothing is done on devices whose memory is the host's. */
enum mt_status mt_gpu_fit_check(const struct mt_run *run, const struct mt_device *device, int sharing);

#endif
