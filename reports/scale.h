/* scale: the page and the figures of `megatune scale`. Inside of this room only. */
#ifndef MT_REPORTS_SCALE_H
#define MT_REPORTS_SCALE_H

#include "reports/figure.h"

/* directory/scale.html and directory/figures/scale_*. */
enum mt_status mt_scale_report(const json_t *document, const char *directory);

extern const struct figure mt_figure_scale_mfu, mt_figure_scale_split;

#endif
