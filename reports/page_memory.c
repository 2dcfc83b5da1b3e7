/* page_memory: what a rank holds, and what its streams do during a step. */
#include "reports/page.h"

#include "reports/lanes.h"

#include <math.h>

#define MOST_LAYOUTS 6
#define MOST_STAGES  16

static void put_stage(const struct page *page, const struct candidate *c, int stage)
{
	double bytes[STORE_COUNT];
	char text[TEXT_BYTES];
	bool known = mt_record_memory(c, stage, bytes);

	fputs(c == page->record->choice ? "<tr class=\"chosen\">" : "<tr>", page->out);
	mt_page_layout(page, c->text);
	snprintf(text, sizeof text, "%d", stage);
	mt_page_number(page, text);
	for (int k = 0; k < STORE_COUNT; k++)
		mt_page_number(page, mt_text_bytes(text, known && bytes[k] > 0 ? bytes[k] : NAN));
	static const char *const keys[] = {"memory_bytes", "measured_memory_bytes"};
	for (int k = 0; k < 2; k++)
		mt_page_number(page, mt_text_bytes(text, mt_record_item(c->json, keys[k], (size_t)stage)));
	for (int k = 0; k < 2; k++)
		mt_page_number(page, mt_text_bytes(text, mt_record_taken_bytes(c, stage, k)));
	fputs("</tr>\n", page->out);
}

enum mt_status mt_page_memory(const struct page *page)
{
	const struct record *r = page->record;
	bool shown;
	int layouts = 0;

	MT_TRY(mt_page_figure(page, &mt_figure_memory, &shown));
	mt_page_table_start(page, "Layout|#Stage|#Params|#Grads|#Optim.|#Activ.|#Work|#Other|#Engine|#measured|#Taken|#measured",
			    shown);
	for (int i = -1; i < r->count && layouts < MOST_LAYOUTS; i++) {
		const struct candidate *c = i < 0 ? r->choice : &r->candidates[i];
		if (!c || (i >= 0 && c == r->choice) || !c->stages)
			continue;
		layouts++;
		for (int stage = 0; stage < c->stages && stage < MOST_STAGES; stage++)
			put_stage(page, c, stage);
	}
	mt_page_table_end(page, shown);
	fputs("<p class=\"soft\">Components are the peaks of the engine's arenas. Engine: the peak that its allocator counted; "
	      "taken: the whole process, on a GPU all that a rank has of it, which the limit is for. Each is predicted, then "
	      "measured where the layout was run.</p>\n",
	      page->out);
	return MT_OK;
}

enum mt_status mt_page_timeline(const struct page *page)
{
	struct lanes lanes;
	char text[128], number[TEXT_BYTES];
	bool shown;

	MT_TRY(mt_page_figure(page, &mt_figure_timeline, &shown));
	if (!mt_figure_timeline.rows(page->record))
		return MT_OK;
	MT_TRY(mt_lanes_read(&lanes, page->record));
	mt_page_table_start(page, "Stream|#Matrix products|#Attention|#Other kernels|#Optimizer|#Collectives|#Waits|#Busy|#Spans",
			    shown);
	for (int i = 0; i < lanes.count; i++) {
		const struct lane *lane = &lanes.lanes[i];
		mt_lanes_label(&lanes, lane, text);
		fputs("<tr>", page->out);
		mt_page_cell(page, text);
		for (int kind = 0; kind < BAR_KINDS; kind++)
			mt_page_number(page, mt_text_seconds(number, lane->busy_s[kind] > 0 ? lane->busy_s[kind] : NAN));
		mt_page_number(page, mt_text_percent(number, mt_lanes_busy_s(lane) / lanes.length_s, ""));
		mt_page_number(page, mt_text_count(number, lane->spans));
		fputs("</tr>\n", page->out);
	}
	mt_page_table_end(page, shown);
	fputs("<p class=\"soft\">Neighbouring spans too narrow to be seen are drawn as one bar; the table counts all of "
	      "them.</p>\n",
	      page->out);
	mt_lanes_free(&lanes);
	return MT_OK;
}
