/* page: report.html, section by section. Inside of this room only. */
#ifndef MT_REPORTS_PAGE_H
#define MT_REPORTS_PAGE_H

#include "reports/figure.h"
#include "reports/record.h"
#include "reports/text.h"

struct page {
	FILE *out;
	const struct record *record;
	const char *directory;   /* figures/NAME.svg is below it */
	const char *figures_why; /* why there are no figures; "" when there are */
};

/* A section: heading, then what write() puts; in this order on the page. */
struct page_section {
	const char *id, *title;
	enum mt_status (*write)(const struct page *page);
};

/* page.c: the whole page. */
enum mt_status mt_page_write(const struct page *page);
/* The figure of that name with its caption, or a sentence why there is none. *shown may be NULL. */
enum mt_status mt_page_figure(const struct page *page, const struct figure *figure, bool *shown);
/* A table that stands open, or folded below a figure. Head cells are given as "name|name|...", numbers right-aligned
 * when the name begins with '#'. */
void mt_page_table_start(const struct page *page, const char *head, bool folded);
void mt_page_table_end(const struct page *page, bool folded);
void mt_page_cell(const struct page *page, const char *text);   /* text that is escaped */
void mt_page_layout(const struct page *page, const char *text); /* the same, of a layout */
void mt_page_number(const struct page *page, const char *text); /* the same, right-aligned */

extern const char mt_page_style[];

/* What stands before and after the content. */
void mt_page_start(const struct page *page);
void mt_page_end(const struct page *page, const char *made_from);

/* page_head.c */
void mt_page_head(const struct page *page);
/* page_layouts.c */
enum mt_status mt_page_predicted(const struct page *page);
enum mt_status mt_page_split(const struct page *page);
enum mt_status mt_page_layouts(const struct page *page);
enum mt_status mt_page_rejected(const struct page *page);
enum mt_status mt_page_failures(const struct page *page);
/* page_memory.c */
enum mt_status mt_page_memory(const struct page *page);
enum mt_status mt_page_timeline(const struct page *page);
/* page_machine.c */
enum mt_status mt_page_machine(const struct page *page);
enum mt_status mt_page_phases(const struct page *page);
enum mt_status mt_page_provenance(const struct page *page);

#endif
