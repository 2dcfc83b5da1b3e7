/* data: tokens of a training run. Sample k is the same sequence in every layout: k -> (seeded permutation of windows).
 *
 * A source is a stream of tokens cut into windows of seq+1 (inputs are the first seq, targets the last seq). Windows
 * overlap by one token. When all windows are used a new epoch begins with another permutation. */
#ifndef MT_ENGINE_DATA_H
#define MT_ENGINE_DATA_H

#include "base/status.h"
#include "engine/run.h"

#include <stdint.h>

struct mt_dataset;

/* Opens what options->path names (text files through the tokenizer, Megatron .bin/.idx, or synthetic when NULL:
 * Philox tokens with a learnable structure). Tokens must be < vocab: MT_INPUT names the file and what to change.
 * Too few tokens for one window is MT_INPUT. */
enum mt_status mt_dataset_open(struct mt_dataset **dataset, const struct mt_data_options *options, int64_t vocab, int64_t seq,
			       uint64_t seed);
void mt_dataset_close(struct mt_dataset *dataset);
int64_t mt_dataset_tokens(const struct mt_dataset *dataset);
const char *mt_dataset_text(const struct mt_dataset *dataset); /* "3 text files, 123,456 bytes", for logs */
/* tokens[seq] and targets[seq] of global sample `index` (>= 0, unbounded). A file that shrank since it was opened: MT_IO.
 * May be called on several threads at once. */
enum mt_status mt_dataset_sample(struct mt_dataset *dataset, uint64_t index, int32_t *tokens, int32_t *targets);

/* Writes Megatron's PREFIX.bin and PREFIX.idx from `count` documents of i32 tokens (u16 when vocab < 65500, else i32). */
enum mt_status mt_indexed_write(const char *prefix, const int32_t *const *documents, const int64_t *lengths, int64_t count,
				int64_t vocab);

#endif
