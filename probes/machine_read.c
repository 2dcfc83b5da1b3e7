/* machine_read: a machine file, strictly: an unknown key, a missing one, or a number out of range is refused with its line. */
#include "probes/machine_fields.h"
#include "probes/machine_flows.h"

#include "base/yaml.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST_WORLD 1000000

static enum mt_status read_name(const struct mt_yaml *node, const char *what, int count, const char *(*name)(int), int *value)
{
	const char *text;
	MT_TRY(mt_yaml_string(node, what, &text));
	for (int i = 0; i < count; i++) {
		if (strcmp(name(i), text) == 0) {
			*value = i;
			return MT_OK;
		}
	}
	return mt_fail(MT_INPUT, "%s:%d: %s is \"%s\"; one of %s, %s, ... is known", node->file, node->line, what, text, name(0),
		       name(1));
}

static const char *dtype_name(int i)
{
	return mt_dtype_name((enum mt_dtype)i);
}

static const char *op_name(int i)
{
	return mt_comm_op_name((enum mt_comm_op)i);
}

static const char *provenance_name(int i)
{
	return mt_provenance_name((enum mt_provenance)i);
}

static enum mt_status out_of_range(const struct mt_yaml *node, const char *what, double least)
{
	return mt_fail(MT_INPUT, "%s:%d: %s is %s; it must be a finite number, at least %g", node->file, node->line, what,
		       node->text, least);
}

static enum mt_status read_int(const struct mt_yaml *node, const struct mt_field *field, void *at)
{
	int64_t value;
	MT_TRY(mt_yaml_int(node, field->key, &value));
	if ((double)value < field->least || (field->kind == MT_FIELD_INT && value > INT_MAX))
		return out_of_range(node, field->key, field->least);
	if (field->kind == MT_FIELD_INT)
		*(int *)at = (int)value;
	else
		*(int64_t *)at = value;
	return MT_OK;
}

static enum mt_status read_value(const struct mt_yaml *node, const struct mt_field *field, void *record)
{
	void *at = (char *)record + field->offset;
	const char *text;
	int index = 0;
	switch (field->kind) {
	case MT_FIELD_TEXT:
		MT_TRY(mt_yaml_string(node, field->key, &text));
		if (strlen(text) >= field->size)
			return mt_fail(MT_INPUT, "%s:%d: %s is longer than %zu characters", node->file, node->line, field->key,
				       field->size - 1);
		strcpy(at, text);
		return MT_OK;
	case MT_FIELD_INT:
	case MT_FIELD_INT64:
		return read_int(node, field, at);
	case MT_FIELD_DOUBLE:
		MT_TRY(mt_yaml_float(node, field->key, at));
		return isfinite(*(double *)at) && *(double *)at >= field->least ? MT_OK
										: out_of_range(node, field->key, field->least);
	case MT_FIELD_DTYPE:
		MT_TRY(read_name(node, field->key, MT_DTYPE_COUNT, dtype_name, &index));
		*(enum mt_dtype *)at = (enum mt_dtype)index;
		return MT_OK;
	case MT_FIELD_OP:
		MT_TRY(read_name(node, field->key, MT_COMM_OP_COUNT, op_name, &index));
		*(enum mt_comm_op *)at = (enum mt_comm_op)index;
		return MT_OK;
	case MT_FIELD_PROVENANCE:
		MT_TRY(read_name(node, field->key, MT_SPECIFICATION + 1, provenance_name, &index));
		*(enum mt_provenance *)at = (enum mt_provenance)index;
		return MT_OK;
	}
	return MT_OK;
}

/* Keys of the section and `more` (NULL-terminated) are allowed. */
static enum mt_status read_record(const struct mt_yaml *node, const struct mt_section *section, const char *const *more,
				  void *record)
{
	const char *known[48];
	size_t count = 0;
	if (node->kind != MT_YAML_MAP)
		return mt_fail(MT_INPUT, "%s:%d: %s must be a mapping of keys to values", node->file, node->line, section->name);
	for (; count < section->count; count++)
		known[count] = section->fields[count].key;
	for (; *more; more++)
		known[count++] = *more;
	MT_TRY(mt_yaml_check_keys(node, known, count));
	for (size_t i = 0; i < section->count; i++) {
		const struct mt_field *field = &section->fields[i];
		const struct mt_yaml *value = mt_yaml_get(node, field->key);
		if (value)
			MT_TRY(read_value(value, field, record));
		else if (field->required)
			return mt_fail(MT_INPUT, "%s:%d: %s needs the key %s", node->file, node->line, section->name, field->key);
	}
	return MT_OK;
}

/* A list of records into fresh memory. An absent list is empty. */
static enum mt_status read_list(const struct mt_yaml *root, const struct mt_section *section, const char *const *more, size_t size,
				void **records, int *count)
{
	const struct mt_yaml *list = mt_yaml_get(root, section->name);
	if (!list)
		return MT_OK;
	if (list->kind != MT_YAML_LIST)
		return mt_fail(MT_INPUT, "%s:%d: %s must be a list", list->file, list->line, section->name);
	*records = calloc(list->count + 1, size);
	if (!*records)
		return mt_fail(MT_NOMEM, "no memory for %zu %s", list->count, section->name);
	for (size_t i = 0; i < list->count; i++)
		MT_TRY(read_record(list->items[i], section, more, (char *)*records + i * size));
	*count = (int)list->count;
	return MT_OK;
}

/* Host entries; one with `count: n` stands for n, named name0..name(n-1). */
static enum mt_status read_hosts(const struct mt_yaml *root, struct mt_machine *m)
{
	static const char *const more[] = {"count", NULL};
	const struct mt_yaml *list = mt_yaml_get(root, "hosts");
	int64_t total = 0, ranks = 0;
	if (!list || list->kind != MT_YAML_LIST || list->count == 0)
		return mt_fail(MT_INPUT, "%s:%d: a machine needs a list of hosts", root->file, list ? list->line : root->line);
	for (size_t i = 0; i < list->count; i++) {
		struct mt_machine_host host = {0};
		const struct mt_yaml *repeat = mt_yaml_get(list->items[i], "count");
		int64_t n = 1;
		MT_TRY(read_record(list->items[i], &mt_section_host, more, &host));
		if (repeat)
			MT_TRY(mt_yaml_int(repeat, "count", &n));
		if (n < 1 || n > MOST_WORLD || n * host.ranks + ranks > MOST_WORLD)
			return mt_fail(MT_INPUT, "%s:%d: host %s: %lld hosts of %d ranks; a machine has 1 to %d ranks", list->file,
				       list->items[i]->line, host.name, (long long)n, host.ranks, MOST_WORLD);
		struct mt_machine_host *hosts = realloc(m->hosts, (size_t)(total + n) * sizeof *hosts);
		if (!hosts)
			return mt_fail(MT_NOMEM, "no memory for %lld hosts", (long long)(total + n));
		m->hosts = hosts;
		for (int64_t k = 0; k < n; k++) {
			m->hosts[total] = host;
			if (repeat)
				snprintf(m->hosts[total].name, sizeof host.name, "%.50s%d", host.name, (int)k);
			total++;
		}
		ranks += n * host.ranks;
	}
	m->host_count = (int)total;
	if (m->world != 0 && m->world != ranks)
		return mt_fail(MT_INPUT, "%s:%d: world is %d, but the hosts have %lld ranks", list->file, list->line, m->world,
			       (long long)ranks);
	m->world = (int)ranks;
	return MT_OK;
}

static enum mt_status read_placement(const struct mt_yaml *root, struct mt_machine *m)
{
	const struct mt_yaml *list = mt_yaml_get(root, "rank_host");
	int at = 0;
	m->rank_host = malloc((size_t)m->world * sizeof *m->rank_host);
	if (!m->rank_host)
		return mt_fail(MT_NOMEM, "no memory for %d ranks", m->world);
	for (int h = 0; h < m->host_count; h++)
		for (int r = 0; r < m->hosts[h].ranks; r++)
			m->rank_host[at++] = h;
	if (!list)
		return MT_OK;
	if (list->kind != MT_YAML_LIST || list->count != (size_t)m->world)
		return mt_fail(MT_INPUT, "%s:%d: rank_host must be a list of %d host numbers, one a rank", list->file, list->line,
			       m->world);
	int *placed = calloc((size_t)m->host_count, sizeof *placed);
	enum mt_status st = placed ? MT_OK : mt_fail(MT_NOMEM, "no memory for %d hosts", m->host_count);
	for (int r = 0; st == MT_OK && r < m->world; r++) {
		int64_t host = 0;
		MT_GOTO(out, mt_yaml_int(list->items[r], "rank_host", &host));
		if (host < 0 || host >= m->host_count || ++placed[host] > m->hosts[host].ranks)
			st = mt_fail(MT_INPUT,
				     "%s:%d: rank_host puts rank %d on host %lld; hosts are 0 to %d, each with as many ranks as "
				     "its entry says",
				     list->file, list->items[r]->line, r, (long long)host, m->host_count - 1);
		else
			m->rank_host[r] = (int)host;
	}
out:
	free(placed);
	return st;
}

static enum mt_status read_pairs(const struct mt_yaml *root, struct mt_machine *m)
{
	const struct mt_yaml *list = mt_yaml_get(root, "pair_class");
	if (!list)
		return MT_OK;
	if (list->kind != MT_YAML_LIST || list->count != (size_t)m->world)
		return mt_fail(MT_INPUT, "%s:%d: pair_class must be a list of %d texts, one a rank", list->file, list->line,
			       m->world);
	m->pair_class = malloc((size_t)m->world * (size_t)m->world * sizeof *m->pair_class);
	if (!m->pair_class)
		return mt_fail(MT_NOMEM, "no memory for %d ranks' pairs", m->world);
	for (int a = 0; a < m->world; a++) {
		const char *text;
		MT_TRY(mt_yaml_string(list->items[a], "pair_class", &text));
		if (strlen(text) != (size_t)m->world)
			return mt_fail(MT_INPUT,
				       "%s:%d: pair_class of rank %d has %zu characters; it needs one for each of %d ranks",
				       list->file, list->items[a]->line, a, strlen(text), m->world);
		for (int b = 0; b < m->world; b++) {
			const char *digit = strchr(MT_CLASS_DIGITS, text[b]);
			int class = a == b ? -1 : digit ? (int)(digit - MT_CLASS_DIGITS) : m->class_count;
			bool same = b >= a || m->pair_class[(int64_t)b * m->world + a] == class;
			if ((a == b) != (text[b] == '.') || class >= m->class_count || !same)
				return mt_fail(MT_INPUT,
					       "%s:%d: pair_class of ranks %d and %d is '%c'; classes are 0 to %d, '.' is a rank "
					       "with itself, and both ways must agree",
					       list->file, list->items[a]->line, a, b, text[b], m->class_count - 1);
			m->pair_class[(int64_t)a * m->world + b] = class;
		}
	}
	return MT_OK;
}

static enum mt_status read_points(const struct mt_yaml *node, struct mt_comm_curve *curve)
{
	const struct mt_yaml *list = mt_yaml_get(node, "points");
	const size_t most = sizeof curve->bytes / sizeof *curve->bytes;
	if (!list || list->kind != MT_YAML_LIST || list->count == 0 || list->count > most)
		return mt_fail(MT_INPUT, "%s:%d: a curve needs 1 to %zu points of [bytes, seconds, spread]", node->file, node->line,
			       most);
	for (size_t i = 0; i < list->count; i++) {
		const struct mt_yaml *point = list->items[i];
		if (point->kind != MT_YAML_LIST || point->count < 2 || point->count > 3)
			return mt_fail(MT_INPUT, "%s:%d: a point is [bytes, seconds, spread]", point->file, point->line);
		MT_TRY(mt_yaml_float(point->items[0], "bytes", &curve->bytes[i]));
		MT_TRY(mt_yaml_float(point->items[1], "seconds", &curve->seconds[i]));
		if (point->count == 3)
			MT_TRY(mt_yaml_float(point->items[2], "spread", &curve->spread_s[i]));
		bool grows = i == 0 || curve->bytes[i] > curve->bytes[i - 1];
		if (!isfinite(curve->bytes[i]) || !isfinite(curve->seconds[i]) || !isfinite(curve->spread_s[i]) ||
		    curve->bytes[i] <= 0 || curve->seconds[i] <= 0 || curve->spread_s[i] < 0 || !grows)
			return mt_fail(
				MT_INPUT,
				"%s:%d: point %zu: bytes must grow, bytes and seconds be above 0, and the spread not below 0",
				point->file, point->line, i);
	}
	curve->points = (int)list->count;
	return MT_OK;
}

static enum mt_status wrong_host(const struct mt_yaml *root, const struct mt_section *section, int i, int host, int hosts)
{
	const struct mt_yaml *list = mt_yaml_get(root, section->name);
	return mt_fail(MT_INPUT, "%s:%d: %s: host is %d; hosts are 0 to %d", root->file, list->items[i]->line, section->name, host,
		       hosts - 1);
}

static enum mt_status check_hosts(const struct mt_yaml *root, const struct mt_machine *m)
{
	for (int i = 0; i < m->gpu_count; i++)
		if (m->gpus[i].host >= m->host_count)
			return wrong_host(root, &mt_section_gpu, i, m->gpus[i].host, m->host_count);
	for (int i = 0; i < m->nic_count; i++)
		if (m->nics[i].host >= m->host_count)
			return wrong_host(root, &mt_section_nic, i, m->nics[i].host, m->host_count);
	return MT_OK;
}

static enum mt_status read_lists(const struct mt_yaml *root, struct mt_machine *m)
{
	static const char *const none[] = {NULL}, *const points[] = {"points", NULL};
	MT_TRY(read_list(root, &mt_section_rate, none, sizeof *m->rates, (void **)&m->rates, &m->rate_count));
	MT_TRY(read_list(root, &mt_section_class, none, sizeof *m->classes, (void **)&m->classes, &m->class_count));
	MT_TRY(read_list(root, &mt_section_gpu, none, sizeof *m->gpus, (void **)&m->gpus, &m->gpu_count));
	MT_TRY(read_list(root, &mt_section_nic, none, sizeof *m->nics, (void **)&m->nics, &m->nic_count));
	MT_TRY(check_hosts(root, m));
	if (mt_yaml_get(root, "copies"))
		MT_TRY(read_record(mt_yaml_get(root, "copies"), &mt_section_copies, none, &m->copies));
	MT_TRY(read_list(root, &mt_section_curve, points, sizeof *m->curves, (void **)&m->curves, &m->curve_count));
	const struct mt_yaml *curves = mt_yaml_get(root, "curves");
	for (int i = 0; i < m->curve_count; i++)
		MT_TRY(read_points(curves->items[i], &m->curves[i]));
	if (m->class_count > (int)strlen(MT_CLASS_DIGITS))
		return mt_fail(MT_INPUT, "%s: more than %zu classes of pairs", root->file, strlen(MT_CLASS_DIGITS));
	return MT_OK;
}

enum mt_status mt_machine_load(struct mt_machine *machine, const char *path)
{
	static const char *const more[] = {"schema", "hosts", "rank_host", "rates",  "classes", "pair_class",
					   "curves", "gpus",  "nics",      "copies", NULL};
	struct mt_yaml *root = NULL;
	int64_t schema = 0;
	enum mt_status st;
	*machine = (struct mt_machine){.provenance = MT_SPECIFICATION, .device = "cpu"};
	MT_GOTO(out, mt_yaml_load(&root, path));
	MT_GOTO(out, read_record(root, &mt_section_machine, more, machine));
	MT_GOTO(out, mt_yaml_int(mt_yaml_get(root, "schema"), "schema", &schema));
	if (schema != MT_MACHINE_SCHEMA) {
		st = mt_fail(MT_INPUT, "%s: schema %lld; this program reads %d", path, (long long)schema, MT_MACHINE_SCHEMA);
		goto out;
	}
	MT_GOTO(out, read_hosts(root, machine));
	MT_GOTO(out, read_placement(root, machine));
	MT_GOTO(out, read_lists(root, machine));
	MT_GOTO(out, read_pairs(root, machine));
	MT_GOTO(out, mt_machine_find_islands(machine));
out:
	mt_yaml_free(root);
	if (st != MT_OK)
		mt_machine_free(machine);
	return st;
}
