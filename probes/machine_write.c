/* machine_write: a machine as YAML, from the tables of its fields. Measured numbers are written with 7 digits: more than
 * any clock gave. */
#include "probes/machine_fields.h"

#include "base/file.h"

#include <inttypes.h>
#include <string.h>

/* Double-quoted, with what YAML needs escaped. */
static void write_text(FILE *file, const char *text)
{
	fputc('"', file);
	for (; *text; text++) {
		if (*text == '"' || *text == '\\')
			fprintf(file, "\\%c", *text);
		else if ((unsigned char)*text < 0x20 || *text == 0x7f)
			fprintf(file, "\\x%02x", (unsigned char)*text);
		else
			fputc(*text, file);
	}
	fputc('"', file);
}

static void write_value(FILE *file, const struct mt_field *field, const void *record)
{
	const void *at = (const char *)record + field->offset;
	switch (field->kind) {
	case MT_FIELD_TEXT:
		write_text(file, at);
		break;
	case MT_FIELD_INT:
		fprintf(file, "%d", *(const int *)at);
		break;
	case MT_FIELD_INT64:
		fprintf(file, "%" PRId64, *(const int64_t *)at);
		break;
	case MT_FIELD_DOUBLE:
		fprintf(file, "%.7g", *(const double *)at);
		break;
	case MT_FIELD_DTYPE:
		fputs(mt_dtype_name(*(const enum mt_dtype *)at), file);
		break;
	case MT_FIELD_OP:
		fputs(mt_comm_op_name(*(const enum mt_comm_op *)at), file);
		break;
	case MT_FIELD_PROVENANCE:
		fputs(mt_provenance_name(*(const enum mt_provenance *)at), file);
		break;
	}
}

/* One field a line; `lead` before the first ("- " of a list), `indent` before the others. */
static void write_record(FILE *file, const struct mt_section *section, const void *record, const char *lead, const char *indent)
{
	for (size_t i = 0; i < section->count; i++) {
		fprintf(file, "%s%s: ", i == 0 ? lead : indent, section->fields[i].key);
		write_value(file, &section->fields[i], record);
		fputc('\n', file);
	}
}

static void write_list(FILE *file, const struct mt_section *section, const void *records, int count, size_t size)
{
	if (count > 0)
		fprintf(file, "%s:\n", section->name);
	for (int i = 0; i < count; i++)
		write_record(file, section, (const char *)records + (size_t)i * size, "  - ", "    ");
}

static void write_pairs(FILE *file, const struct mt_machine *m)
{
	fputs("# One text a rank, one character a partner: '.' is the rank itself, 0 the first class above.\npair_class:\n", file);
	for (int a = 0; a < m->world; a++) {
		fputs("  - \"", file);
		for (int b = 0; b < m->world; b++) {
			int class = m->pair_class[(int64_t)a * m->world + b];
			fputc(class < 0 ? '.' : MT_CLASS_DIGITS[class], file);
		}
		fputs("\"\n", file);
	}
}

static void write_curves(FILE *file, const struct mt_machine *m)
{
	if (m->curve_count > 0)
		fputs("# points: [bytes, seconds, spread of the seconds]; all groups of a size and stride were busy at "
		      "once.\ncurves:\n",
		      file);
	for (int i = 0; i < m->curve_count; i++) {
		const struct mt_comm_curve *c = &m->curves[i];
		write_record(file, &mt_section_curve, c, "  - ", "    ");
		fputs("    points:\n", file);
		for (int p = 0; p < c->points; p++)
			fprintf(file, "      - [%.0f, %.7g, %.7g]\n", c->bytes[p], c->seconds[p], c->spread_s[p]);
	}
}

enum mt_status mt_machine_save(const struct mt_machine *m, const char *path)
{
	struct mt_file out = {0};
	MT_TRY(mt_file_create(&out, path));
	FILE *file = out.stream;
	fprintf(file, "# megatune machine file\nschema: %d\n", MT_MACHINE_SCHEMA);
	write_record(file, &mt_section_machine, m, "", "");
	write_list(file, &mt_section_host, m->hosts, m->host_count, sizeof *m->hosts);
	if (m->rank_host) {
		fputs("rank_host: [", file);
		for (int r = 0; r < m->world; r++)
			fprintf(file, "%s%d", r == 0 ? "" : r % 32 ? ", " : ",\n  ", m->rank_host[r]);
		fputs("]\n", file);
	}
	write_list(file, &mt_section_gpu, m->gpus, m->gpu_count, sizeof *m->gpus);
	write_list(file, &mt_section_nic, m->nics, m->nic_count, sizeof *m->nics);
	if (m->copies.bytes > 0) {
		fprintf(file, "%s:\n", mt_section_copies.name);
		write_record(file, &mt_section_copies, &m->copies, "  ", "  ");
	}
	write_list(file, &mt_section_rate, m->rates, m->rate_count, sizeof *m->rates);
	write_list(file, &mt_section_class, m->classes, m->class_count, sizeof *m->classes);
	if (m->pair_class)
		write_pairs(file, m);
	write_curves(file, m);
	return mt_file_commit(&out);
}
