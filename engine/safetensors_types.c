/* safetensors_types: the element types of files, to and from those of the host. */
#include "engine/safetensors.h"

#include <string.h>

static const struct {
	const char *name;
	size_t bytes;
} types[MT_STORED_COUNT] = {{"F32", 4}, {"BF16", 2}, {"F16", 2}, {"F64", 8}, {"other", 0}};

const char *mt_stored_name(enum mt_stored type)
{
	return types[type].name;
}

size_t mt_stored_bytes(enum mt_stored type)
{
	return types[type].bytes;
}

static double decode(enum mt_stored from, const void *stored, int64_t i)
{
	switch (from) {
	case MT_STORED_BF16:
		return (double)mt_bf16_to_f32(((const uint16_t *)stored)[i]);
	case MT_STORED_F16:
		return (double)mt_f16_to_f32(((const uint16_t *)stored)[i]);
	case MT_STORED_F64:
		return ((const double *)stored)[i];
	default:
		return (double)((const float *)stored)[i];
	}
}

void mt_stored_decode(enum mt_stored from, const void *stored, enum mt_dtype to, void *values, int64_t count)
{
	if ((from == MT_STORED_F32 && to == MT_F32) || (from == MT_STORED_F64 && to == MT_F64)) {
		memcpy(values, stored, (size_t)count * mt_dtype_bytes(to));
		return;
	}
	for (int64_t i = 0; i < count; i++) {
		if (to == MT_F64)
			((double *)values)[i] = decode(from, stored, i);
		else
			((float *)values)[i] = (float)decode(from, stored, i);
	}
}

void mt_stored_encode(enum mt_dtype from, const void *values, enum mt_stored to, void *stored, int64_t count)
{
	if ((to == MT_STORED_F32 && from == MT_F32) || (to == MT_STORED_F64 && from == MT_F64)) {
		memcpy(stored, values, (size_t)count * mt_dtype_bytes(from));
		return;
	}
	for (int64_t i = 0; i < count; i++) {
		double value = from == MT_F64 ? ((const double *)values)[i] : (double)((const float *)values)[i];

		if (to == MT_STORED_BF16)
			((uint16_t *)stored)[i] = mt_bf16_from_f32((float)value);
		else if (to == MT_STORED_F16)
			((uint16_t *)stored)[i] = mt_f16_from_f32((float)value);
		else if (to == MT_STORED_F64)
			((double *)stored)[i] = value;
		else
			((float *)stored)[i] = (float)value;
	}
}
