/* export: a run in the words of other software.
 *
 *   export_megatron.c         arguments of Megatron-LM, and notes of what does not map
 *   export_megatron_model.c   those of the model
 *   export_megatron_fp8.c     those of products in 8 bits
 *   export_megatron_rules.c   what Megatron-LM asks of them, all at once instead of one assertion a start
 *   export_slurm.c            a batch script for Slurm */
#ifndef MT_TUNER_EXPORT_H
#define MT_TUNER_EXPORT_H

#include "engine/run.h"

#include <jansson.h>
#include <stdio.h>

/* Arguments and notes, in order. */
struct mt_export {
	json_t *arguments;   /* owned: strings */
	json_t *notes;       /* owned: sentences */
	bool one_connection; /* CUDA_DEVICE_MAX_CONNECTIONS=1 */
};

/* What a forecast chose and no run file has. */
struct mt_export_beyond {
	bool tp_overlap;    /* products hide what tensor-parallel ranks send */
	char precision[16]; /* of products: "mxfp8", "fp4"; empty: as the run file says */
};

/* MT_INPUT with every rule that the run breaks. */
enum mt_status mt_export_megatron(struct mt_export *e, const struct mt_run *run, const struct mt_export_beyond *beyond);
void mt_export_free(struct mt_export *e);
/* Lines for bash: notes as comments, environment, ARGS=(...). */
void mt_export_write(const struct mt_export *e, FILE *file);
/* At most `most` bytes of a text that stay within a comment: blanks in place of control characters. */
void mt_export_comment(FILE *file, const char *text, size_t most);

struct mt_megatron_rule {
	int number; /* of the rule in docs/export.md */
	const char *text;
	bool (*broken)(const struct mt_run *run);
};
extern const struct mt_megatron_rule mt_megatron_rules[];
extern const int mt_megatron_rule_count;
/* How the layers are cut: by equal parts, by equal parts where embedding and head count as a layer each, or in any other way. */
enum mt_megatron_split { MT_MEGATRON_EVEN, MT_MEGATRON_ENDS, MT_MEGATRON_ANY };
enum mt_megatron_split mt_megatron_split(const struct mt_run *run);

struct mt_slurm_options {
	int64_t gpus_per_node;
	char *time, *partition, *account;
	int program; /* 0 megatune, 1 megatron */
};
/* `run_path`: of the run file, for the job. */
enum mt_status mt_export_slurm(FILE *file, const struct mt_run *run, const struct mt_export_beyond *beyond, const char *run_path,
			       const struct mt_slurm_options *o);

#endif
