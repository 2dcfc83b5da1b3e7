/* mtp: multi-token prediction (DeepSeek-AI 2024, arXiv:2412.19437, section 2.2): modules after the last layer, each predicting one
 * token further than what is before it, with the model's own embedding and head. engine/mtp.c says how it is computed. */
#ifndef MT_ENGINE_MTP_H
#define MT_ENGINE_MTP_H

#include "base/status.h"

#include <stdint.h>

struct mt_engine;
struct mt_flight;

/* What a micro-batch keeps of one module. */
struct mt_mtp_saved;

/* The parameters of a module: indices into the table, -1 where it is not on this stage. */
struct mt_mtp_params {
	int embed_norm, hidden_norm, join, norm;
};

/* Room for the modules of a flight, on the head's stage; and what it holds given back. */
enum mt_status mt_mtp_create(struct mt_engine *e, struct mt_flight *flight);
void mt_mtp_free(struct mt_engine *e, struct mt_flight *flight);
void mt_mtp_destroy(struct mt_flight *flight);
/* All modules of a micro-batch, after the model's own head: losses, and logits that have become gradients. */
enum mt_status mt_mtp_forward(struct mt_engine *e, struct mt_flight *flight, int64_t microbatch);
/* Before the head's own backward pass: leaves in *gradient (S,C), new, what the modules add to that of the final norm's output. */
enum mt_status mt_mtp_backward(struct mt_engine *e, struct mt_flight *flight, void **gradient);

#endif
