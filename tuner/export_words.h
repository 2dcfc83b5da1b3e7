/* export_words: how arguments are written; inside of the export's files only. */
#ifndef MT_TUNER_EXPORT_WORDS_H
#define MT_TUNER_EXPORT_WORDS_H

#include "tuner/export.h"

/* "--name", and with a value. */
void mt_export_flag(struct mt_export *e, const char *name);
void mt_export_text(struct mt_export *e, const char *name, const char *value);
void mt_export_integer(struct mt_export *e, const char *name, int64_t value);
void mt_export_real(struct mt_export *e, const char *name, double value);
/* A sentence about what has no argument. */
void mt_export_note(struct mt_export *e, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Those of products in 8 bits, and notes of what a forecast chose beyond the run file. */
void mt_export_put_fp8(struct mt_export *e, const struct mt_run *run, const struct mt_export_beyond *beyond);
/* The arguments of the model. */
void mt_export_put_model(struct mt_export *e, const struct mt_run *run);

#endif
