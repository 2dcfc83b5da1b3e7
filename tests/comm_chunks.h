/* comm_chunks: all-to-alls of random counts whose result is known, for the tests of fabrics. */
#ifndef MT_TESTS_COMM_CHUNKS_H
#define MT_TESTS_COMM_CHUNKS_H

#include "tests/comm_bench.h"

#define MOST_CHUNKS 256

/* Units of chunk i from one rank to another: often none, sometimes many. */
static inline int64_t units(uint64_t seed, int job, int from, int to, int i)
{
	uint64_t draw = mt_random_integer(seed, (uint64_t)job, (uint64_t)((from * 64 + to) * 8 + i), 40);

	return draw < 12 ? 0 : draw == 39 ? 3000 : (int64_t)draw;
}

static inline int exchange_once(struct bench *b, struct mt_group *group, struct mt_stream *stream, uint64_t seed, int job,
				const char *where)
{
	static const enum mt_dtype dtypes[] = {MT_F32, MT_BF16, MT_I32};
	int rank = mt_group_rank(group), size = mt_group_size(group), each = 1 + job % 4, wrong = 0;
	int64_t count = job % 3 == 0 ? 1 : 5, sent = 0, received = 0;
	int64_t out[MOST_CHUNKS], out_first[MOST_CHUNKS], in[MOST_CHUNKS], in_first[MOST_CHUNKS];
	enum mt_dtype dtype = dtypes[job % 3];
	struct mt_comm_chunks chunks = {each, out, out_first, in, in_first};

	/* Sent by rank; received by chunk and then by rank, as experts have it. */
	for (int k = 0; k < size * each; k++) {
		out[k] = units(seed, job, rank, k / each, k % each);
		out_first[k] = sent;
		sent += out[k];
	}
	for (int i = 0; i < each; i++) {
		for (int r = 0; r < size; r++) {
			in[r * each + i] = units(seed, job, r, rank, i);
			in_first[r * each + i] = received;
			received += in[r * each + i];
		}
	}
	void *send = buffer(sent * count, dtype), *recv = buffer(received * count, dtype);
	for (int k = 0; k < size * each; k++) {
		for (int64_t i = 0; i < out[k] * count; i++)
			put(send, out_first[k] * count + i, dtype, value(rank, i, job + k));
	}
	must(b, mt_comm_all_to_all_v(group, stream, send, recv, &chunks, count, dtype), where);
	must(b, mt_stream_synchronize(stream), where);
	for (int r = 0; r < size; r++) {
		for (int i = 0; i < each; i++) {
			for (int64_t at = 0; at < in[r * each + i] * count && !wrong; at++)
				wrong = get(recv, in_first[r * each + i] * count + at, dtype) !=
					value(r, at, job + rank * each + i);
		}
	}
	if (wrong)
		fprintf(stderr, "%s: all_to_all_v %d of %d chunks, group rank %d of %d: wrong values\n", where, job, each, rank,
			size);
	if (!untouched(recv, received * count, dtype) || !untouched(send, sent * count, dtype)) {
		wrong = 1;
		fprintf(stderr, "%s: all_to_all_v %d wrote beyond its buffer\n", where, job);
	}
	free(send);
	free(recv);
	return wrong;
}

static inline int random_exchanges(struct bench *b, struct mt_group *group, struct mt_stream *stream, uint64_t seed, int jobs,
				   const char *where)
{
	int wrong = 0;

	for (int job = 0; job < jobs; job++)
		wrong += exchange_once(b, group, stream, seed, job, where);
	return wrong;
}

#endif
