/* rate: the matrix product rate that a device reaches, against which utilisation is told where no specification is known. */
#ifndef MT_KERNELS_RATE_H
#define MT_KERNELS_RATE_H

#include "kernels/device.h"

/* Products of 1024-cubes (or `size`-cubes) of `dtype`, repeated for about `budget_s` after a warm-up: FLOP/s of the median
 * repetition, and its MAD (may be NULL). MT_UNAVAILABLE when the device has no such product. */
enum mt_status mt_device_product_rate(struct mt_device *device, enum mt_dtype dtype, int64_t size, double budget_s,
				      double *flops_per_s, double *spread);

#endif
