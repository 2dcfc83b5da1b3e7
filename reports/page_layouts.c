/* page_layouts: sections about candidates: predicted against measured, the split of a step, the list, what was rejected or failed.
 */
#include "reports/page.h"

#include "base/json.h"

#include <math.h>
#include <string.h>

#define MOST_LAYOUTS 25
#define MOST_SPLITS  10

static const char *const none = "\xe2\x80\x93";

static void put_summary(const struct page *page)
{
	const json_t *p = json_object_get(page->record->json, "prediction");
	char text[TEXT_BYTES];
	double runs = mt_record_number(p, "runs");

	if (!(runs > 0))
		return;
	fprintf(page->out, "<p>Over %s runs the median absolute error is %s", mt_text_count(text, runs), "");
	fprintf(page->out, "<strong>%s</strong>", mt_text_percent(text, mt_record_number(p, "median_ape_frac"), ""));
	fprintf(page->out, ", the 90th percentile %s", mt_text_percent(text, mt_record_number(p, "p90_ape_frac"), ""));
	fprintf(page->out, "; %s of them lie inside their 90%% interval.</p>\n",
		mt_text_count(text, mt_record_number(p, "inside_interval")));
}

enum mt_status mt_page_predicted(const struct page *page)
{
	const struct record *r = page->record;
	char a[TEXT_BYTES];

	put_summary(page);
	MT_TRY(mt_page_figure(page, &mt_figure_predicted_measured, NULL));
	if (!r->measured_count)
		return MT_OK;
	mt_page_table_start(page, "Layout|#Predicted|#90% interval|#Measured|#90% interval|#Steps|#Undisturbed|#Error|Inside|#Loss",
			    false);
	for (int i = 0; i < r->count; i++) {
		const struct candidate *c = &r->candidates[i];
		if (!isfinite(c->measured_s))
			continue;
		fputs(c == r->choice ? "<tr class=\"chosen\">" : "<tr>", page->out);
		mt_page_layout(page, c->text);
		mt_page_number(page, mt_text_seconds(a, c->predicted_s));
		mt_page_number(page, mt_text_interval(a, c->predicted_lo_s, c->predicted_hi_s));
		mt_page_number(page, mt_text_seconds(a, c->measured_s));
		mt_page_number(page, mt_text_interval(a, c->measured_lo_s, c->measured_hi_s));
		mt_page_number(page, mt_text_count(a, mt_record_number(c->json, "measured_steps")));
		mt_page_number(page, mt_text_count(a, mt_record_number(c->json, "undisturbed_steps")));
		mt_page_number(page, mt_text_percent(a, mt_record_error_frac(c), "+"));
		bool known = isfinite(c->predicted_lo_s);
		mt_page_cell(page, !known                                                                     ? none
				   : c->measured_s >= c->predicted_lo_s && c->measured_s <= c->predicted_hi_s ? "yes"
													      : "no");
		double loss = mt_record_number(c->json, "measured_loss");
		snprintf(a, sizeof a, "%.4f", loss);
		mt_page_number(page, isfinite(loss) && fabs(loss) < 1e9 ? a : none);
		fputs("</tr>\n", page->out);
	}
	mt_page_table_end(page, false);
	fputs("<p class=\"soft\">Error = (predicted &minus; measured) / measured. Measured is the median of the undisturbed steps, "
	      "those "
	      "within 5% of the layout's fastest.</p>\n",
	      page->out);
	return MT_OK;
}

enum mt_status mt_page_split(const struct page *page)
{
	const struct record *r = page->record;
	char text[TEXT_BYTES];
	bool shown;
	int rows = 0;

	MT_TRY(mt_page_figure(page, &mt_figure_step_split, &shown));
	if (!mt_figure_step_split.rows(r))
		return MT_OK;
	mt_page_table_start(page, "Layout|#Compute|#Exposed tp|#Exposed dp|#Exposed pp|#Bubble|#Optimizer|#Sum|#Measured", shown);
	for (int i = 0; i < r->count && rows < MOST_SPLITS; i++) {
		const struct candidate *c = &r->candidates[i];
		double sum = 0;
		if (!isfinite(c->split_s[0]))
			continue;
		rows++;
		fputs(c == r->choice ? "<tr class=\"chosen\">" : "<tr>", page->out);
		mt_page_layout(page, c->text);
		for (int part = 0; part < PART_COUNT; part++) {
			sum += c->split_s[part];
			mt_page_number(page, c->split_s[part] > 0 ? mt_text_seconds(text, c->split_s[part]) : none);
		}
		mt_page_number(page, mt_text_seconds(text, sum));
		mt_page_number(page, mt_text_seconds(text, c->measured_s));
		fputs("</tr>\n", page->out);
	}
	mt_page_table_end(page, shown);
	fputs("<p class=\"soft\">Communication counts where nothing else runs beside it (exposed); what hides behind compute costs "
	      "no "
	      "time. The split is of the predicted step.</p>\n",
	      page->out);
	return MT_OK;
}

static void put_layout(const struct page *page, const struct candidate *c)
{
	const struct record *r = page->record;
	char a[TEXT_BYTES];
	double step_s = !isfinite(c->measured_s) && isfinite(c->expected_s) ? c->expected_s : mt_record_step_s(c);

	fputs(c == r->choice ? "<tr class=\"chosen\">" : "<tr>", page->out);
	snprintf(a, sizeof a, "%d", c->rank);
	mt_page_number(page, a);
	mt_page_layout(page, c->text);
	mt_page_number(page, mt_text_seconds(a, c->predicted_s));
	mt_page_number(page, mt_text_interval(a, c->predicted_lo_s, c->predicted_hi_s));
	mt_page_number(page, mt_text_seconds(a, c->expected_s));
	mt_page_number(page, mt_text_seconds(a, c->measured_s));
	mt_page_number(page, mt_text_percent(a, mt_record_candidate_mfu(r, c, step_s), ""));
	mt_page_number(page, mt_text_count(a, mt_record_tokens_per_s(r, c, step_s)));
	mt_page_number(page, mt_text_bytes(a, mt_record_peak_bytes(c, false)));
	mt_page_cell(page, strcmp(c->fidelity, "dry") == 0 || strcmp(c->fidelity, "card") == 0 ? c->fidelity : none);
	mt_page_cell(page, c == r->choice ? "chosen" : c->failure ? "failed" : isfinite(c->measured_s) ? "measured" : "");
	fputs("</tr>\n", page->out);
}

enum mt_status mt_page_layouts(const struct page *page)
{
	const struct record *r = page->record;
	char text[TEXT_BYTES];
	double searched = mt_record_number(r->json, "searched");

	if (isfinite(searched))
		fprintf(page->out, "<p>%s layout%s every rule; the best are listed, measured ones first.</p>\n",
			mt_text_count(text, searched), searched == 1 ? " keeps" : "s keep");
	MT_TRY(mt_page_figure(page, &mt_figure_layouts, NULL));
	if (!r->count)
		return MT_OK;
	mt_page_table_start(page, "#|Layout|#Predicted|#90% interval|#Expected|#Measured|#MFU|#Tokens/s|#Memory|From|State", false);
	for (int i = 0; i < r->count && i < MOST_LAYOUTS; i++)
		put_layout(page, &r->candidates[i]);
	mt_page_table_end(page, false);
	fputs("<p class=\"soft\">Expected: what a layout that was not run would take if its prediction were as far off as in the "
	      "trials with equal tp, cp, ep and pp. MFU and tokens/s are of the measured step, else the expected, else the "
	      "predicted. "
	      "Memory is the predicted peak of the "
	      "largest "
	      "rank. From: card = closed form over profiled blocks; dry = dry run of the engine.",
	      page->out);
	if (r->count > MOST_LAYOUTS)
		fprintf(page->out, " %d more are in result.json.", r->count - MOST_LAYOUTS);
	fputs("</p>\n", page->out);
	return MT_OK;
}

enum mt_status mt_page_rejected(const struct page *page)
{
	const json_t *counts = json_object_get(page->record->json, "rejected"), *value;
	const json_t *texts = json_object_get(page->record->json, "rejected_text");
	char text[TEXT_BYTES];
	const char *rule;
	int rows = 0;

	json_object_foreach((json_t *)counts, rule, value)
	{
		if (!json_is_number(value) || !(json_number_value(value) > 0))
			continue;
		if (rows++ == 0)
			mt_page_table_start(page, "Rule|Why|#Layouts", false);
		fputs("<tr>", page->out);
		mt_page_cell(page, rule);
		mt_page_cell(page, mt_json_get_string(texts, rule, ""));
		mt_page_number(page, mt_text_count(text, json_number_value(value)));
		fputs("</tr>\n", page->out);
	}
	if (rows)
		mt_page_table_end(page, false);
	else
		fputs("<p class=\"absent\">No layout was rejected.</p>\n", page->out);
	return MT_OK;
}

enum mt_status mt_page_failures(const struct page *page)
{
	const struct record *r = page->record;

	if (!r->failed_count) {
		fprintf(page->out, "<p class=\"absent\">%s</p>\n",
			r->run_count ? "Every layout that was run finished." : "No layout was run.");
		return MT_OK;
	}
	fputs("<p>These layouts were run and ended early; the others went on.</p>\n", page->out);
	mt_page_table_start(page, "Layout|Why", false);
	for (int i = 0; i < r->count; i++) {
		if (!r->candidates[i].failure)
			continue;
		fputs("<tr>", page->out);
		mt_page_layout(page, r->candidates[i].text);
		mt_page_cell(page, r->candidates[i].failure);
		fputs("</tr>\n", page->out);
	}
	mt_page_table_end(page, false);
	return MT_OK;
}
