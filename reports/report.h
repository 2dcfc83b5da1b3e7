/* report: what people look at, made of one JSON result document (see docs/result.md) that `tune` and `plan` write.
 *
 * The document is everything: the page, the figures and the terminal summary can be made again from it at any time. */
#ifndef MT_REPORTS_REPORT_H
#define MT_REPORTS_REPORT_H

#include "base/status.h"

#include <jansson.h>
#include <stdio.h>

/* Writes into `directory`: report.html (one self-contained file, inline SVG and CSS, no request to anywhere), and
 * figures/NAME.{svg,png,pdf,gp,tsv}. Without gnuplot the page says which figures are missing and why, and has the data as
 * tables; that is no failure. Strings of the document are escaped. */
enum mt_status mt_report_write(const json_t *result, const char *directory);

/* The terminal summary: at most 80 columns, plain text, colour only when `colour`. */
enum mt_status mt_report_print(const json_t *result, FILE *file, int colour);

#endif
