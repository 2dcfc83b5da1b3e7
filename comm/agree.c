/* agree: see agree.h. Used by debug builds before every collective. */
#include "comm/agree.h"

#include <stdio.h>
#include <string.h>

struct mt_comm_signature mt_comm_sign(const struct mt_comm_call *call, uint64_t sequence)
{
	struct mt_comm_signature signature = {
		.op = call->op,
		.dtype = (int32_t)call->dtype,
		.reduction = (int32_t)call->reduction,
		.root = call->op == MT_COMM_BROADCAST || call->op == MT_COMM_SHIFT ? call->peer : 0,
		.count = call->count,
		.sequence = sequence,
	};
	return signature;
}

static bool same(const struct mt_comm_signature *a, const struct mt_comm_signature *b)
{
	return memcmp(a, b, sizeof *a) == 0;
}

/* "all_reduce(max) of 12 f32", "broadcast of 3 i32 from rank 1" */
static void describe(const struct mt_comm_signature *s, char buf[128])
{
	static const char *const types[MT_DTYPE_COUNT] = {"f32", "bf16", "f64", "f16", "i32", "e4m3", "e5m2"};
	const char *reduction = s->op != MT_COMM_ALL_REDUCE ? "" : s->reduction == MT_MAX ? "(max)" : "(sum)";
	const char *type = (uint32_t)s->dtype < MT_DTYPE_COUNT ? types[s->dtype] : "?";
	int used = snprintf(buf, 128, "%s%s of %lld %s as collective %llu", mt_comm_op_name((enum mt_comm_op)s->op), reduction,
			    (long long)s->count, type, (unsigned long long)s->sequence);
	if (s->op == MT_COMM_BROADCAST)
		snprintf(buf + used, 128 - (size_t)used, " from rank %d", s->root);
	if (s->op == MT_COMM_SHIFT)
		snprintf(buf + used, 128 - (size_t)used, " by %d", s->root);
}

static int votes(const struct mt_comm_signature *signatures, int size, int rank)
{
	int n = 0;
	for (int r = 0; r < size; r++)
		n += same(&signatures[r], &signatures[rank]);
	return n;
}

enum mt_status mt_comm_agree(const struct mt_group *group, const struct mt_comm_signature *signatures)
{
	int most = 0, odd = 0;
	char odd_call[128], most_call[128];
	for (int r = 1; r < group->size; r++)
		odd = odd || same(&signatures[r], &signatures[0]) ? odd : r;
	if (odd == 0)
		return MT_OK;
	for (int r = 1; r < group->size; r++)
		if (votes(signatures, group->size, r) > votes(signatures, group->size, most))
			most = r;
	for (odd = 0; same(&signatures[odd], &signatures[most]);)
		odd++;
	describe(&signatures[odd], odd_call);
	describe(&signatures[most], most_call);
	return mt_fail(
		MT_FAILED,
		"members of group %s do not call the same collective: rank %d (world rank %d on %s) calls %s, rank %d (world "
		"rank %d on %s) and %d more call %s",
		group->name, odd, group->ranks[odd], mt_fabric_host(group->fabric, group->ranks[odd]), odd_call, most,
		group->ranks[most], mt_fabric_host(group->fabric, group->ranks[most]), votes(signatures, group->size, most) - 1,
		most_call);
}
