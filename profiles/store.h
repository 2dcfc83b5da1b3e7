/* store: what operations cost, in SQLite, under a fingerprint of hardware, libraries and build.
 *
 * A profile measured under another fingerprint is refused, never silently used. One row an (operation key, threads,
 * busy ranks): median, MAD, 90% interval, samples, when. Writing is one transaction; a reader never sees half of it. */
#ifndef MT_PROFILES_STORE_H
#define MT_PROFILES_STORE_H

#include "base/stats.h"
#include "base/status.h"
#include "kernels/op.h"

#include <stdint.h>

struct mt_store;

struct mt_store_row {
	struct mt_op_key key;
	int threads, busy_ranks;
	double median_s, mad_s;
	struct mt_interval interval; /* 90% of the median */
	int samples;
};

/* Opens or makes the file. A file that is no profile store, or of a newer schema, or writable by others: MT_INPUT. */
enum mt_status mt_store_open(struct mt_store **store, const char *path);
void mt_store_close(struct mt_store *store);

/* Rows of one fingerprint. put replaces rows of equal key. */
enum mt_status mt_store_put(struct mt_store *store, const char *fingerprint, const struct mt_store_row *rows, int count);
/* All rows of the fingerprint (free() them); count 0 when there are none: then `others` (may be NULL) says how many rows
 * other fingerprints have. */
enum mt_status mt_store_get(struct mt_store *store, const char *fingerprint, struct mt_store_row **rows, int *count, int *others);

#endif
