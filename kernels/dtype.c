/* dtype: names of element types. */
#include "kernels/dtype.h"

const char *mt_dtype_name(enum mt_dtype dtype)
{
	static const char *const names[MT_DTYPE_COUNT] = {[MT_F32] = "f32", [MT_BF16] = "bf16", [MT_F64] = "f64",  [MT_F16] = "f16",
							  [MT_I32] = "i32", [MT_E4M3] = "e4m3", [MT_E5M2] = "e5m2"};
	return (unsigned)dtype < MT_DTYPE_COUNT ? names[dtype] : "unknown";
}
