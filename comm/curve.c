/* curve: what a collective's measured points say of a size that was not measured, and nccl-tests' bus factors. */
#include "comm/comm.h"

#include <math.h>

double mt_comm_bus_factor(enum mt_comm_op op, int size)
{
	double n = size;
	if (op == MT_COMM_BROADCAST || op == MT_COMM_SHIFT || op == MT_COMM_SEND_RECV)
		return 1.0;
	if (op == MT_COMM_BARRIER || size < 1)
		return 0.0;
	return (op == MT_COMM_ALL_REDUCE ? 2.0 : 1.0) * (n - 1.0) / n;
}

/* Straight in log-log between (x0, y0) and (x1, y1): y = y0 * (x/x0)^slope. Times of 0 have no logarithm: straight then. */
static double between(double x, double x0, double y0, double x1, double y1)
{
	if (x1 <= x0)
		return y1;
	if (x0 <= 0.0 || y0 <= 0.0 || y1 <= 0.0)
		return y0 + (y1 - y0) * (x - x0) / (x1 - x0);
	return y0 * pow(x / x0, log(y1 / y0) / log(x1 / x0));
}

/* Seconds a byte more at the end. The fit is of all sizes: of a link that lets short messages pass above its rate it is too flat
 * there. Two points that lie close by chance do not make bytes free. */
static double last_slope(const struct mt_comm_curve *curve)
{
	int last = curve->points - 1;
	if (last < 1)
		return curve->beta_s_per_byte;
	return fmax(curve->beta_s_per_byte,
		    (curve->seconds[last] - curve->seconds[last - 1]) / (curve->bytes[last] - curve->bytes[last - 1]));
}

double mt_comm_curve_s(const struct mt_comm_curve *curve, double bytes)
{
	int last = curve->points - 1;
	if (curve->points < 1)
		return curve->alpha_s + curve->beta_s_per_byte * bytes;
	if (bytes <= curve->bytes[0])
		return curve->seconds[0];
	if (bytes > curve->bytes[last])
		return curve->seconds[last] + (bytes - curve->bytes[last]) * last_slope(curve);
	int i = 1;
	while (i < last && bytes > curve->bytes[i])
		i++;
	if (bytes == curve->bytes[i])
		return curve->seconds[i];
	return between(bytes, curve->bytes[i - 1], curve->seconds[i - 1], curve->bytes[i], curve->seconds[i]);
}
