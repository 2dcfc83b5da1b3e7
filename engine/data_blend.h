/* data_blend: several sources with weights, and which of them a sample comes from. */
#ifndef MT_ENGINE_DATA_BLEND_H
#define MT_ENGINE_DATA_BLEND_H

#include "base/status.h"

#include <stdint.h>

struct mt_blend {
	int count;
	char **paths;     /* owned; path NULL: synthetic */
	double *weights;  /* owned: their sum is 1 */
	uint16_t *choice; /* owned: of each sample of a period */
	uint32_t *number; /* owned: how many samples of the period its source gave before */
	uint32_t *totals; /* owned: of the whole period, by source */
};

/* "0.7 A 0.3 B" or one path. MT_INPUT when a weight is no positive number or below 1e-5 of their sum. */
enum mt_status mt_blend_create(struct mt_blend *blend, const char *text);
void mt_blend_free(struct mt_blend *blend);
/* The source of sample `index`, and how many samples before it came from that source. */
int mt_blend_find(const struct mt_blend *blend, uint64_t index, uint64_t *number);

#endif
