/* figure: one picture of a result, drawn by gnuplot from a script and a table that stay beside it. Inside of this room only.
 *
 * A figure is a row of mt_figures[]: what it needs of the record, how its data and its script are written. The script of
 * NAME works by itself in its folder (`gnuplot NAME.gp`) and draws NAME.svg, NAME.png and NAME.pdf from NAME.tsv.
 * Colours are those of Okabe and Ito (2008), told apart by all common kinds of colour vision; markers differ too. */
#ifndef MT_REPORTS_FIGURE_H
#define MT_REPORTS_FIGURE_H

#include "reports/record.h"

#include <stdio.h>

struct figure {
	const char *name;   /* of its files */
	const char *title;  /* what it shows, in the page and at the top of the script */
	const char *absent; /* why there is none when rows() is 0 */
	/* Rows (layouts, stages, lanes, curves) there are to draw, 0: none. Decides the height. */
	int (*rows)(const struct record *record);
	double pixels_per_row;
	int frame_pixels; /* height without rows */
	enum mt_status (*data)(const struct record *record, FILE *file);
	/* Settings, then one `plot` command. */
	void (*script)(const struct record *record, FILE *file);
	/* One or two sentences for those who cannot see it: what it shows and its main finding. Plain text, escaped later. */
	void (*alt)(const struct record *record, FILE *file);
};

extern const struct figure mt_figure_predicted_measured, mt_figure_step_split, mt_figure_memory, mt_figure_timeline,
	mt_figure_collectives, mt_figure_layouts;
extern const struct figure *const mt_figures[];
extern const int mt_figure_count;

#define FIGURE_WIDTH 960

/* Writes every figure that the record has data for into directory/figures and draws it, in one run of gnuplot. When they
 * could not be drawn, that is no failure: `why` says it ("" otherwise). */
enum mt_status mt_figures_write(const struct record *record, const char *directory, char *why, size_t why_bytes);
/* The same of other figures than mt_figures. */
enum mt_status mt_figures_write_list(const struct figure *const *figures, int count, const struct record *record,
				     const char *directory, char *why, size_t why_bytes);

/* The figure's SVG, fit to stand in a page: ids made its own, no outer names, colours by the page's variables; NULL when
 * `svg` is not what gnuplot writes. free() it. */
char *mt_svg_inline(const char *svg, const char *name);

/* Helpers of the figures' files. */

/* "s", "ms" or "us" for values up to most_s; *scale turns seconds into it. */
const char *mt_figure_unit(double most_s, double *scale);
/* The ytics of rows 1..count, top to bottom, from labels, and the yrange. */
void mt_figure_row_label(FILE *file, int row, const char *text);
void mt_figure_rows_end(FILE *file, int count);
/* xrange around values (NaN ignored) with some room; logarithmic when they differ by more than 40 times. */
void mt_figure_range(FILE *file, double least, double most, const char *unit);

#endif
