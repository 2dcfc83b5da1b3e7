/* types: CUDA's vectors and 16-bit floating-point types, with the conversions our kernels use. */
#ifndef MT_TESTS_CUDA_HOST_TYPES_H
#define MT_TESTS_CUDA_HOST_TYPES_H

#include <stdint.h>
#include <string.h>

#define CUDA_HOST_VECTORS(name, type)                                                                                              \
	struct alignas(2 * sizeof(type)) name##2                                                                                   \
	{                                                                                                                          \
		type x, y;                                                                                                         \
	};                                                                                                                         \
	struct name##3                                                                                                             \
	{                                                                                                                          \
		type x, y, z;                                                                                                      \
	};                                                                                                                         \
	struct alignas(4 * sizeof(type) < 16 ? 4 * sizeof(type) : 16) name##4                                                      \
	{                                                                                                                          \
		type x, y, z, w;                                                                                                   \
	};                                                                                                                         \
	static inline name##2 make_##name##2(type x, type y)                                                                       \
	{                                                                                                                          \
		return name##2 {x, y};                                                                                             \
	}                                                                                                                          \
	static inline name##4 make_##name##4(type x, type y, type z, type w)                                                       \
	{                                                                                                                          \
		return name##4 {x, y, z, w};                                                                                       \
	}

CUDA_HOST_VECTORS(int, int)
CUDA_HOST_VECTORS(uint, unsigned)
CUDA_HOST_VECTORS(float, float)
CUDA_HOST_VECTORS(double, double)
CUDA_HOST_VECTORS(short, short)
CUDA_HOST_VECTORS(ushort, unsigned short)
CUDA_HOST_VECTORS(uchar, unsigned char)

struct dim3 {
	unsigned x, y, z;
	dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_)
	{
	}
};

static inline unsigned __float_as_uint(float x)
{
	unsigned bits;
	memcpy(&bits, &x, sizeof bits);
	return bits;
}

static inline float __uint_as_float(unsigned bits)
{
	float x;
	memcpy(&x, &bits, sizeof x);
	return x;
}

static inline int __float_as_int(float x)
{
	return (int)__float_as_uint(x);
}

static inline float __int_as_float(int bits)
{
	return __uint_as_float((unsigned)bits);
}

/* As cvt.rni.s32.f64: saturating, and NaN becomes the least. */
static inline int __double2int_rn(double x)
{
	return !(x > INT32_MIN) ? INT32_MIN : x < INT32_MAX ? (int)__builtin_rint(x) : INT32_MAX;
}

static inline float __double2float_rn(double x)
{
	return (float)x;
}

/* bf16: the upper half of an f32, rounded to nearest even. NaN becomes 0x7fff, as cvt.rn.bf16.f32 makes it. */
struct alignas(2) __nv_bfloat16 {
	unsigned short x;
};
struct alignas(4) __nv_bfloat162 {
	__nv_bfloat16 x, y;
};

static inline float __bfloat162float(__nv_bfloat16 h)
{
	return __uint_as_float((unsigned)h.x << 16);
}

static inline __nv_bfloat16 __float2bfloat16_rn(float x)
{
	unsigned bits = __float_as_uint(x);
	if (x != x)
		return __nv_bfloat16{0x7fff};
	return __nv_bfloat16{(unsigned short)((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

static inline __nv_bfloat16 __float2bfloat16(float x)
{
	return __float2bfloat16_rn(x);
}

static inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y)
{
	return __nv_bfloat162{__float2bfloat16_rn(x), __float2bfloat16_rn(y)};
}

static inline float2 __bfloat1622float2(__nv_bfloat162 h)
{
	return make_float2(__bfloat162float(h.x), __bfloat162float(h.y));
}

static inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits)
{
	return __nv_bfloat16{bits};
}

static inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 h)
{
	return h.x;
}

/* f16, by the processor's own conversion (g++ has _Float16 on x86-64 and arm64). */
struct alignas(2) __half {
	unsigned short x;
};
struct alignas(4) __half2 {
	__half x, y;
};

static inline float __half2float(__half h)
{
	_Float16 value;
	memcpy(&value, &h, sizeof value);
	return (float)value;
}

static inline __half __float2half_rn(float x)
{
	_Float16 value = (_Float16)x;
	__half h;
	memcpy(&h, &value, sizeof h);
	return h;
}

static inline __half2 __floats2half2_rn(float x, float y)
{
	return __half2{__float2half_rn(x), __float2half_rn(y)};
}

static inline float2 __half22float2(__half2 h)
{
	return make_float2(__half2float(h.x), __half2float(h.y));
}

#endif
