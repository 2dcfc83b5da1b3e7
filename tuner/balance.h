/* balance: layers cut so that all stages take as long, embedding and head counted. */
#ifndef MT_TUNER_BALANCE_H
#define MT_TUNER_BALANCE_H

#include "base/status.h"

#include <stdint.h>

struct mt_balance_work {
	const double *layer_s; /* of each layer of the model, all passes of a micro-batch */
	int64_t layers;
	double first_s, last_s; /* beside the layers, of the first and of the last virtual stage: embedding, head */
	int64_t parts;          /* virtual stages */
};

/* counts[parts]: the layers of each. Of the cuts whose longest part is shortest the one with the least sum of squares. The ends may
 * have no layer; fewer layers than the other parts are MT_UNAVAILABLE. Cost: parts * layers^2. */
enum mt_status mt_balance(const struct mt_balance_work *work, int64_t *counts);

#endif
