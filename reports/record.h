/* record: the result document, read once into what the reports need. Inside of this room only.
 *
 * The document comes from a file that anyone may have edited: what is missing or of another type is NaN, NULL or empty
 * here, and whoever shows it must cope. Strings are borrowed from the document and are hostile until escaped (text.h). */
#ifndef MT_REPORTS_RECORD_H
#define MT_REPORTS_RECORD_H

#include "base/status.h"

#include <jansson.h>
#include <stdbool.h>

/* What a step's time is spent on, in the order in which it is stacked. */
enum part { PART_COMPUTE, PART_TP, PART_DP, PART_PP, PART_BUBBLE, PART_OPTIMIZER, PART_COUNT };
/* What an engine's memory holds, and what the process, on a GPU the libraries, take beyond it. */
enum store { STORE_PARAMETERS, STORE_GRADIENTS, STORE_OPTIMIZER, STORE_ACTIVATIONS, STORE_WORKSPACE, STORE_OTHER, STORE_COUNT };

extern const char *const mt_record_part_names[PART_COUNT];
extern const char *const mt_record_store_names[STORE_COUNT];

struct candidate {
	const json_t *json;
	int rank;
	const char *text;                                   /* "tp1 pp1 dp2 mbs4" */
	const char *fidelity;                               /* "card", "dry", "" */
	const char *failure;                                /* NULL: did not fail */
	double predicted_s, predicted_lo_s, predicted_hi_s; /* the interval is NaN at both ends or holds the value */
	double measured_s, measured_lo_s, measured_hi_s;
	double expected_s;          /* not run: what the trials of layouts like it let expect; NaN: none was like it */
	double split_s[PART_COUNT]; /* all NaN when unknown, else zero where unknown */
	double mfu_frac;            /* as the document has it: of the prediction */
	int stages;                 /* length of the longest array by stage */
};

struct record {
	const json_t *json, *model, *machine;
	const char *model_name, *machine_name, *command;
	bool partial;
	double devices, tokens_per_step, model_flops, full_attention_flops, peak_tflops,
		memory_limit_bytes;   /* limit: of the GPU, else of the host */
	struct candidate *candidates; /* owned */
	int count, run_count, failed_count, measured_count;
	const struct candidate *choice; /* NULL: none */
	size_t shared;                  /* bytes that every candidate's text ends with, whole words: " bf16 t1" */
};

/* MT_INPUT when the document is no object or of a newer schema. The document must outlive the record. */
enum mt_status mt_record_read(struct record *record, const json_t *document);
void mt_record_free(struct record *record);

/* NaN when absent, null or no number. */
double mt_record_number(const json_t *object, const char *key);
/* Item of an array of numbers by key; NaN when there is none. */
double mt_record_item(const json_t *object, const char *key, size_t index);
/* Array by key, NULL when it is none; json_array_size(NULL) is 0. */
const json_t *mt_record_array(const json_t *object, const char *key);

/* Measured where it was, else predicted. */
double mt_record_step_s(const struct candidate *candidate);
double mt_record_error_frac(const struct candidate *candidate); /* (predicted - measured) / measured */
/* Model FLOPs / (step * devices * peak); NaN when one is unknown. */
double mt_record_mfu_frac(const struct record *record, double flops, double step_s);
/* The same for a candidate; the document's own figure, scaled to the time, where FLOPs or peak are not given. */
double mt_record_candidate_mfu(const struct record *record, const struct candidate *candidate, double step_s);
double mt_record_tokens_per_s(const struct record *record, const struct candidate *candidate, double step_s);

/* What a rank of a stage takes of what the limit is for: of the GPU; else the resident size if known, else the engine's. NaN:
 * unknown. */
double mt_record_taken_bytes(const struct candidate *candidate, int stage, bool measured);
/* Bytes of a stage by what they hold; STORE_OTHER: the rest of those taken. False when nothing is known. */
bool mt_record_memory(const struct candidate *candidate, int stage, double bytes[STORE_COUNT]);
/* The most that a rank of any stage takes. */
double mt_record_peak_bytes(const struct candidate *candidate, bool measured);

#endif
