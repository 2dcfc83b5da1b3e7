/* data: tokens of a training run. Sample k is the same sequence in every layout: k -> (source of the blend, seeded permutation of
 * its windows).
 *
 * A source is a stream of tokens, of which a part (training, validation, test) is cut into windows of seq+1: inputs are the first
 * seq, targets the last seq. Windows overlap by one token. When all windows of a source are used, its next epoch begins with
 * another permutation. A blend "0.7 A 0.3 B" takes its samples from several sources, in proportion from the first one on. */
#ifndef MT_ENGINE_DATA_H
#define MT_ENGINE_DATA_H

#include "base/status.h"
#include "engine/run.h"

#include <stdint.h>

struct mt_dataset;

enum mt_data_part { MT_DATA_TRAIN, MT_DATA_VALID, MT_DATA_TEST, MT_DATA_PARTS };

/* Opens what options->path names (text files through the tokenizer, Megatron .bin/.idx, a blend of them, or synthetic when NULL:
 * Philox tokens with a learnable structure). Tokens must be < vocab: MT_INPUT names the file and what to change.
 * Too few tokens for one window is MT_INPUT. */
enum mt_status mt_dataset_open(struct mt_dataset **dataset, const struct mt_data_options *options, int64_t vocab, int64_t seq,
			       uint64_t seed);
/* The same of one part of the split; mt_dataset_open opens the training part. */
enum mt_status mt_dataset_open_part(struct mt_dataset **dataset, const struct mt_data_options *options, enum mt_data_part part,
				    int64_t vocab, int64_t seq, uint64_t seed);
void mt_dataset_close(struct mt_dataset *dataset);
int64_t mt_dataset_tokens(const struct mt_dataset *dataset);   /* of the part, all sources */
const char *mt_dataset_text(const struct mt_dataset *dataset); /* "3 text files, 123,456 bytes", for logs */
/* tokens[seq] and targets[seq] of global sample `index` (>= 0, unbounded). A file that shrank since it was opened: MT_IO.
 * May be called on several threads at once. */
enum mt_status mt_dataset_sample(struct mt_dataset *dataset, uint64_t index, int32_t *tokens, int32_t *targets);
/* The same with documents kept apart: starts[t] is the place in the sample where the document of token t begins, and a target that
 * is the first token of another document is -1: it does not count. */
enum mt_status mt_dataset_sample_apart(struct mt_dataset *dataset, uint64_t index, int32_t *tokens, int32_t *targets,
				       int32_t *starts);

/* What no single option of `data` can say: the split and the blend. `where` starts the message. */
enum mt_status mt_data_check(const struct mt_data_options *options, const char *where);
/* The share of a part, 0..1. */
double mt_data_share(const struct mt_data_options *options, enum mt_data_part part);

/* Writes Megatron's PREFIX.bin and PREFIX.idx from `count` documents of i32 tokens (u16 when vocab < 65500, else i32). */
enum mt_status mt_indexed_write(const char *prefix, const int32_t *const *documents, const int64_t *lengths, int64_t count,
				int64_t vocab);

#endif
