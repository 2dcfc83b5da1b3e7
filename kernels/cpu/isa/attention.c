/* attention: causal self-attention, in a window and within documents, of all keys or of a part, in tiles of 64 x 64 scores, forward
 * and backward, never storing T x T. Dao et al. 2022, arXiv:2205.14135.
 *
 * Inputs of one head are first packed into f32 scratch, padded with zeros: rows to a multiple of 64 (Tp), the head size to
 * a multiple of 16 (Dp, and Ep for values, whose heads may have another size); keys (and values for the backward pass) also
 * transposed, tile by tile (Dp,64). All products are then products of tiles by one micro-kernel that holds MR rows by two vectors
 * of C in registers: S = Q K^T   O += P V   dP = dO V^T   dV += P^T dO   dK += dS^T Q   dQ += dS K On a diagonal tile half of S is
 * masked; the products skip what is zero, in steps of MR. Tiles wholly before the window or the document of their queries are left
 * out; in those partly before it, or partly after what a row sees, that becomes 0 in P and dS.
 */
#include "kernels/cpu/isa/vector.h"

#define TILE 64
#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#define MR           8
#elif defined(__AVX2__)
#define VECTOR_BYTES 32
#define MR           4
#else
#define VECTOR_BYTES 16
#define MR           4
#endif
#define VW (VECTOR_BYTES / 4)
#define NR (2 * VW)

/* Unaligned loads and stores of a vector through a pointer to floats. */
typedef float vec __attribute__((vector_size(VECTOR_BYTES), aligned(4), may_alias));

/* The first key that row t of sequence `batch` sees. */
static int64_t first_seen(const struct mt_attention *op, int64_t batch, int64_t t)
{
	const int64_t beside = t + op->offset, first = op->window > 0 && beside >= op->window ? beside - op->window + 1 : 0;
	const int64_t start = op->starts ? ((const int32_t *)op->starts)[batch * mt_attention_q_rows(op) + t] : 0;
	return start > first ? start : first;
}

/* The key after the last that row t sees. */
static int64_t end_seen(const struct mt_attention *op, int64_t t)
{
	const int64_t keys = mt_attention_keys(op);
	return t + op->offset < keys ? t + op->offset + 1 : keys;
}

/* Row r of a tile of keys at `j` sees columns low[r] to end[r] - 1: row i + r of the sequence. Rows past its end are like the last.
 */
struct columns {
	int64_t low[TILE], end[TILE];
};

static void tile_columns(const struct mt_attention *op, int64_t batch, int64_t i, int64_t j, int64_t rows, struct columns *seen)
{
	for (int64_t r = 0; r < rows; r++) {
		const int64_t end = end_seen(op, i + r) - j, low = first_seen(op, batch, i + r < op->seq ? i + r : op->seq - 1) - j;
		seen->end[r] = end < 0 ? 0 : end < TILE ? end : TILE;
		seen->low[r] = low < 0 ? 0 : low < seen->end[r] ? low : seen->end[r];
	}
}

static int64_t round_up(int64_t value, int64_t step)
{
	return (value + step - 1) / step * step;
}

/* C(MR, vectors*VW) = [C +] sum over k in [k0,k1) of A(:,k) B(k,:), A(i,k) at a[i*ai + k*ak]. */
INLINE void micro(int vectors, int64_t k0, int64_t k1, const float *a, int64_t ai, int64_t ak, const float *b, int64_t ldb,
		  float *c, int64_t ldc, bool accumulate)
{
	vec sum[MR][2];
#pragma GCC unroll 8
	for (int i = 0; i < MR; i++)
#pragma GCC unroll 2
		for (int v = 0; v < vectors; v++)
			sum[i][v] = accumulate ? *(const vec *)(c + i * ldc + v * VW) : (vec){0};
	for (int64_t k = k0; k < k1; k++) {
		vec row[2];
#pragma GCC unroll 2
		for (int v = 0; v < vectors; v++)
			row[v] = *(const vec *)(b + k * ldb + v * VW);
#pragma GCC unroll 8
		for (int i = 0; i < MR; i++)
#pragma GCC unroll 2
			for (int v = 0; v < vectors; v++)
				sum[i][v] += a[i * ai + k * ak] * row[v];
	}
#pragma GCC unroll 8
	for (int i = 0; i < MR; i++)
#pragma GCC unroll 2
		for (int v = 0; v < vectors; v++)
			*(vec *)(c + i * ldc + v * VW) = sum[i][v];
}

/* What is zero in a product on a diagonal tile: nothing, C above the diagonal (not wanted), A above it, A below it. */
enum zeros { NONE, C_UPPER, A_UPPER, A_LOWER };

/* C(m,n) = [C +] A(m,k) B(k,n); m a multiple of 8, n of 16. */
static void product(int64_t m, int64_t n, int64_t k, const float *a, int64_t ai, int64_t ak, const float *b, int64_t ldb, float *c,
		    int64_t ldc, bool accumulate, enum zeros zeros)
{
	for (int64_t i = 0; i < m; i += MR) {
		const int64_t reach = i + MR;
		const int64_t cols = zeros == C_UPPER && round_up(reach, VW) < n ? round_up(reach, VW) : n;
		const int64_t k0 = zeros == A_LOWER ? i : 0, k1 = zeros == A_UPPER && reach < k ? reach : k;
		int64_t j = 0;
		for (; j + NR <= cols; j += NR)
			micro(2, k0, k1, a + i * ai, ai, ak, b + j, ldb, c + i * ldc + j, ldc, accumulate);
		for (; j < cols; j += VW)
			micro(1, k0, k1, a + i * ai, ai, ak, b + j, ldb, c + i * ldc + j, ldc, accumulate);
	}
}

/* One head of a (rows, D) slice into dst(padded rows, Dp), scaled. */
INLINE void pack_rows(const void *src, int64_t stride, int64_t rows, int64_t dim, int64_t rows_pad, int64_t dim_pad, float scale,
		      float *dst, enum mt_dtype dtype)
{
	for (int64_t row = 0; row < rows_pad; row++, dst += dim_pad) {
		const int64_t real = row < rows ? dim : 0;
		const void *from = at(src, row < rows ? row * stride : 0, dtype);
#pragma omp simd
		for (int64_t d = 0; d < real; d++)
			dst[d] = load(from, d, dtype) * scale;
		memset(dst + real, 0, (size_t)(dim_pad - real) * sizeof *dst);
	}
}

static void pack(const void *src, int64_t offset, int64_t stride, int64_t rows, int64_t dim, int64_t rows_pad, int64_t dim_pad,
		 float scale, float *dst, enum mt_dtype dtype)
{
	DISPATCH(dtype, pack_rows, at(src, offset, dtype), stride, rows, dim, rows_pad, dim_pad, scale, dst);
}

/* packed(rows, Dp) to tiles of (Dp, 64), one after the other. */
static void transpose_tiles(const float *packed, int64_t rows_pad, int64_t dim_pad, float *tiles)
{
	for (int64_t tile = 0; tile < rows_pad; tile += TILE, packed += TILE * dim_pad, tiles += TILE * dim_pad)
		for (int64_t d0 = 0; d0 < dim_pad; d0 += 16)
			for (int64_t row = 0; row < TILE; row++)
				for (int64_t d = d0; d < d0 + 16; d++)
					tiles[d * TILE + row] = packed[row * dim_pad + d];
}

/* What a row is multiplied by, and what of the destination stays; NULL: `factor` of all, and `kept` of all. */
struct shares {
	const float *factors, *keeps;
	float factor, kept;
};

INLINE void unpack_rows(const float *src, int64_t dim_pad, void *dst, int64_t stride, int64_t rows, int64_t dim,
			const struct shares *shares, enum mt_dtype dtype)
{
	for (int64_t row = 0; row < rows; row++, src += dim_pad) {
		const float factor = shares->factors ? shares->factors[row] : shares->factor;
		const float kept = shares->keeps ? shares->keeps[row] : shares->kept;
		void *to = at(dst, row * stride, dtype);
		if (kept == 0.0f) {
#pragma omp simd
			for (int64_t d = 0; d < dim; d++)
				store(to, d, src[d] * factor, dtype);
		} else {
#pragma omp simd
			for (int64_t d = 0; d < dim; d++)
				store(to, d, src[d] * factor + load(to, d, dtype) * kept, dtype);
		}
	}
}

/* dst(rows, D) of a head = src(rows, Dp) * factor + dst * kept. */
static void unpack(const float *src, int64_t dim_pad, void *dst, int64_t offset, int64_t stride, int64_t rows, int64_t dim,
		   struct shares shares, enum mt_dtype dtype)
{
	DISPATCH(dtype, unpack_rows, src, dim_pad, at(dst, offset, dtype), stride, rows, dim, &shares);
}

/* One tile of scores s(rows,64) to probabilities relative to the running row maximum; `most`, `total` and the rows of
 * o(rows,Ep) are brought to the new maximum. What a row does not see becomes 0. */
static void softmax_tile(float *s, int64_t rows, const struct columns *seen, float *most, float *total, float *o, int64_t dim_pad)
{
	for (int64_t row = 0; row < rows; row++, s += TILE, o += dim_pad) {
		const int64_t cols = seen->end[row], low = seen->low[row];
		float top = most[row], sum = 0.0f;
#pragma omp simd reduction(max : top)
		for (int64_t c = low; c < cols; c++)
			top = s[c] > top ? s[c] : top;
#pragma omp simd reduction(+ : sum)
		for (int64_t c = low; c < cols; c++) {
			s[c] = exp_nonpositive(s[c] - top);
			sum += s[c];
		}
		memset(s, 0, (size_t)low * sizeof *s);
		memset(s + cols, 0, (size_t)(TILE - cols) * sizeof *s);
		if (top != most[row]) {
			const float shrink = most[row] == -INFINITY ? 0.0f : exp_nonpositive(most[row] - top);
			total[row] *= shrink;
#pragma omp simd
			for (int64_t d = 0; d < dim_pad; d++)
				o[d] *= shrink;
			most[row] = top;
		}
		total[row] += sum;
	}
}

/* Row maxima and sums to lse, merged with the lse that is there, and what o is multiplied by and what of the o before stays. */
static void finish_rows(const struct mt_attention *op, int64_t rows, float *most, float *total, float *lse)
{
	for (int64_t r = 0; r < rows; r++) {
		const float sum = total[r], mine = sum > 0.0f ? most[r] + logf(sum) : -INFINITY;
		const float before = op->merge ? lse[r] : -INFINITY;
		const float top = mine > before ? mine : before;
		float *factor = &total[r], *kept = &most[r];
		*factor = sum > 0.0f ? 1.0f / sum : 0.0f;
		*kept = 0.0f;
		lse[r] = before > -INFINITY && sum > 0.0f ? top + log1pf(expf(-fabsf(mine - before))) : top;
		if (before > -INFINITY) {
			*factor *= sum > 0.0f ? expf(mine - lse[r]) : 0.0f;
			*kept = expf(before - lse[r]);
		}
	}
}

void ISA(attention)(const struct mt_attention *op, enum mt_dtype dtype, int64_t batch, int64_t head, float *scratch)
{
	const int64_t seq = op->seq, dim = op->head_dim, dim_pad = round_up(dim, 16), row0 = batch * mt_attention_q_rows(op);
	const int64_t key_count = mt_attention_keys(op), keys_pad = round_up(key_count, TILE);
	const int64_t v_dim = mt_attention_v_dim(op), v_pad = round_up(v_dim, 16), v_stride = mt_attention_v_stride(op);
	const int64_t kv_head = head / (op->heads / op->kv_heads), key0 = batch * mt_attention_kv_rows(op);
	float *keys = scratch, *values = keys + keys_pad * dim_pad;
	float *q = values + keys_pad * (v_pad > dim_pad ? v_pad : dim_pad), *o = q + TILE * dim_pad;
	float *s = o + TILE * v_pad, *most = s + TILE * TILE, *total = most + TILE;
	float *lse = (float *)op->lse + (batch * op->heads + head) * mt_attention_q_rows(op);

	pack(op->k, key0 * op->kv_stride + kv_head * dim, op->kv_stride, key_count, dim, keys_pad, dim_pad, 1.0f, values, dtype);
	transpose_tiles(values, keys_pad, dim_pad, keys);
	pack(op->v, key0 * v_stride + kv_head * v_dim, v_stride, key_count, v_dim, keys_pad, v_pad, 1.0f, values, dtype);
	for (int64_t i = 0; i < seq; i += TILE) {
		const int64_t rows = seq - i < TILE ? seq - i : TILE, rows_pad = round_up(rows, 8);
		pack(op->q, (row0 + i) * op->q_stride + head * dim, op->q_stride, rows, dim, rows_pad, dim_pad, (float)op->scale, q,
		     dtype);
		memset(o, 0, (size_t)(rows_pad * v_pad) * sizeof *o);
		for (int64_t r = 0; r < rows_pad; r++) {
			most[r] = -INFINITY;
			total[r] = 0.0f;
		}
		for (int64_t j = first_seen(op, batch, i) / TILE * TILE; j < end_seen(op, i + rows - 1); j += TILE) {
			const bool diagonal = i + op->offset == j;
			struct columns seen;
			tile_columns(op, batch, i, j, rows_pad, &seen);
			product(rows_pad, TILE, dim_pad, q, dim_pad, 1, keys + j * dim_pad, TILE, s, TILE, false,
				diagonal ? C_UPPER : NONE);
			softmax_tile(s, rows_pad, &seen, most, total, o, v_pad);
			product(rows_pad, v_pad, diagonal ? rows_pad : TILE, s, TILE, 1, values + j * v_pad, v_pad, o, v_pad, true,
				diagonal ? A_UPPER : NONE);
		}
		finish_rows(op, rows, most, total, lse + i);
		unpack(o, v_pad, op->o, (row0 + i) * op->o_stride + head * v_dim, op->o_stride, rows, v_dim,
		       (struct shares){.factors = total, .keeps = most}, dtype);
	}
}

/* f32 scratch of the backward pass of one key/value head: of its keys and values, and of the query head at work. */
struct backward {
	int64_t seq_pad, keys_pad, dim_pad, v_pad;
	float *k, *k_tiles, *dk; /* (Up,Dp), U keys; k has room for (Up,Ep) */
	float *v_tiles, *dv;     /* (Up,Ep) */
	float *q, *dq;           /* (Tp,Dp); q has room for (Tp,Ep) */
	float *d_o;              /* (Tp,Ep) */
	float *lse, *delta;      /* (Tp) */
	float *p, *ds;           /* (64,64) */
};

/* p = exp(s - lse), ds = p * (dp - delta) on one tile, in place; zero where it is not seen. */
static void probabilities(float *p, float *ds, int64_t rows, const struct columns *seen, const float *lse, const float *delta)
{
	for (int64_t row = 0; row < rows; row++, p += TILE, ds += TILE) {
		const int64_t cols = seen->end[row], low = seen->low[row];
		const float l = lse[row], d = delta[row];
#pragma omp simd
		for (int64_t c = low; c < cols; c++) {
			p[c] = exp_nonpositive(p[c] - l);
			ds[c] = p[c] * (ds[c] - d);
		}
		memset(p, 0, (size_t)low * sizeof *p);
		memset(ds, 0, (size_t)low * sizeof *ds);
		memset(p + cols, 0, (size_t)(TILE - cols) * sizeof *p);
		memset(ds + cols, 0, (size_t)(TILE - cols) * sizeof *ds);
	}
}

/* Packs one query head, q scaled so that S and dK need no further factor; delta = row sums of do * o. */
static void load_head(const struct mt_attention *op, enum mt_dtype dtype, int64_t batch, int64_t head, const struct backward *w)
{
	const int64_t seq = op->seq, dim = op->head_dim, row0 = batch * mt_attention_q_rows(op), dim_pad = w->dim_pad;
	const int64_t v_dim = mt_attention_v_dim(op), v_pad = w->v_pad;
	const int64_t q_offset = row0 * op->q_stride + head * dim, o_offset = row0 * op->o_stride + head * v_dim;
	const float *lse = (const float *)op->lse + (batch * op->heads + head) * mt_attention_q_rows(op);
	float *delta = (float *)op->delta + (batch * op->heads + head) * mt_attention_q_rows(op);
	pack(op->o, o_offset, op->o_stride, seq, v_dim, w->seq_pad, v_pad, 1.0f, w->q, dtype);
	pack(op->do_, o_offset, op->o_stride, seq, v_dim, w->seq_pad, v_pad, 1.0f, w->d_o, dtype);
	memset(w->lse, 0, (size_t)w->seq_pad * sizeof *w->lse);
	memset(w->delta, 0, (size_t)w->seq_pad * sizeof *w->delta);
	for (int64_t t = 0; t < seq; t++) {
		const float *o = w->q + t * v_pad, *d_o = w->d_o + t * v_pad;
		float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
		for (int64_t d = 0; d < v_pad; d++)
			sum += o[d] * d_o[d];
		w->lse[t] = lse[t];
		w->delta[t] = delta[t] = sum;
	}
	pack(op->q, q_offset, op->q_stride, seq, dim, w->seq_pad, dim_pad, (float)op->scale, w->q, dtype);
	memset(w->dq, 0, (size_t)(w->seq_pad * dim_pad) * sizeof *w->dq);
}

static void backward_tile(const struct mt_attention *op, int64_t batch, const struct backward *w, int64_t i, int64_t j,
			  int64_t rows)
{
	struct columns seen;
	const bool diagonal = i + op->offset == j;
	const int64_t dp = w->dim_pad, ep = w->v_pad, keys = diagonal ? rows : TILE;
	const float *q = w->q + i * dp, *d_o = w->d_o + i * ep;
	tile_columns(op, batch, i, j, rows, &seen);
	product(rows, TILE, dp, q, dp, 1, w->k_tiles + j * dp, TILE, w->p, TILE, false, diagonal ? C_UPPER : NONE);
	product(rows, TILE, ep, d_o, ep, 1, w->v_tiles + j * ep, TILE, w->ds, TILE, false, diagonal ? C_UPPER : NONE);
	probabilities(w->p, w->ds, rows, &seen, w->lse + i, w->delta + i);
	product(keys, ep, rows, w->p, 1, TILE, d_o, ep, w->dv + j * ep, ep, true, diagonal ? A_LOWER : NONE);
	product(keys, dp, rows, w->ds, 1, TILE, q, dp, w->dk + j * dp, dp, true, diagonal ? A_LOWER : NONE);
	product(rows, dp, keys, w->ds, TILE, 1, w->k + j * dp, dp, w->dq + i * dp, dp, true, diagonal ? A_UPPER : NONE);
}

void ISA(attention_bwd)(const struct mt_attention *op, enum mt_dtype dtype, int64_t batch, int64_t kv_head, float *scratch)
{
	const int64_t seq = op->seq, dim = op->head_dim, seq_pad = round_up(seq, TILE), dim_pad = round_up(dim, 16);
	const int64_t v_dim = mt_attention_v_dim(op), v_pad = round_up(v_dim, 16), v_stride = mt_attention_v_stride(op);
	const int64_t keys = mt_attention_keys(op), keys_pad = round_up(keys, TILE), wide = v_pad > dim_pad ? v_pad : dim_pad;
	const int64_t group = op->heads / op->kv_heads, row0 = batch * mt_attention_q_rows(op);
	const int64_t key0 = batch * mt_attention_kv_rows(op);
	const int64_t k_offset = key0 * op->kv_stride + kv_head * dim, v_offset = key0 * v_stride + kv_head * v_dim;
	const struct shares added = {.factor = 1.0f, .kept = op->add_dkv ? 1.0f : 0.0f};
	struct backward w = {.seq_pad = seq_pad, .keys_pad = keys_pad, .dim_pad = dim_pad, .v_pad = v_pad};
	const struct {
		float **array;
		int64_t size;
	} arrays[] = {{&w.k, keys_pad * wide},        {&w.k_tiles, keys_pad * dim_pad}, {&w.dk, keys_pad * dim_pad},
		      {&w.v_tiles, keys_pad * v_pad}, {&w.dv, keys_pad * v_pad},        {&w.q, seq_pad * wide},
		      {&w.dq, seq_pad * dim_pad},     {&w.d_o, seq_pad * v_pad}};
	for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) {
		*arrays[i].array = scratch;
		scratch += arrays[i].size;
	}
	w.lse = scratch;
	w.delta = w.lse + seq_pad;
	w.p = w.delta + seq_pad;
	w.ds = w.p + TILE * TILE;

	pack(op->v, v_offset, v_stride, keys, v_dim, keys_pad, v_pad, 1.0f, w.k, dtype);
	transpose_tiles(w.k, keys_pad, v_pad, w.v_tiles);
	pack(op->k, k_offset, op->kv_stride, keys, dim, keys_pad, dim_pad, 1.0f, w.k, dtype);
	transpose_tiles(w.k, keys_pad, dim_pad, w.k_tiles);
	memset(w.dk, 0, (size_t)(keys_pad * dim_pad) * sizeof *w.dk);
	memset(w.dv, 0, (size_t)(keys_pad * v_pad) * sizeof *w.dv);
	for (int64_t head = kv_head * group; head < (kv_head + 1) * group; head++) {
		load_head(op, dtype, batch, head, &w);
		for (int64_t j = 0; j < keys; j += TILE) {
			const int64_t from = j > op->offset ? (j - op->offset) / TILE * TILE : 0;
			for (int64_t i = from; i < seq && first_seen(op, batch, i) < j + TILE; i += TILE)
				backward_tile(op, batch, &w, i, j, seq - i < TILE ? round_up(seq - i, 8) : TILE);
		}
		unpack(w.dq, dim_pad, op->dq, row0 * op->q_stride + head * dim, op->q_stride, seq, dim,
		       (struct shares){.factor = (float)op->scale, .kept = op->add_dq ? 1.0f : 0.0f}, dtype);
	}
	unpack(w.dk, dim_pad, op->dk, k_offset, op->kv_stride, keys, dim, added, dtype);
	unpack(w.dv, v_pad, op->dv, v_offset, v_stride, keys, v_dim, added, dtype);
}

size_t ISA(attention_scratch)(const struct mt_attention *op, int backward)
{
	const size_t seq_pad = (size_t)round_up(op->seq, TILE), dim_pad = (size_t)round_up(op->head_dim, 16);
	const size_t keys_pad = (size_t)round_up(mt_attention_keys(op), TILE);
	const size_t v_pad = (size_t)round_up(mt_attention_v_dim(op), 16), wide = v_pad > dim_pad ? v_pad : dim_pad;
	return backward ? keys_pad * (wide + 2 * dim_pad + 2 * v_pad) + seq_pad * (wide + dim_pad + v_pad) + 2 * seq_pad +
				  2 * TILE * TILE
			: keys_pad * (dim_pad + wide) + TILE * (dim_pad + v_pad) + TILE * TILE + 2 * TILE;
}
