/* summary: the result on a terminal, at most 80 columns: what to run, what it gives, and how sure that is. */
#include "reports/report.h"

#include "base/json.h"
#include "reports/record.h"
#include "reports/text.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define COLUMNS          80
#define LABEL            11 /* columns of "  Choice   " */
#define MOST_LAYOUTS     8
#define NAME_COLUMNS     30
#define MEASURED_COLUMNS 10
#define ERROR_COLUMNS    8

struct summary {
	FILE *file;
	const struct record *record;
	int colour;
};

enum style { STYLE_BOLD, STYLE_DIM, STYLE_GOOD, STYLE_BAD };

static void style_on(const struct summary *s, enum style style)
{
	static const char *const codes[] = {"\033[1m", "\033[2m", "\033[1;32m", "\033[1;31m"};
	if (s->colour)
		fputs(codes[style], s->file);
}

static void style_off(const struct summary *s)
{
	if (s->colour)
		fputs("\033[0m", s->file);
}

static void label(const struct summary *s, const char *text)
{
	style_on(s, STYLE_DIM);
	fprintf(s->file, "  %-*s", LABEL - 2, text);
	style_off(s);
}

/* Text after a label, wrapped at blanks; a word that is too long is broken. */
static void wrapped(const struct summary *s, const char *text)
{
	char c[5], word[256];
	int column = LABEL, width = 0;
	size_t used = 0;

	for (int columns = 1; columns > 0;) {
		columns = mt_text_next(&text, c);
		bool blank = columns < 0 || *c == ' ';
		if (!blank) {
			for (const char *byte = c; *byte; byte++)
				word[used++] = *byte;
			width += columns;
		}
		if (width > 0 && (blank || width >= COLUMNS - LABEL - 2 || used + 5 > sizeof word)) {
			if (column > LABEL && column + 1 + width > COLUMNS) {
				fprintf(s->file, "\n%*s", LABEL, "");
				column = LABEL;
			} else if (column > LABEL) {
				fputc(' ', s->file);
				column++;
			}
			fwrite(word, 1, used, s->file);
			column += width;
			used = 0;
			width = 0;
		}
	}
	fputc('\n', s->file);
}

/* A dash is no column of ASCII: terminals without UTF-8 get a minus sign. */
static const char *plain(const char *text)
{
	return *text == '\xe2' ? "-" : text;
}

static void put_title(const struct summary *s)
{
	const struct record *r = s->record;
	char number[TEXT_BYTES], device[24], name[128], line[256];
	bool known = isfinite(r->devices);

	mt_text_copy(name, sizeof name, r->model_name, 30);
	mt_text_copy(device, sizeof device, mt_json_get_string(r->machine, "device", ""), 8);
	int used = snprintf(line, sizeof line, "megatune %.16s: %s on ", strcmp(r->command, "plan") == 0 ? "plan" : "tune", name);
	if (known)
		used += snprintf(line + used, sizeof line - (size_t)used, "%s %s device%s, ", mt_text_count(number, r->devices),
				 device, r->devices == 1 ? "" : "s");
	mt_text_copy(name, sizeof name, r->machine_name, 24);
	snprintf(line + used, sizeof line - (size_t)used, "%s", name);
	style_on(s, STYLE_BOLD);
	mt_text_plain(s->file, line, COLUMNS);
	style_off(s);
	fputs("\n\n", s->file);
}

static void put_speed(const struct summary *s, const struct candidate *c)
{
	const struct record *r = s->record;
	char a[TEXT_BYTES], b[TEXT_BYTES], d[TEXT_BYTES], line[320];
	double step_s = mt_record_step_s(c), tflops = r->model_flops / step_s / r->devices / 1e12;
	bool measured = isfinite(c->measured_s);

	label(s, "Step");
	int used = 0;
	if (measured)
		used = snprintf(line, sizeof line, "%s measured; ", plain(mt_text_seconds(a, c->measured_s)));
	used += snprintf(line + used, sizeof line - (size_t)used, "%s predicted", plain(mt_text_seconds(a, c->predicted_s)));
	if (isfinite(c->predicted_lo_s))
		used += snprintf(line + used, sizeof line - (size_t)used, ", 90%%: %s",
				 mt_text_interval(a, c->predicted_lo_s, c->predicted_hi_s));
	if (measured)
		snprintf(line + used, sizeof line - (size_t)used, "; error %s",
			 plain(mt_text_percent(a, mt_record_error_frac(c), "+")));
	wrapped(s, line);

	label(s, "Speed");
	snprintf(line, sizeof line, "%s tokens/s; %s TFLOP/s a device",
		 plain(mt_text_count(a, mt_record_tokens_per_s(r, c, step_s))), plain(mt_text_number(b, tflops)));
	wrapped(s, line);

	if (!isfinite(mt_record_candidate_mfu(r, c, step_s)))
		return;
	label(s, "MFU");
	snprintf(line, sizeof line, "%s of %s TFLOP/s (%s with full attention)",
		 plain(mt_text_percent(a, mt_record_candidate_mfu(r, c, step_s), "")), plain(mt_text_number(b, r->peak_tflops)),
		 plain(mt_text_percent(d, mt_record_mfu_frac(r, r->full_attention_flops, step_s), "")));
	wrapped(s, line);
}

/* What another order of ranks than the launcher's gains. */
static void put_placement(const struct summary *s)
{
	const json_t *p = json_object_get(s->record->json, "placement");
	const char *order = mt_json_get_string(p, "rank_order", NULL);
	double launcher_s = mt_json_get_number(p, "launcher_step_s", NAN), step_s = mt_json_get_number(p, "step_s", NAN);
	char a[TEXT_BYTES], b[TEXT_BYTES], words[64], line[240];

	if (!order || !(step_s > 0))
		return;
	label(s, "Ranks");
	snprintf(line, sizeof line, "placed %s; predicted %s less than the launcher's order, which takes %s",
		 mt_text_copy(words, sizeof words, order, 40), plain(mt_text_percent(a, 1 - step_s / launcher_s, "")),
		 plain(mt_text_seconds(b, launcher_s)));
	wrapped(s, line);
}

static void put_memory(const struct summary *s, const struct candidate *c)
{
	char a[TEXT_BYTES], line[200];
	double measured = mt_record_peak_bytes(c, true), limit = s->record->memory_limit_bytes;
	int used = 0;

	label(s, "Memory");
	if (isfinite(measured))
		used = snprintf(line, sizeof line, "%s measured; ", mt_text_bytes(a, measured));
	used += snprintf(line + used, sizeof line - (size_t)used, "%s predicted",
			 plain(mt_text_bytes(a, mt_record_peak_bytes(c, false))));
	if (isfinite(limit))
		snprintf(line + used, sizeof line - (size_t)used, "; limit %s a rank", mt_text_bytes(a, limit));
	wrapped(s, line);
}

static void put_choice(const struct summary *s)
{
	const struct candidate *c = s->record->choice;
	const char *reason = mt_json_get_string(s->record->json, "choice_reason", NULL);

	if (!c) {
		style_on(s, STYLE_BAD);
		fputs("  No layout was chosen.\n", s->file);
		style_off(s);
		return;
	}
	label(s, "Choice");
	style_on(s, STYLE_GOOD);
	mt_text_plain(s->file, c->text, COLUMNS - LABEL);
	style_off(s);
	fputc('\n', s->file);
	if (reason) {
		char text[260];
		label(s, "");
		wrapped(s, mt_text_copy(text, sizeof text, reason, 230));
	}
	put_speed(s, c);
	put_placement(s);
	put_memory(s, c);
}

/* A number, right-aligned with a blank before it; one that does not fit is left out rather than cut. */
static void column(const struct summary *s, int width, const char *text)
{
	text = plain(text);
	fprintf(s->file, "%*s", width, strlen(text) < (size_t)width ? text : "...");
}

/* Where nothing was run names have the columns of what was measured. */
static int name_columns(const struct summary *s)
{
	return NAME_COLUMNS + (s->record->run_count ? 0 : MEASURED_COLUMNS + ERROR_COLUMNS);
}

static void put_measured(const struct summary *s, const struct candidate *c)
{
	char a[TEXT_BYTES];

	if (!s->record->run_count)
		return;
	column(s, MEASURED_COLUMNS, c->failure ? "failed" : mt_text_seconds(a, c->measured_s));
	column(s, ERROR_COLUMNS, mt_text_percent(a, mt_record_error_frac(c), "+"));
}

static void put_layout(const struct summary *s, const struct candidate *c)
{
	char a[TEXT_BYTES];
	bool chosen = c == s->record->choice;

	if (chosen)
		style_on(s, STYLE_GOOD);
	fprintf(s->file, " %c%3d ", chosen ? '*' : ' ', c->rank > 999 ? 999 : c->rank);
	char *text = strndup(c->text, strlen(c->text) - s->record->shared);
	int used = text ? mt_text_plain(s->file, text, name_columns(s)) : 0;
	free(text);
	fprintf(s->file, "%*s", name_columns(s) - used, "");
	column(s, 9, mt_text_seconds(a, c->predicted_s));
	put_measured(s, c);
	column(s, 7, mt_text_percent(a, mt_record_candidate_mfu(s->record, c, mt_record_step_s(c)), ""));
	column(s, 10, mt_text_bytes(a, mt_record_peak_bytes(c, false)));
	if (chosen)
		style_off(s);
	fputc('\n', s->file);
}

static void put_layouts(const struct summary *s)
{
	const struct record *r = s->record;

	if (!r->count)
		return;
	fputc('\n', s->file);
	char head[128] = "layout", shared[64];
	if (r->shared) {
		const char *first = r->candidates[0].text;
		mt_text_copy(shared, sizeof shared, first + strlen(first) - r->shared, NAME_COLUMNS - 14);
		snprintf(head, sizeof head, "layout (all%s)", shared);
	}
	style_on(s, STYLE_DIM);
	fprintf(s->file, "   #  %-*s%9s", name_columns(s), head, "predicted");
	if (r->run_count)
		fprintf(s->file, "%*s%*s", MEASURED_COLUMNS, "measured", ERROR_COLUMNS, "error");
	fprintf(s->file, "%7s%10s\n", "MFU", "memory");
	style_off(s);
	for (int i = 0; i < r->count && i < MOST_LAYOUTS; i++)
		put_layout(s, &r->candidates[i]);
	if (r->count > MOST_LAYOUTS) {
		style_on(s, STYLE_DIM);
		fprintf(s->file, "      and %d more in the report\n", r->count - MOST_LAYOUTS);
		style_off(s);
	}
	fputc('\n', s->file);
}

/* "58 layouts keep every rule; 56 do not: batch_divisible 14, ..." */
static void put_searched(const struct summary *s)
{
	const json_t *counts = json_object_get(s->record->json, "rejected"), *value;
	char *text = NULL, number[TEXT_BYTES], rule[64];
	size_t bytes = 0;
	const char *name;
	double total = 0;
	int listed = 0;

	json_object_foreach((json_t *)counts, name, value) total +=
		json_is_number(value) && json_number_value(value) > 0 ? json_number_value(value) : 0;
	FILE *memory = open_memstream(&text, &bytes);
	if (!memory)
		return;
	double searched = mt_record_number(s->record->json, "searched");
	if (isfinite(searched))
		fprintf(memory, "%s layout%s every rule", mt_text_count(number, searched), searched == 1 ? " keeps" : "s keep");
	if (total > 0)
		fprintf(memory, "%s%s rejected:", isfinite(searched) ? "; " : "", mt_text_count(number, total));
	json_object_foreach((json_t *)counts, name, value)
	{
		if (!json_is_number(value) || !(json_number_value(value) > 0) || listed >= 12)
			continue;
		fprintf(memory, "%s %s %s", listed ? "," : "", mt_text_copy(rule, sizeof rule, name, 40),
			mt_text_count(number, json_number_value(value)));
		listed++;
	}
	fclose(memory);
	if (*text) {
		label(s, "Searched");
		wrapped(s, text);
	}
	free(text);
}

/* Above it the user is told. */
#define MOSTLY_DISTURBED 0.3

static void put_prediction(const struct summary *s)
{
	const json_t *p = json_object_get(s->record->json, "prediction");
	char a[TEXT_BYTES], b[TEXT_BYTES], c[TEXT_BYTES], d[TEXT_BYTES], line[256];
	double runs = mt_record_number(p, "runs"), disturbed_frac = mt_record_number(p, "disturbed_frac");

	if (!(runs > 0))
		return;
	label(s, "Accuracy");
	snprintf(line, sizeof line, "%s runs: median error %s, 90th percentile %s, %s inside the interval", mt_text_count(a, runs),
		 plain(mt_text_percent(b, mt_record_number(p, "median_ape_frac"), "")),
		 plain(mt_text_percent(c, mt_record_number(p, "p90_ape_frac"), "")),
		 plain(mt_text_count(d, mt_record_number(p, "inside_interval"))));
	wrapped(s, line);
	if (!(disturbed_frac > MOSTLY_DISTURBED))
		return;
	label(s, "Noise");
	snprintf(
		line, sizeof line,
		"%s of the timed steps took over 5%% longer than the fastest of their layout: other work slows this machine. Times "
		"are of the other steps",
		plain(mt_text_percent(a, disturbed_frac, "")));
	wrapped(s, line);
}

/* The report stands beside the run file. */
static void put_next(const struct summary *s)
{
	const json_t *json = s->record->json;
	const char *command = mt_json_get_string(json, "command_line", NULL), *run = mt_json_get_string(json, "run", NULL);
	const char *report = mt_json_get_string(json, "report", NULL);
	char number[TEXT_BYTES], line[2048];
	double seconds = mt_record_number(json, "seconds");

	if (isfinite(seconds)) {
		label(s, "Took");
		wrapped(s, mt_text_seconds(number, seconds));
	}
	if (command) {
		label(s, "Run");
		wrapped(s, command);
	}
	if (report) {
		snprintf(line, sizeof line, "%s", report);
	} else {
		const char *slash = run ? strrchr(run, '/') : NULL;
		int folder = slash && slash - run < 1800 ? (int)(slash - run) + 1 : 0;
		snprintf(line, sizeof line, "%.*sreport.html", folder, run ? run : "");
	}
	label(s, "Report");
	wrapped(s, line);
}

/* The table of a scale document is in its page. */
static enum mt_status print_scale(const json_t *result, FILE *file)
{
	fprintf(file, "megatune scale: %s on %s with %s\n  Report   scale.html\n",
		mt_json_get_string(result, "model", "unnamed model"), mt_json_get_string(result, "machine", "unnamed machine"),
		mt_json_get_string(result, "stack", "an unnamed stack"));
	return ferror(file) ? mt_fail(MT_IO, "the summary could not be written") : MT_OK;
}

enum mt_status mt_report_print(const json_t *result, FILE *file, int colour)
{
	struct record record = {0};
	enum mt_status st;

	if (strcmp(mt_json_get_string(result, "command", ""), "scale") == 0)
		return print_scale(result, file);
	st = mt_record_read(&record, result);

	if (st == MT_OK) {
		struct summary summary = {.file = file, .record = &record, .colour = colour};
		put_title(&summary);
		if (record.partial) {
			style_on(&summary, STYLE_BAD);
			fputs("  PARTIAL: interrupted; what was found until then:\n", file);
			style_off(&summary);
		}
		put_choice(&summary);
		put_layouts(&summary);
		put_searched(&summary);
		put_prediction(&summary);
		put_next(&summary);
		if (ferror(file))
			st = mt_fail(MT_IO, "the summary could not be written");
	}
	mt_record_free(&record);
	return st;
}
