/* hf_rope: rotations as a Hugging Face config.json tells them, read and written.
 *
 * Up to version 4 of transformers: rope_theta, and rope_scaling with the stretch; from version 5 on rope_parameters with both. The
 * stretch is named by rope_type (type in old files); what each reads is in its modeling_rope_utils. */
#include "base/json.h"
#include "engine/hf.h"
#include "engine/model_private.h"

#include <string.h>

/* A number of the object, or `otherwise`. */
static enum mt_status read(const json_t *object, const char *path, const char *key, double otherwise, double *value)
{
	const json_t *node = json_object_get(object, key);

	if (node && !json_is_null(node) && !json_is_number(node))
		return mt_fail(MT_INPUT, "%s: %s must be a number", path, key);
	*value = json_is_number(node) ? json_number_value(node) : otherwise;
	return MT_OK;
}

static enum mt_status read_yarn(struct mt_model *m, const json_t *p, const char *path)
{
	const json_t *truncate = json_object_get(p, "truncate");

	m->rope_scaling = MT_ROPE_YARN;
	if (json_is_false(truncate))
		return mt_fail(MT_INPUT, "%s: truncate false of yarn is not supported", path);
	MT_TRY(read(p, path, "beta_slow", 1, &m->rope_low));
	MT_TRY(read(p, path, "beta_fast", 32, &m->rope_high));
	MT_TRY(read(p, path, "attention_factor", 0, &m->rope_magnitude));
	MT_TRY(read(p, path, "mscale", 0, &m->rope_mscale));
	return read(p, path, "mscale_all_dim", 0, &m->rope_mscale_all);
}

static enum mt_status read_stretch(struct mt_model *m, const json_t *p, const char *path)
{
	const char *type = mt_json_get_string(p, "rope_type", mt_json_get_string(p, "type", "default"));
	double original;

	if (strcmp(type, "default") == 0)
		return MT_OK;
	MT_TRY(read(p, path, "factor", 1, &m->rope_factor));
	MT_TRY(read(p, path, "original_max_position_embeddings", (double)m->seq, &original));
	m->rope_original = (int64_t)original;
	if (strcmp(type, "linear") == 0) {
		m->rope_scaling = MT_ROPE_LINEAR;
		m->rope_original = 0;
		return MT_OK;
	}
	if (strcmp(type, "yarn") == 0)
		return read_yarn(m, p, path);
	if (strcmp(type, "llama3") != 0)
		return mt_fail(MT_INPUT, "%s: rope_type '%s' is not supported; known: default, linear, llama3, yarn", path, type);
	m->rope_scaling = MT_ROPE_LLAMA3;
	MT_TRY(read(p, path, "low_freq_factor", 1, &m->rope_low));
	return read(p, path, "high_freq_factor", 4, &m->rope_high);
}

enum mt_status mt_model_read_hf_rope(struct mt_model *m, const json_t *config, const char *path)
{
	const json_t *p = json_object_get(config, "rope_parameters");
	double part;

	if (!json_is_object(p))
		p = json_object_get(config, "rope_scaling");
	MT_TRY(read(config, path, "rope_theta", 10000, &m->rope_theta));
	MT_TRY(read(config, path, "partial_rotary_factor", 1, &part));
	if (json_is_object(p)) {
		MT_TRY(read(p, path, "rope_theta", m->rope_theta, &m->rope_theta));
		MT_TRY(read(p, path, "partial_rotary_factor", part, &part));
		MT_TRY(read_stretch(m, p, path));
	}
	if (part != 1) {
		int64_t head = m->head_dim > 0 ? m->head_dim : m->heads > 0 ? m->hidden / m->heads : 0;

		m->rotary_dim = (int64_t)((double)head * part);
	}
	return MT_OK;
}

json_t *mt_hf_rope_scaling(const struct mt_model *m)
{
	static const char *const names[] = {"default", "linear", "llama3", "yarn"};
	json_t *p = json_object();

	json_object_set_new(p, "rope_type", json_string(names[m->rope_scaling]));
	json_object_set_new(p, "factor", json_real(m->rope_factor));
	if (m->rope_scaling == MT_ROPE_LINEAR)
		return p;
	json_object_set_new(p, "original_max_position_embeddings", json_integer(m->rope_original));
	json_object_set_new(p, m->rope_scaling == MT_ROPE_YARN ? "beta_slow" : "low_freq_factor", json_real(m->rope_low));
	json_object_set_new(p, m->rope_scaling == MT_ROPE_YARN ? "beta_fast" : "high_freq_factor", json_real(m->rope_high));
	if (m->rope_magnitude > 0)
		json_object_set_new(p, "attention_factor", json_real(m->rope_magnitude));
	if (m->rope_mscale > 0)
		json_object_set_new(p, "mscale", json_real(m->rope_mscale));
	if (m->rope_mscale_all > 0)
		json_object_set_new(p, "mscale_all_dim", json_real(m->rope_mscale_all));
	return p;
}
