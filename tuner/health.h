/* health: the state of this host's GPUs over a run or a profile: power, energy, clocks and what held them back, temperature,
 * new memory errors. Read by the first rank, of the GPUs of its host. */
#ifndef MT_TUNER_HEALTH_H
#define MT_TUNER_HEALTH_H

#include "base/nvml.h"
#include "kernels/device.h"

#include <jansson.h>
#include <stdio.h>

/* NULL where the device is no GPU, or the driver gives no readings, which is noted in the log. */
struct mt_nvml_watch *mt_health_start(const struct mt_device *device);
/* A line a GPU. */
void mt_health_print(const struct mt_nvml_watched *list, int count, FILE *file);
/* A new reference: a list of objects; what is not known is null. */
json_t *mt_health_json(const struct mt_nvml_watched *list, int count);

#endif
