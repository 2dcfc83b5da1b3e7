/* figures: the list of figures; their files; one run of gnuplot for all.
 *
 * gnuplot draws under a prefix, and what it drew is renamed afterwards: a figure is whole or not there. */
#include "reports/figure.h"

#include "base/file.h"
#include "base/process.h"
#include "reports/text.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define GNUPLOT_LIMIT_S 120
#define MOST_FIGURES    8

const struct figure *const mt_figures[] = {&mt_figure_predicted_measured, &mt_figure_step_split,  &mt_figure_memory,
					   &mt_figure_timeline,           &mt_figure_collectives, &mt_figure_layouts};
const int mt_figure_count = (int)(sizeof mt_figures / sizeof mt_figures[0]);

static const char *const suffixes[] = {"svg", "png", "pdf"};
#define SUFFIXES ((int)(sizeof suffixes / sizeof suffixes[0]))

const char *mt_figure_unit(double most_s, double *scale)
{
	bool milli = most_s < 1, micro = most_s < 1e-3;
	*scale = micro ? 1e6 : milli ? 1e3 : 1;
	return micro ? "us" : milli ? "ms" : "s";
}

void mt_figure_row_label(FILE *file, int row, const char *text)
{
	fputs(row == 1 ? "set ytics (" : ", \\\n\t", file);
	mt_text_gnuplot(file, text, 36);
	fprintf(file, " %d", row);
}

void mt_figure_rows_end(FILE *file, int count)
{
	fprintf(file, ") scale 0\nset yrange [%.1f:0.4]\n", count + 0.6);
}

void mt_figure_range(FILE *file, double least, double most, const char *unit)
{
	if (!(least < most)) {
		least *= 0.95;
		most *= 1.05;
	}
	if (most > 40 * least) {
		fprintf(file, "set logscale x\nset xrange [%.6g:%.6g]\nset format x '%%g'\n", least / 1.5, most * 1.5);
	} else {
		double room = 0.06 * (most - least);
		fprintf(file, "set xrange [%.6g:%.6g]\n", fmax(least - room, 0), most + room);
	}
	fprintf(file, "set xlabel 'step time (%s)'\n", unit);
}

static int height(const struct figure *figure, int rows)
{
	return figure->frame_pixels + (int)(figure->pixels_per_row * (rows < 2 ? 2 : rows));
}

static void script_start(FILE *file, const struct figure *figure, int rows)
{
	fprintf(file, "# %s: %s\n# Data: %s.tsv. To draw it again after a change: gnuplot %s.gp\n", figure->name, figure->title,
		figure->name, figure->name);
	fputs("reset\nset encoding utf8\nset datafile separator tab\n"
	      "if (!exists('prefix')) prefix = '' # of the files written\n"
	      "blue = '#0072B2'; orange = '#E69F00'; green = '#009E73'; red = '#D55E00'\n"
	      "sky = '#56B4E9'; purple = '#CC79A7'; grey = '#999999'; pale = '#BBBBBB'; faint = '#D0D0D0'\n",
	      file);
	fprintf(file,
		"width = %d; height = %d\n"
		"set terminal svg size width, height noenhanced font 'sans-serif,13'\n"
		"set output prefix.'%s.svg'\n\n",
		FIGURE_WIDTH, height(figure, rows), figure->name);
	fputs("set border 3 lc rgb '#808080'\nset tics nomirror out scale 0.5 textcolor rgb 'black'\nset grid xtics lt 1 lc rgb "
	      "faint lw 0.7\n"
	      "set key above left Left reverse horizontal samplen 1.5 spacing 1.2\nset style fill solid 1 noborder\n",
	      file);
}

static void script_end(FILE *file, const struct figure *figure, int rows)
{
	fprintf(file,
		"\nif (strstrt(GPVAL_TERMINALS, ' pngcairo ')) {\n"
		"\tset terminal pngcairo size 2*width, 2*height noenhanced font 'Sans,10' fontscale 2 linewidth 2 pointscale 2\n"
		"\tset output prefix.'%s.png'\n\treplot\n}\n",
		figure->name);
	fprintf(file,
		"if (strstrt(GPVAL_TERMINALS, ' pdfcairo ')) {\n"
		"\tset terminal pdfcairo size 7in, %.2fin noenhanced font 'Sans,8' linewidth 0.7 pointscale 0.6\n"
		"\tset output prefix.'%s.pdf'\n\treplot\n}\nset output\n",
		7.0 * height(figure, rows) / FIGURE_WIDTH, figure->name);
}

static enum mt_status write_file(const char *folder, const struct figure *figure, const char *suffix, const struct record *record,
				 int rows)
{
	struct mt_file file = {0};
	char *path = mt_string("%s/%s.%s", folder, figure->name, suffix);
	enum mt_status st = path ? MT_OK : mt_fail(MT_NOMEM, "no memory for a path");

	if (st == MT_OK)
		st = mt_file_create(&file, path);
	if (st == MT_OK && strcmp(suffix, "gp") == 0) {
		script_start(file.stream, figure, rows);
		figure->script(record, file.stream);
		script_end(file.stream, figure, rows);
	} else if (st == MT_OK) {
		st = figure->data(record, file.stream);
	}
	if (st == MT_OK)
		st = mt_file_commit(&file);
	mt_file_abort(&file);
	free(path);
	return st;
}

/* Moves what was drawn into place, or removes it. Files of an earlier report that were not drawn again are removed, so
 * that a picture never shows another result than the page. */
static int put_in_place(const char *folder, const char *prefix, const struct figure *figure, bool drawn)
{
	int placed = 0;

	for (int i = 0; i < SUFFIXES; i++) {
		char *from = mt_string("%s/%s%s.%s", folder, prefix, figure->name, suffixes[i]);
		char *to = mt_string("%s/%s.%s", folder, figure->name, suffixes[i]);
		if (from && to) {
			bool moved = drawn && access(from, R_OK) == 0 && rename(from, to) == 0;
			if (!moved) {
				unlink(from);
				unlink(to);
			}
			placed += moved;
		}
		free(from);
		free(to);
	}
	return placed;
}

/* Text that gnuplot said when it failed, on one line. */
static void first_line(const char *errors, char *why, size_t why_bytes)
{
	char text[200];
	const char *at = strstr(errors, "line ");
	mt_text_copy(text, sizeof text, at ? at : errors, 160);
	snprintf(why, why_bytes, "gnuplot failed: %s", *text ? text : "it said nothing");
}

static enum mt_status draw(const char *folder, const char *prefix, const char *const *scripts, int count, char *why,
			   size_t why_bytes)
{
	struct mt_process_result result = {0};
	const char *argv[MOST_FIGURES + 4];
	int argc = 0;
	char *program = mt_process_find("gnuplot"), *start = NULL, *quoted = NULL;
	size_t bytes = 0;
	enum mt_status st = MT_OK;

	if (!program) {
		snprintf(why, why_bytes, "gnuplot is not installed here; install it and run `megatune report` on result.json");
		return MT_OK;
	}
	FILE *text = open_memstream(&quoted, &bytes);
	if (text) {
		for (const char *c = folder; *c; c++) { /* the path as it is: only quotes end a string of gnuplot */
			if (*c == '\'')
				fputc('\'', text);
			fputc(*c, text);
		}
		fclose(text);
		start = mt_string("cd '%s'; prefix = '%s'", quoted, prefix);
	}
	if (!start) {
		st = mt_fail(MT_NOMEM, "no memory to start gnuplot");
		goto out;
	}
	argv[argc++] = program;
	argv[argc++] = "-e";
	argv[argc++] = start;
	for (int i = 0; i < count; i++)
		argv[argc++] = scripts[i];
	argv[argc] = NULL;
	/* No start-up file, no display: the same picture everywhere. */
	static const char *const environment[] = {"GNUTERM=unknown", "DISPLAY=", "LC_ALL=C.UTF-8", NULL};
	st = mt_process_run(&result, argv, environment, GNUPLOT_LIMIT_S);
	if (st != MT_OK && st != MT_NOMEM) { /* the page can do without */
		snprintf(why, why_bytes, "gnuplot could not be run: %s", mt_error_message());
		mt_error_clear();
		st = MT_OK;
	} else if (st == MT_OK && result.timed_out) {
		snprintf(why, why_bytes, "gnuplot took longer than %d s", GNUPLOT_LIMIT_S);
	} else if (st == MT_OK && result.exit_code != 0) {
		first_line(result.errors ? result.errors : "", why, why_bytes);
	}
out:
	mt_process_result_free(&result);
	free(quoted);
	free(start);
	free(program);
	return st;
}

enum mt_status mt_figures_write_list(const struct figure *const *figures, int figure_count, const struct record *record,
				     const char *directory, char *why, size_t why_bytes)
{
	const char *scripts[MOST_FIGURES];
	char names[MOST_FIGURES][48], prefix[32];
	int rows[MOST_FIGURES] = {0}, count = 0, placed = 0;
	enum mt_status st = MT_OK;

	*why = '\0';
	char *folder = mt_string("%s/figures", directory);
	if (!folder)
		return mt_fail(MT_NOMEM, "no memory for a path");
	snprintf(prefix, sizeof prefix, "new-%ld-", (long)getpid());
	MT_GOTO(out, mt_file_make_directory(folder));
	for (int i = 0; i < figure_count; i++) {
		rows[i] = figures[i]->rows(record);
		if (!rows[i])
			continue;
		MT_GOTO(out, write_file(folder, figures[i], "tsv", record, rows[i]));
		MT_GOTO(out, write_file(folder, figures[i], "gp", record, rows[i]));
		snprintf(names[count], sizeof names[count], "%s.gp", figures[i]->name);
		scripts[count] = names[count];
		count++;
	}
	if (count > 0)
		MT_GOTO(out, draw(folder, prefix, scripts, count, why, why_bytes));
	for (int i = 0; i < figure_count; i++)
		placed += put_in_place(folder, prefix, figures[i], rows[i] > 0);
	if (count > 0 && placed == 0 && !*why)
		snprintf(why, why_bytes, "gnuplot wrote no files");
out:
	free(folder);
	return st;
}

enum mt_status mt_figures_write(const struct record *record, const char *directory, char *why, size_t why_bytes)
{
	return mt_figures_write_list(mt_figures, mt_figure_count, record, directory, why, why_bytes);
}
