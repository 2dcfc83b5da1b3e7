/* record: see record.h. */
#include "reports/record.h"

#include "base/json.h"

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define SCHEMA 1

const char *const mt_record_part_names[PART_COUNT] = {"compute", "exposed tp", "exposed dp", "exposed pp", "bubble", "optimizer"};
const char *const mt_record_store_names[STORE_COUNT] = {"parameters",  "gradients", "optimizer state",
							"activations", "workspace", "other"};

double mt_record_number(const json_t *object, const char *key)
{
	double value = mt_json_get_number(object, key, NAN);
	return isfinite(value) ? value : NAN;
}

const json_t *mt_record_array(const json_t *object, const char *key)
{
	const json_t *array = json_object_get(object, key);
	return json_is_array(array) ? array : NULL;
}

double mt_record_item(const json_t *object, const char *key, size_t index)
{
	const json_t *item = json_array_get(mt_record_array(object, key), index);
	return json_is_number(item) ? json_number_value(item) : NAN;
}

/* A time or a count of bytes: positive, and of a size that can be drawn. */
static double positive(const json_t *object, const char *key)
{
	double value = mt_record_number(object, key);
	return value > 1e-15 && value < 1e30 ? value : NAN;
}

static void read_interval(const json_t *json, const char *lo, const char *hi, double value, double *lo_s, double *hi_s)
{
	*lo_s = positive(json, lo);
	*hi_s = positive(json, hi);
	if (!(*lo_s <= value && value <= *hi_s))
		*lo_s = *hi_s = NAN;
}

static void read_split(const json_t *split, double split_s[PART_COUNT])
{
	static const char *const keys[PART_COUNT] = {"compute_s", "tp_s", "dp_s", "pp_s", "bubble_s", "optimizer_s"};
	bool known = false;

	for (int i = 0; i < PART_COUNT; i++) {
		split_s[i] = positive(split, keys[i]);
		known = known || isfinite(split_s[i]);
	}
	for (int i = 0; i < PART_COUNT; i++)
		if (known && !isfinite(split_s[i]))
			split_s[i] = 0;
}

static int longest(const json_t *json)
{
	static const char *const keys[] = {"memory_bytes", "memory_parts", "resident_bytes", "measured_memory_bytes",
					   "measured_resident_bytes"};
	size_t most = 0;

	for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
		size_t length = json_array_size(mt_record_array(json, keys[i]));
		most = length > most ? length : most;
	}
	return most > 4096 ? 4096 : (int)most;
}

static void read_candidate(const json_t *json, int position, struct candidate *c)
{
	memset(c, 0, sizeof *c);
	c->json = json;
	int64_t rank = mt_json_get_int(json, "rank", position);
	c->rank = rank > 0 && rank < 1000000000 ? (int)rank : position;
	c->text = mt_json_get_string(json, "text", "");
	if (!*c->text)
		c->text = "(layout without a name)";
	c->fidelity = mt_json_get_string(json, "fidelity", "");
	c->failure = mt_json_get_string(json, "failure", NULL);
	c->predicted_s = positive(json, "step_time_s");
	c->expected_s = positive(json, "expected_step_time_s");
	read_interval(json, "step_time_lo_s", "step_time_hi_s", c->predicted_s, &c->predicted_lo_s, &c->predicted_hi_s);
	c->measured_s = c->failure ? NAN : positive(json, "measured_step_time_s");
	read_interval(json, "measured_lo_s", "measured_hi_s", c->measured_s, &c->measured_lo_s, &c->measured_hi_s);
	c->mfu_frac = positive(json, "mfu_frac");
	read_split(json_object_get(json, "split"), c->split_s);
	c->stages = longest(json);
}

static void read_candidates(struct record *r, const json_t *array)
{
	size_t i;
	const json_t *json;
	double choice = mt_record_number(r->json, "choice");

	json_array_foreach((json_t *)array, i, json)
	{
		if (!json_is_object(json))
			continue;
		struct candidate *c = &r->candidates[r->count++];
		read_candidate(json, (int)i + 1, c);
		r->run_count += c->failure || isfinite(c->measured_s);
		r->failed_count += c->failure != NULL;
		r->measured_count += isfinite(c->measured_s);
		if (!r->choice && c->rank == choice)
			r->choice = c;
	}
}

/* Words that all layouts end with say nothing in a list of them. What is left has at least 8 characters. */
static size_t shared_end(const struct record *r)
{
	const char *first = r->count > 1 ? r->candidates[0].text : "", *end;
	size_t length = strlen(first), shared = length, least = SIZE_MAX;

	for (int i = 1; i < r->count; i++) {
		const char *text = r->candidates[i].text;
		size_t other = strlen(text), same = 0;
		while (same < shared && same < other && text[other - 1 - same] == first[length - 1 - same])
			same++;
		shared = same;
		least = other < least ? other : least;
	}
	end = first + length - shared;
	end += strcspn(end, " ");
	shared = (size_t)(first + length - end);
	return *end == ' ' && shared + 8 <= least && shared + 8 <= length ? shared : 0;
}

enum mt_status mt_record_read(struct record *r, const json_t *document)
{
	memset(r, 0, sizeof *r);
	if (!json_is_object(document))
		return mt_fail(MT_INPUT, "the result is no JSON object; give a result.json that megatune tune or plan wrote");
	if (!json_object_get(document, "schema") && !json_object_get(document, "candidates"))
		return mt_fail(MT_INPUT, "the file has neither 'schema' nor 'candidates': it is no result; give a result.json that "
					 "megatune tune or plan wrote, or a scale.json (the plan.json of a described "
					 "machine has no report)");
	int64_t schema = mt_json_get_int(document, "schema", SCHEMA);
	if (schema > SCHEMA)
		return mt_fail(MT_INPUT, "the result has schema %lld, this megatune reads up to %d; use the megatune that wrote it",
			       (long long)schema, SCHEMA);
	r->json = document;
	r->model = json_object_get(document, "model");
	r->machine = json_object_get(document, "machine");
	r->model_name = mt_json_get_string(r->model, "name", "unnamed model");
	r->machine_name = mt_json_get_string(r->machine, "name", "unnamed machine");
	r->command = mt_json_get_string(document, "command", "tune");
	r->partial = strcmp(mt_json_get_string(document, "status", "done"), "partial") == 0;
	r->devices = positive(document, "gpus");
	r->tokens_per_step = positive(document, "tokens_per_step");
	r->model_flops = positive(document, "model_flops");
	r->full_attention_flops = positive(document, "model_flops_full_attention");
	r->peak_tflops = positive(r->machine, "peak_tflops");
	r->memory_limit_bytes = positive(document, "device_limit_bytes");
	if (!isfinite(r->memory_limit_bytes))
		r->memory_limit_bytes = positive(document, "memory_limit_bytes");
	const json_t *array = mt_record_array(document, "candidates");
	r->candidates = calloc(json_array_size(array) + 1, sizeof *r->candidates);
	if (!r->candidates)
		return mt_fail(MT_NOMEM, "no memory for %zu candidates", json_array_size(array));
	read_candidates(r, array);
	r->shared = shared_end(r);
	return MT_OK;
}

void mt_record_free(struct record *r)
{
	free(r->candidates);
	memset(r, 0, sizeof *r);
}

double mt_record_step_s(const struct candidate *c)
{
	return isfinite(c->measured_s) ? c->measured_s : c->predicted_s;
}

double mt_record_error_frac(const struct candidate *c)
{
	return (c->predicted_s - c->measured_s) / c->measured_s;
}

double mt_record_mfu_frac(const struct record *r, double flops, double step_s)
{
	return flops / (step_s * r->devices * r->peak_tflops * 1e12);
}

double mt_record_candidate_mfu(const struct record *r, const struct candidate *c, double step_s)
{
	double mfu = mt_record_mfu_frac(r, r->model_flops, step_s);
	return isfinite(mfu) ? mfu : c->mfu_frac * c->predicted_s / step_s;
}

double mt_record_tokens_per_s(const struct record *r, const struct candidate *c, double step_s)
{
	double rate = r->tokens_per_step / step_s;
	return isfinite(rate) ? rate : positive(c->json, "tokens_per_s") * c->predicted_s / step_s;
}

double mt_record_taken_bytes(const struct candidate *c, int stage, bool measured)
{
	static const char *const keys[][2] = {{"device_bytes", "measured_device_bytes"},
					      {"resident_bytes", "measured_resident_bytes"},
					      {"memory_bytes", "measured_memory_bytes"}};

	for (size_t k = 0; k < sizeof keys / sizeof keys[0]; k++) {
		double bytes = mt_record_item(c->json, keys[k][measured], (size_t)stage);

		if (bytes > 0 && bytes < 1e30)
			return bytes;
	}
	return NAN;
}

bool mt_record_memory(const struct candidate *c, int stage, double bytes[STORE_COUNT])
{
	static const char *const keys[STORE_OTHER] = {"parameters_bytes", "gradients_bytes", "optimizer_bytes", "activations_bytes",
						      "workspace_bytes"};
	const json_t *parts = json_array_get(mt_record_array(c->json, "memory_parts"), (size_t)stage);
	double taken = mt_record_taken_bytes(c, stage, false), sum = 0;
	bool known = false;

	for (int i = 0; i < STORE_OTHER; i++) {
		bytes[i] = positive(parts, keys[i]);
		known = known || isfinite(bytes[i]);
		bytes[i] = isfinite(bytes[i]) ? bytes[i] : 0;
		sum += bytes[i];
	}
	bytes[STORE_OTHER] = taken > sum ? taken - sum : 0;
	return known;
}

double mt_record_peak_bytes(const struct candidate *c, bool measured)
{
	double most = NAN;

	for (int stage = 0; stage < c->stages; stage++)
		most = fmax(most, mt_record_taken_bytes(c, stage, measured));
	return most;
}
