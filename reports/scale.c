/* scale: scale.html, section by section, from the document of `megatune scale`. */
#include "reports/scale.h"

#include "base/file.h"
#include "base/json.h"
#include "reports/page.h"

#include <math.h>
#include <stdlib.h>

static const struct figure *const figures[] = {&mt_figure_scale_mfu, &mt_figure_scale_split};

static void number_cell(const struct page *page, double value, const char *(*text)(char *, double))
{
	char buf[TEXT_BYTES];

	mt_page_number(page, text(buf, value));
}

static const char *percent(char *buf, double frac)
{
	return mt_text_percent(buf, frac, "");
}

static void put_head(const struct page *page)
{
	const json_t *doc = page->record->json;
	const json_t *options = json_object_get(doc, "options"), *forecast = json_object_get(doc, "forecast");
	char a[TEXT_BYTES], b[TEXT_BYTES];

	fputs("<h1>", page->out);
	mt_text_html_most(page->out, mt_json_get_string(doc, "model", "?"), 80);
	fputs(" at scale</h1>\n<p class=\"sub\">on ", page->out);
	mt_text_html_most(page->out, mt_json_get_string(doc, "machine", "?"), 80);
	fputs(" with ", page->out);
	mt_text_html_most(page->out, mt_json_get_string(doc, "stack", "?"), 80);
	fprintf(page->out, "; sequences of %s tokens, ", mt_text_count(a, mt_record_number(doc, "seq")));
	mt_text_html_most(page->out, mt_json_get_string(doc, "scaling", ""), 10);
	fprintf(page->out, " scaling; %s tokens to train, %s an accelerator-hour</p>\n",
		mt_text_number(a, mt_record_number(forecast, "tokens")), mt_text_number(b, mt_record_number(forecast, "price")));
	fprintf(page->out,
		"<p>Forecast from descriptions of machine and software%s; nothing was run. An interruption every %s "
		"accelerator-hours, "
		"%s s until the job trains again.</p>\n",
		json_is_true(json_object_get(doc, "calibrated")) ? ", calibrated on measured runs" : ", not calibrated",
		mt_text_count(a, mt_record_number(options, "failure_hours")),
		mt_text_count(b, mt_record_number(options, "restart_s")));
}

static void put_row(const struct page *page, const json_t *row)
{
	const json_t *best = json_object_get(row, "best"), *fixed = json_object_get(row, "fixed");
	const json_t *notes = mt_record_array(row, "extrapolates");
	char text[TEXT_BYTES];

	fputs("<tr>", page->out);
	number_cell(page, mt_record_number(row, "gpus"), mt_text_count);
	number_cell(page, mt_record_number(row, "gbs"), mt_text_count);
	mt_page_layout(page, mt_json_get_string(best, "text", mt_json_get_string(row, "why_not", "no layout fits")));
	number_cell(page, mt_record_number(best, "step_s"), mt_text_seconds);
	mt_page_number(page, mt_text_interval(text, mt_record_number(best, "lo_s"), mt_record_number(best, "hi_s")));
	number_cell(page, mt_record_number(best, "mfu_frac"), percent);
	number_cell(page, mt_record_number(best, "tokens_per_s"), mt_text_count);
	number_cell(page, mt_record_number(row, "efficiency_frac"), percent);
	number_cell(page, mt_record_number(fixed, "mfu_frac"), percent);
	number_cell(page, mt_record_number(row, "checkpoint_interval_s"), mt_text_seconds);
	number_cell(page, mt_record_number(row, "goodput_frac"), percent);
	number_cell(page, mt_record_number(row, "days"), mt_text_number);
	number_cell(page, mt_record_number(row, "cost"), mt_text_count);
	fputs("<td>", page->out);
	for (size_t i = 0; i < json_array_size(notes); i++) {
		const char *note = json_string_value(json_array_get(notes, i));

		fputs(i ? "; " : "", page->out);
		mt_text_html_most(page->out, note ? note : "", 120);
	}
	fputs("</td></tr>\n", page->out);
}

static void put_rows(const struct page *page)
{
	const json_t *rows = mt_record_array(page->record->json, "rows");

	fputs("<section id=\"sizes\"><h2>Sizes</h2>\n", page->out);
	mt_page_table_start(
		page,
		"#accelerators|#batch|best layout|#step|#90% interval|#MFU|#tokens/s|#efficiency|#MFU, layout kept|#save "
		"each|#goodput|#days|#cost|what it extrapolates",
		false);
	for (size_t i = 0; i < json_array_size(rows); i++)
		put_row(page, json_array_get(rows, i));
	mt_page_table_end(page, false);
	fputs("<p class=\"soft\">Efficiency: tokens/s an accelerator over those of the first size that fits. Days and cost count "
	      "what failures take.</p></section>\n",
	      page->out);
}

static void put_sensitivity(const struct page *page)
{
	const json_t *list = mt_record_array(page->record->json, "sensitivity");

	if (json_array_size(list) == 0)
		return;
	fputs("<section id=\"sensitivity\"><h2>What the choice stands on</h2>\n<p>Each number of the machine 10% worse, at the "
	      "largest "
	      "size.</p>\n",
	      page->out);
	mt_page_table_start(page, "number|#MFU of this layout|#MFU of the best then|the best then", false);
	for (size_t i = 0; i < json_array_size(list); i++) {
		const json_t *o = json_array_get(list, i);
		char text[TEXT_BYTES];

		fputs("<tr>", page->out);
		mt_page_cell(page, mt_json_get_string(o, "parameter", ""));
		mt_page_number(page, mt_text_percent(text, mt_record_number(o, "mfu_change_frac"), "+"));
		mt_page_number(page, mt_text_percent(text, mt_record_number(o, "choice_mfu_change_frac"), "+"));
		mt_page_layout(page, json_is_true(json_object_get(o, "choice_stays"))
					     ? "stays"
					     : mt_json_get_string(o, "choice", "none fits"));
		fputs("</tr>\n", page->out);
	}
	mt_page_table_end(page, false);
	fputs("</section>\n", page->out);
}

static enum mt_status put_page(const struct page *page)
{
	mt_page_start(page);
	put_head(page);
	fputs("<main>\n", page->out);
	for (size_t i = 0; i < sizeof figures / sizeof figures[0]; i++) {
		fprintf(page->out, "<section id=\"%s\"><h2>%s</h2>\n", figures[i]->name,
			i == 0 ? "How far it scales" : "Where the time of a step goes");
		MT_TRY(mt_page_figure(page, figures[i], NULL));
		fputs("</section>\n", page->out);
	}
	put_rows(page);
	put_sensitivity(page);
	mt_page_end(page, "scale.json");
	return MT_OK;
}

enum mt_status mt_scale_report(const json_t *document, const char *directory)
{
	struct record record = {.json = document, .model_name = mt_json_get_string(document, "model", "?")};
	char *path = mt_string("%s/scale.html", directory), why[256] = "";
	struct mt_file file = {0};
	enum mt_status st = path ? MT_OK : mt_fail(MT_NOMEM, "no memory for a path");

	if (st == MT_OK && !json_is_array(json_object_get(document, "rows")))
		st = mt_fail(MT_INPUT, "the file has no 'rows': it is no result; give a scale.json that megatune scale wrote");
	if (st == MT_OK)
		st = mt_file_make_directory(directory);
	if (st == MT_OK)
		st = mt_figures_write_list(figures, (int)(sizeof figures / sizeof figures[0]), &record, directory, why, sizeof why);
	if (st == MT_OK)
		st = mt_file_create(&file, path);
	if (st == MT_OK) {
		struct page page = {.out = file.stream, .record = &record, .directory = directory, .figures_why = why};

		st = put_page(&page);
	}
	if (st == MT_OK)
		st = mt_file_commit(&file);
	mt_file_abort(&file);
	free(path);
	return st;
}
