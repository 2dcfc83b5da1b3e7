/* reduce: element-wise reductions in host memory. */
#ifndef MT_COMM_REDUCE_H
#define MT_COMM_REDUCE_H

#include "comm/comm.h"

/* out[i] = a[i] op b[i]; out may be a or b. bf16 and f16 are added in f32 and rounded. A NaN on either side gives NaN. */
void mt_comm_combine(void *out, const void *a, const void *b, int64_t count, enum mt_dtype dtype, enum mt_reduction reduction);

#endif
