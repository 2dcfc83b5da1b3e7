/* stand: what the passes of a stage do with the memory of activations, a micro-batch at a time, by the tapes of its blocks
 * (engine/tape.h): as the engine does (engine/stage.c, engine/offload.c), without it.
 *
 * Tensors lie on shelves. A shelf with an arena gives them addresses, so that holes between them are those of the engine; one
 * without only counts, and a tensor is then the number of its bytes. */
#ifndef MT_TUNER_STAND_H
#define MT_TUNER_STAND_H

#include "tuner/pipeline.h"

struct mt_shelf {
	struct mt_arena *arena;         /* owned; NULL: tensors are counted */
	int64_t live_bytes, peak_bytes; /* where they are counted */
};

/* Room for the tensors of a micro-batch on a chunk. */
struct mt_berth {
	struct mt_berth *next, *spare; /* of all; of those that nobody has */
	void **tensors;                /* of the chunk's blocks: embedding, layers, head */
	void **host;                   /* of the layers that are offloaded */
	bool *there;                   /* by layer: its tensors were asked for */
};

/* A micro-batch on a chunk. A tensor that is there is in one place alone; all else is NULL. */
struct mt_passenger {
	void *x, *gradient; /* between blocks, or between stages */
	void *tokens, *targets, *documents[MT_CARD_DOCUMENTS];
	struct mt_berth *berth; /* the stand's; NULL: it has none yet, or no more */
	bool begun;             /* the first gradient of weights that was put off is made */
	bool left;              /* its last pass is over */
};

struct mt_stand {
	const struct mt_pipeline_stage *stage;
	const struct mt_card *card;
	bool apart;                                /* logits are on a shelf of their own */
	struct mt_shelf activations, logits, host; /* the second: where they are apart */
	int64_t layers, stride;                    /* the most of a chunk; the most tensors that a block has */
	struct mt_berth *berths, *spare;           /* owned; some of them */
};

/* `counts`: shelves without arenas. A stand that failed to open is closed too. */
enum mt_status mt_stand_open(struct mt_stand *stand, const struct mt_pipeline_stage *stage, int chunks, const struct mt_card *card,
			     bool apart, bool counts);
void mt_stand_close(struct mt_stand *stand);

enum mt_status mt_shelf_put(struct mt_shelf *shelf, int64_t bytes, void **tensor); /* 0 bytes: none */
void mt_shelf_drop(struct mt_shelf *shelf, void **tensor);                         /* NULL: nothing */
int64_t mt_shelf_peak_bytes(const struct mt_shelf *shelf);

/* A passenger's x is the input of a forward pass and then its output, its gradient that of a backward pass; of the first and the
 * last virtual stage there is none. */
enum mt_status mt_stand_forward(struct mt_stand *stand, const struct mt_pipeline_chunk *chunk, struct mt_passenger *passenger);
enum mt_status mt_stand_backward(struct mt_stand *stand, const struct mt_pipeline_chunk *chunk, struct mt_passenger *passenger);
enum mt_status mt_stand_wgrad_first(struct mt_stand *stand, const struct mt_pipeline_chunk *chunk, struct mt_passenger *passenger);
enum mt_status mt_stand_wgrad(struct mt_stand *stand, const struct mt_pipeline_chunk *chunk, struct mt_passenger *passenger);
/* After its last pass: others may have its berth. */
void mt_stand_leave(struct mt_stand *stand, struct mt_passenger *passenger);

#endif
