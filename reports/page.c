/* page: the frame of report.html and the order of its sections.
 *
 * The page asks for nothing: its policy forbids any request, style is inline, figures are inline SVG, there is no script.
 * Everything from the document goes through mt_text_html. */
#include "reports/page.h"

#include "base/file.h"
#include "base/json.h"

#include <stdlib.h>
#include <string.h>

#define MOST_SVG_BYTES ((size_t)4 << 20)

static const struct page_section sections[] = {
	{"predicted", "Predicted against measured", mt_page_predicted},
	{"split", "Where the time of a step goes", mt_page_split},
	{"memory", "Memory", mt_page_memory},
	{"timeline", "One step of the chosen layout", mt_page_timeline},
	{"layouts", "The best layouts", mt_page_layouts},
	{"rejected", "Why others were rejected", mt_page_rejected},
	{"machine", "The machine", mt_page_machine},
	{"phases", "What took how long", mt_page_phases},
	{"provenance", "How each number was made", mt_page_provenance},
	{"failures", "Trials that failed", mt_page_failures},
};
#define SECTIONS (sizeof sections / sizeof sections[0])

void mt_page_table_start(const struct page *page, const char *head, bool folded)
{
	fputs(folded ? "<details><summary>The numbers</summary>" : "", page->out);
	fputs("<div class=\"scroll\"><table><thead><tr>", page->out);
	while (*head) {
		size_t length = strcspn(head, "|");
		bool number = *head == '#';
		fprintf(page->out, "<th scope=\"col\"%s>%.*s</th>", number ? " class=\"n\"" : "", (int)length - number,
			head + number);
		head += length + (head[length] == '|');
	}
	fputs("</tr></thead><tbody>\n", page->out);
}

void mt_page_table_end(const struct page *page, bool folded)
{
	fprintf(page->out, "</tbody></table></div>%s\n", folded ? "</details>" : "");
}

void mt_page_cell(const struct page *page, const char *text)
{
	fputs("<td>", page->out);
	mt_text_html_most(page->out, text, 400);
	fputs("</td>", page->out);
}

void mt_page_layout(const struct page *page, const char *text)
{
	fputs("<td class=\"l\">", page->out);
	mt_text_html_most(page->out, text, 100);
	fputs("</td>", page->out);
}

void mt_page_number(const struct page *page, const char *text)
{
	fputs("<td class=\"n\">", page->out);
	mt_text_html(page->out, text);
	fputs("</td>", page->out);
}

/* The alt text of a figure, escaped. */
static enum mt_status put_alt(const struct page *page, const struct figure *figure)
{
	char *text = NULL;
	size_t bytes = 0;
	FILE *memory = open_memstream(&text, &bytes);

	if (!memory)
		return mt_fail(MT_NOMEM, "no memory for the page");
	figure->alt(page->record, memory);
	fclose(memory);
	mt_text_html(page->out, text);
	free(text);
	return MT_OK;
}

enum mt_status mt_page_figure(const struct page *page, const struct figure *figure, bool *shown)
{
	char *path = mt_string("%s/figures/%s.svg", page->directory, figure->name), *svg = NULL, *inlined = NULL;
	bool drawable = figure->rows(page->record) > 0;
	enum mt_status st = path ? MT_OK : mt_fail(MT_NOMEM, "no memory for a path");

	if (shown)
		*shown = false;
	if (st == MT_OK && drawable && mt_file_exists(path) && mt_file_read(path, MOST_SVG_BYTES, &svg, NULL) != MT_OK)
		mt_error_clear(); /* then the page has the table */
	if (svg)
		inlined = mt_svg_inline(svg, figure->name);
	if (st == MT_OK && inlined) {
		fprintf(page->out, "<figure id=\"%s-figure\">%s<figcaption id=\"%s-alt\">", figure->name, inlined, figure->name);
		st = put_alt(page, figure);
		fprintf(page->out,
			" <span class=\"files\">figures/%s.svg, .png, .pdf; .gp and .tsv to change "
			"it</span></figcaption></figure>\n",
			figure->name);
		if (shown)
			*shown = true;
	} else if (st == MT_OK) {
		fputs("<p class=\"absent\">", page->out);
		if (drawable) {
			fputs("No figure here: ", page->out);
			mt_text_html(page->out, *page->figures_why ? page->figures_why : "it was not drawn");
			fputs(".", page->out);
		} else {
			fputs(figure->absent, page->out);
		}
		fputs("</p>\n", page->out);
	}
	free(path);
	free(svg);
	free(inlined);
	return st;
}

void mt_page_start(const struct page *page)
{
	fputs("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
	      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src "
	      "data:; "
	      "base-uri 'none'; form-action 'none'\">\n"
	      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<meta name=\"referrer\" "
	      "content=\"no-referrer\">\n"
	      "<meta name=\"color-scheme\" content=\"light dark\">\n<title>megatune: ",
	      page->out);
	mt_text_html_most(page->out, page->record->model_name, 60);
	fputs("</title>\n<style>\n", page->out);
	fputs(mt_page_style, page->out);
	fputs("</style>\n</head>\n<body>\n", page->out);
}

void mt_page_end(const struct page *page, const char *made_from)
{
	fputs("</main>\n<footer>megatune ", page->out);
	mt_text_html_most(page->out, mt_json_get_string(page->record->json, "megatune", ""), 40);
	fprintf(page->out, ", made from %s</footer>\n</body>\n</html>\n", made_from);
}

static enum mt_status put_section(const struct page *page, const struct page_section *section)
{
	fprintf(page->out, "<section id=\"%s\">\n<h2>%s</h2>\n", section->id, section->title);
	enum mt_status st = section->write(page);
	fputs("</section>\n", page->out);
	return st;
}

enum mt_status mt_page_write(const struct page *page)
{
	mt_page_start(page);
	mt_page_head(page);
	fputs("<nav aria-label=\"Sections\">", page->out);
	for (size_t i = 0; i < SECTIONS; i++)
		fprintf(page->out, "<a href=\"#%s\">%s</a> ", sections[i].id, sections[i].title);
	fputs("</nav>\n<main>\n", page->out);
	for (size_t i = 0; i < SECTIONS; i++)
		MT_TRY(put_section(page, &sections[i]));
	mt_page_end(page, "result.json");
	return MT_OK;
}
