/* page_head: what was chosen and why, the key numbers, and the command that runs it. */
#include "reports/page.h"

#include "base/json.h"

#include <math.h>
#include <string.h>

/* "gpt2-124m, 124 M parameters, sequence 1024, batch 16, bf16; on 2 cpu devices of node0; 2026-..." */
static void put_subject(const struct page *page)
{
	const struct record *r = page->record;
	char number[TEXT_BYTES];
	double parameters = mt_record_number(r->model, "parameters");
	const char *dtype = mt_json_get_string(r->json, "dtype", NULL), *created = mt_json_get_string(r->json, "created", NULL);

	fputs("<p class=\"sub\">", page->out);
	if (isfinite(parameters))
		fprintf(page->out, "%s M parameters, ", mt_text_count(number, parameters / 1e6));
	fprintf(page->out, "sequences of %s tokens, ", mt_text_count(number, mt_record_number(r->json, "seq")));
	fprintf(page->out, "%s sequences a step", mt_text_count(number, mt_record_number(r->json, "gbs")));
	if (dtype) {
		fputs(", ", page->out);
		mt_text_html_most(page->out, dtype, 16);
	}
	fprintf(page->out, "; %s ", mt_text_count(number, r->devices));
	mt_text_html_most(page->out, mt_json_get_string(r->machine, "device", ""), 24);
	fprintf(page->out, " device%s, machine ", r->devices == 1 ? "" : "s");
	mt_text_html_most(page->out, r->machine_name, 60);
	if (created) {
		fputs("; ", page->out);
		mt_text_html_most(page->out, created, 32);
	}
	fputs("</p>\n", page->out);
}

static void put_choice(const struct page *page, const struct candidate *c)
{
	const struct record *r = page->record;
	char text[TEXT_BYTES], interval[TEXT_BYTES];
	bool measured = isfinite(c->measured_s);

	fputs("<div class=\"choice\"><p>Run <strong>", page->out);
	mt_text_html_most(page->out, c->text, 200);
	fprintf(page->out, "</strong>: %s a step %s", mt_text_seconds(text, mt_record_step_s(c)),
		measured ? "measured" : "predicted");
	if (measured && isfinite(c->predicted_s))
		fprintf(page->out, " (%s predicted)", mt_text_seconds(text, c->predicted_s));
	else if (!measured && isfinite(c->predicted_lo_s))
		fprintf(page->out, " (90%% interval %s)", mt_text_interval(interval, c->predicted_lo_s, c->predicted_hi_s));
	double rate = mt_record_tokens_per_s(r, c, mt_record_step_s(c)), mfu = mt_record_candidate_mfu(r, c, mt_record_step_s(c));
	if (isfinite(rate))
		fprintf(page->out, ", %s tokens/s", mt_text_count(text, rate));
	if (isfinite(mfu))
		fprintf(page->out, ", %s MFU", mt_text_percent(text, mfu, ""));
	fputs(".</p>", page->out);
	const char *reason = mt_json_get_string(r->json, "choice_reason", NULL);
	if (reason) {
		fputs("<p class=\"why\">Why: ", page->out);
		mt_text_html_most(page->out, reason, 600);
		fputs(*reason && reason[strlen(reason) - 1] == '.' ? "</p>" : ".</p>", page->out);
	}
	fputs("</div>\n", page->out);
}

static void tile(const struct page *page, const char *name, const char *big, const char *small)
{
	fprintf(page->out,
		"<div class=\"tile\"><div class=\"name\">%s</div><div class=\"big\">%s <small>%s</small></div><div class=\"more\">",
		name, big, small);
}

static void put_time_tile(const struct page *page, const struct candidate *c)
{
	char big[TEXT_BYTES], text[TEXT_BYTES];
	bool measured = isfinite(c->measured_s);

	tile(page, "Step time", mt_text_seconds(big, mt_record_step_s(c)), measured ? "measured" : "predicted");
	if (measured)
		fprintf(page->out, "predicted %s, ", mt_text_seconds(text, c->predicted_s));
	fprintf(page->out, "90%% interval %s", mt_text_interval(text, c->predicted_lo_s, c->predicted_hi_s));
	if (measured)
		fprintf(page->out, "; error %s", mt_text_percent(text, mt_record_error_frac(c), "+"));
	fputs("</div></div>\n", page->out);
}

static void put_speed_tiles(const struct page *page, const struct candidate *c)
{
	const struct record *r = page->record;
	char big[TEXT_BYTES], text[TEXT_BYTES];
	double step_s = mt_record_step_s(c);

	tile(page, "Throughput", mt_text_count(big, mt_record_tokens_per_s(r, c, step_s)), "tokens/s");
	fprintf(page->out, "%s tokens a step; ", mt_text_count(text, r->tokens_per_step));
	fprintf(page->out, "%s TFLOP/s a device</div></div>\n", mt_text_number(text, r->model_flops / step_s / r->devices / 1e12));

	tile(page, "MFU", mt_text_percent(big, mt_record_candidate_mfu(r, c, step_s), ""), "causal attention");
	fprintf(page->out, "of %s TFLOP/s a device; ", mt_text_number(text, r->peak_tflops));
	fprintf(page->out, "%s with full attention</div></div>\n",
		mt_text_percent(text, mt_record_mfu_frac(r, r->full_attention_flops, step_s), ""));
}

static void put_memory_tile(const struct page *page, const struct candidate *c)
{
	char big[TEXT_BYTES], text[TEXT_BYTES];
	double measured = mt_record_peak_bytes(c, true), predicted = mt_record_peak_bytes(c, false),
	       limit = page->record->memory_limit_bytes;
	double peak = isfinite(measured) ? measured : predicted;

	tile(page, "Memory of the largest rank", mt_text_bytes(big, peak), isfinite(measured) ? "measured" : "predicted");
	if (isfinite(measured))
		fprintf(page->out, "predicted %s; ", mt_text_bytes(text, predicted));
	fprintf(page->out, "limit %s", mt_text_bytes(text, limit));
	if (isfinite(peak / limit))
		fprintf(page->out, ", %s of it used", mt_text_percent(text, peak / limit, ""));
	fputs("</div></div>\n", page->out);
}

static void put_formula(const struct page *page, const struct candidate *c)
{
	const struct record *r = page->record;
	char text[TEXT_BYTES];
	double step_s = mt_record_step_s(c);

	fputs("<p class=\"soft\">MFU = model FLOPs / (step time &times; devices &times; dense peak)", page->out);
	if (isfinite(mt_record_mfu_frac(r, r->model_flops, step_s))) {
		fprintf(page->out, " = %.4g / (%s s &times; ", r->model_flops, mt_text_number(text, step_s));
		fprintf(page->out, "%.0f &times; %.4g) = ", r->devices, r->peak_tflops * 1e12);
		fprintf(page->out, "%s", mt_text_percent(text, mt_record_mfu_frac(r, r->model_flops, step_s), ""));
	}
	fputs(". Model FLOPs: <code>", page->out);
	mt_text_html_most(page->out, mt_json_get_string(r->json, "flops_formula", "unknown"), 300);
	fputs("</code>. Peak (dense, of one device) is ", page->out);
	mt_text_html_most(page->out, mt_json_get_string(r->machine, "peak_source", "source unknown"), 200);
	fputs(". Published figures count causal attention half or in full, so both are given.</p>\n", page->out);
}

static void put_command(const struct page *page)
{
	const char *command = mt_json_get_string(page->record->json, "command_line", NULL);
	const char *run = mt_json_get_string(page->record->json, "run", NULL);

	fputs("<h3>Run it</h3>\n", page->out);
	if (command) {
		fputs("<pre>", page->out);
		mt_text_html(page->out, command);
		fputs("</pre>\n", page->out);
	}
	if (run) {
		fputs("<p class=\"soft\">The layout, the model and all options are in <code>", page->out);
		mt_text_html_most(page->out, run, 300);
		fputs("</code>.</p>\n", page->out);
	}
	if (!command && !run)
		fputs("<p class=\"absent\">The result has no run file.</p>\n", page->out);
}

void mt_page_head(const struct page *page)
{
	const struct record *r = page->record;

	fputs("<header>\n<h1>The best layout for ", page->out);
	mt_text_html_most(page->out, r->model_name, 120);
	fputs("</h1>\n", page->out);
	put_subject(page);
	if (r->partial)
		fputs("<div class=\"banner\"><strong>Partial:</strong> the search was interrupted. What was found until then is "
		      "here; a "
		      "better layout may exist.</div>\n",
		      page->out);
	if (*page->figures_why) {
		fputs("<div class=\"banner\"><strong>No figures:</strong> ", page->out);
		mt_text_html(page->out, page->figures_why);
		fputs(". The tables have the data.</div>\n", page->out);
	}
	if (!r->choice) {
		fputs("<div class=\"banner\"><strong>No layout was chosen.</strong> See why others were rejected, and which trials "
		      "failed.</div>\n",
		      page->out);
	} else {
		put_choice(page, r->choice);
		fputs("<div class=\"tiles\">\n", page->out);
		put_time_tile(page, r->choice);
		put_speed_tiles(page, r->choice);
		put_memory_tile(page, r->choice);
		fputs("</div>\n", page->out);
		put_formula(page, r->choice);
		put_command(page);
	}
	fputs("</header>\n", page->out);
}
