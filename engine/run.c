/* run: a run file, from and to YAML. */
#define _GNU_SOURCE
#include "engine/run.h"
#include "base/file.h"
#include "engine/data.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const decays[] = {"cosine", "constant", "linear", "wsd", "inverse-square-root", NULL};
static const char *const wsd_decays[] = {"exponential", "linear", "cosine", "minus-sqrt", NULL};
static const char *const rises[] = {"linear", "cosine", NULL};
static const char *const optimizers[] = {"adamw", "sgd", "muon", NULL};
static const char *const muon_scales[] = {"spectral", "shape", "unit-rms", NULL};
static const char *const fabrics[] = {"auto", "self", "mpi", "tcp", "nccl", NULL};
static const char *const graphs[] = {"off", "layer", "pass", "auto", NULL};
static const char *const policies[] = {"skip", "stop", "rewind", NULL};

#define TRAIN(field, kind, value, least, most, choices, help)                                                                      \
	{                                                                                                                          \
#field, MT_OPTION_##kind, offsetof(struct mt_train_options, field), value, least, most, choices, help              \
	}
#define DATA(field, kind, value, choices, help)                                                                                    \
	{                                                                                                                          \
#field, MT_OPTION_##kind, offsetof(struct mt_data_options, field), value, 0, 0, choices, help                      \
	}

static const struct mt_option train_options[] = {
	TRAIN(steps, INT, "20", 1, 1e12, NULL, "optimizer steps"),
	TRAIN(seed, INT, "1234", 0, 9e15, NULL, "of initial weights and data order"),
	TRAIN(lr, FLOAT, "6e-4", 0, 10, NULL, "peak learning rate"),
	TRAIN(min_lr, FLOAT, "6e-5", 0, 10, NULL, "learning rate at the end of the decay"),
	TRAIN(warmup_steps, INT, "2", 0, 1e12, NULL, "steps of the linear rise from 0 to lr"),
	TRAIN(decay_steps, INT, "0", 0, 1e12, NULL, "steps until min_lr is reached, warm-up included; 0: steps"),
	TRAIN(decay, CHOICE, "cosine", 0, 0, decays,
	      "shape of the fall from lr to min_lr; wsd: none until the last wsd_steps; inverse-square-root: lr sqrt(warmup_steps "
	      "/ "
	      "step)"),
	TRAIN(wsd_decay, CHOICE, "exponential", 0, 0, wsd_decays, "wsd: shape of the fall in the last wsd_steps"),
	TRAIN(wsd_steps, INT, "0", 0, 1e12, NULL, "wsd: steps of the fall, the last of decay_steps"),
	TRAIN(embedding_lr, FLOAT, "0", 0, 10, NULL, "peak learning rate of word embedding and head; 0: lr"),
	TRAIN(embedding_min_lr, FLOAT, "0", 0, 10, NULL, "theirs at the end of the decay; 0: min_lr"),
	TRAIN(optimizer, CHOICE, "adamw", 0, 0, optimizers,
	      "adamw, sgd, or muon: of the layers' matrices, with AdamW for all else"),
	TRAIN(beta1, FLOAT, "0.9", 0, 1, NULL, "AdamW: decay of the first moment"),
	TRAIN(beta2, FLOAT, "0.95", 0, 1, NULL, "AdamW: decay of the second moment"),
	TRAIN(eps, FLOAT, "1e-8", 0, 1, NULL, "AdamW: added to the root of the second moment"),
	TRAIN(weight_decay, FLOAT, "0.1", 0, 10, NULL, "decay of matrices; biases and norms have none"),
	TRAIN(weight_decay_end, FLOAT, "-1", -1, 10, NULL,
	      "weight_decay moves to this by the end of the run; below 0: it does not"),
	TRAIN(weight_decay_rise, CHOICE, "linear", 0, 0, rises, "shape of the way to weight_decay_end"),
	TRAIN(no_decay, STRING, NULL, 0, 0, NULL, "parts of names, as in embedding,head: such matrices do not decay either"),
	TRAIN(momentum, FLOAT, "0.95", 0, 1, NULL, "SGD and Muon: what is kept of the last direction; SGD with 0 keeps no state"),
	TRAIN(nesterov, BOOL, "true", 0, 0, NULL, "SGD and Muon: step along the direction after the next one's momentum"),
	TRAIN(muon_steps, INT, "5", 1, 20, NULL, "Muon: Newton-Schulz iterations"),
	TRAIN(muon_scale, CHOICE, "spectral", 0, 0, muon_scales,
	      "Muon: times sqrt(max(rows, cols)), sqrt(max(1, rows / cols)) or sqrt(rows / cols)"),
	TRAIN(muon_factor, FLOAT, "0.2", 0, 100, NULL, "Muon: factor beside the scale; 0.2 with spectral steps as AdamW does"),
	TRAIN(rampup_start, INT, "0", 0, 1 << 30, NULL, "sequences of the first steps, growing to gbs; 0: gbs from the first step"),
	TRAIN(rampup_increment, INT, "0", 0, 1 << 30, NULL, "sequences by which a step grows"),
	TRAIN(rampup_samples, INT, "0", 0, 1e15, NULL, "sequences after which a step has gbs"),
	TRAIN(clip, FLOAT, "1", 0, 1e9, NULL, "largest global gradient norm; 0: no clipping"),
	TRAIN(loss_scale, FLOAT, "0", 0, 1e18, NULL, "f16: factor of the loss; 0: found while training"),
	TRAIN(loss_scale_initial, FLOAT, "65536", 1, 1e18, NULL, "f16: the factor that a run begins with"),
	TRAIN(loss_scale_least, FLOAT, "1", 1e-6, 1e18, NULL, "f16: the factor falls no lower"),
	TRAIN(loss_scale_growth, FLOAT, "2", 1, 1e6, NULL, "f16: by what the factor grows after loss_scale_window good steps"),
	TRAIN(loss_scale_backoff, FLOAT, "0.5", 1e-6, 1, NULL, "f16: by what it falls when a gradient overflows"),
	TRAIN(loss_scale_window, INT, "1000", 1, 1e12, NULL, "f16: good steps in a row after which the factor grows"),
	TRAIN(loss_scale_hysteresis, INT, "2", 1, 1e6, NULL, "f16: the factor falls from this overflow on since it last grew"),
	TRAIN(device, STRING, "cpu", 0, 0, NULL, "cpu, cuda (NVIDIA GPUs), or reference (plain loops)"),
	TRAIN(fabric, CHOICE, "auto", 0, 0, fabrics,
	      "what collectives go over; auto: nccl where each rank has a GPU of its own, else what joined the ranks: mpi under "
	      "mpirun, tcp under megatune launch, torchrun or srun without MPI, self alone"),
	TRAIN(cuda_graphs, CHOICE, "off", 0, 0, graphs,
	      "layer: launch the operations of a layer's pass as one CUDA graph where they come again as they were; pass: those "
	      "of a micro-batch's forward or backward pass; auto: layer where the device can"),
	TRAIN(watchdog_s, FLOAT, "0", -1, 1e6, NULL,
	      "seconds that an operation may wait for other ranks before the run ends with its suspects; 0: 600, below 0: for "
	      "ever"),
	TRAIN(log, STRING, NULL, 0, 0, NULL, "file for one JSON line a step"),
	TRAIN(trace, STRING, NULL, 0, 0, NULL, "file for a Chrome trace of the last step"),
	TRAIN(peak_tflops, FLOAT, "0", 0, 1e6, NULL, "dense peak of one device in TFLOP/s, for MFU; 0: measured at start"),
	TRAIN(deadline_s, FLOAT, "0", 0, 1e9, NULL, "stop after so many seconds; 0: never"),
	TRAIN(eval_every, INT, "0", 0, 1e12, NULL, "steps between two losses of the validation part of data.split; 0: none"),
	TRAIN(eval_steps, INT, "10", 1, 1e9, NULL, "batches of gbs sequences that such a loss is the mean of, each time the same"),
	TRAIN(save_dir, STRING, NULL, 0, 0, NULL,
	      "directory of checkpoints, on a file system all hosts share; none: no checkpoint"),
	TRAIN(save_every, INT, "0", 0, 1e12, NULL, "steps between checkpoints; 0: only at the end and when stopped"),
	TRAIN(save_keep, INT, "2", 0, 1e9, NULL, "newest checkpoints that stay; 0: all"),
	TRAIN(resume, STRING, "auto", 0, 0, NULL,
	      "auto: the newest checkpoint of save_dir, if any; none; or a checkpoint's directory"),
	TRAIN(rank_order, STRING, NULL, 0, 0, NULL,
	      "placement, as in 0,2,1,3: rank i runs where the launcher put the i-th of these; or tp-cp-ep-pp-dp; none: as "
	      "launched"),
	TRAIN(init_from, STRING, NULL, 0, 0, NULL, "initial weights: a checkpoint or a Hugging Face directory; none: random"),
	TRAIN(on_nan, CHOICE, "skip", 0, 0, policies,
	      "when loss or gradient is not finite: skip the step, stop, or rewind to the last checkpoint"),
	TRAIN(on_spike, CHOICE, "skip", 0, 0, policies,
	      "the same for a loss or a norm above the limits that spike_factor and spike_norm set"),
	TRAIN(spike_norm, FLOAT, "0", 0, 1e9, NULL, "a gradient norm above this, before clipping, is a spike; 0: none is"),
	TRAIN(spike_factor, FLOAT, "0", 0, 1e6, NULL, "a loss of more than so many medians of the last 32 is a spike; 0: none is"),
};

static const struct mt_option data_options[] = {
	DATA(path, STRING, NULL, NULL,
	     "text files or directories (colons between), the PREFIX of a PREFIX.bin and PREFIX.idx, or a blend 'WEIGHT PATH "
	     "WEIGHT PATH'; none: synthetic"),
	DATA(tokenizer, STRING, "byte", NULL,
	     "of text files: byte (256 byte values and 256 at the end of a file), a tokenizer.json, vocab.json or the folder of "
	     "one"),
	DATA(shuffle, BOOL, "true", NULL, "take the sequences of an epoch in random order"),
	DATA(count_boundaries, BOOL, "false", NULL,
	     "with layout.documents apart: let the first token of the next document count as a target of the last of this one"),
	DATA(split, STRING, NULL, NULL, "shares of training, validation and test, as in 969,30,1; none: all for training"),
};

const struct mt_option_table mt_train_options_table = {"train", train_options, sizeof train_options / sizeof train_options[0]};
const struct mt_option_table mt_data_options_table = {"data", data_options, sizeof data_options / sizeof data_options[0]};

void mt_run_default(struct mt_run *run)
{
	memset(run, 0, sizeof *run);
	mt_options_default(&mt_model_options, &run->model);
	mt_options_default(&mt_layout_options, &run->layout);
	mt_options_default(&mt_train_options_table, &run->train);
	mt_options_default(&mt_data_options_table, &run->data);
}

void mt_run_free(struct mt_run *run)
{
	if (!run)
		return;
	mt_options_free(&mt_model_options, &run->model);
	mt_options_free(&mt_layout_options, &run->layout);
	mt_options_free(&mt_train_options_table, &run->train);
	mt_options_free(&mt_data_options_table, &run->data);
}

/* A path in a run file is first looked for beside the run file, so that a folder of both can be moved. */
static enum mt_status load_model(struct mt_model *model, const char *what, const char *run_path)
{
	const char *slash = strrchr(run_path, '/');
	bool path = strchr(what, '/') || strstr(what, ".yaml") || strstr(what, ".json");
	char *beside = NULL;
	struct mt_model loaded;

	if (slash && path && what[0] != '/') {
		beside = mt_string("%.*s/%s", (int)(slash - run_path), run_path, what);
		if (!beside)
			return mt_fail(MT_NOMEM, "out of memory");
	}
	enum mt_status st = mt_model_load(&loaded, beside && mt_file_exists(beside) ? beside : what);
	free(beside);
	if (st == MT_OK) {
		mt_model_free(model);
		*model = loaded;
	}
	return st;
}

static enum mt_status read_model(struct mt_model *model, const struct mt_yaml *node, const char *run_path)
{
	char where[512];

	if (!node)
		return mt_fail(MT_INPUT, "%s: no model: add 'model: gpt2-124m', a path, or a mapping", run_path);
	snprintf(where, sizeof where, "%s:%d", run_path, node->line);
	if (node->kind == MT_YAML_SCALAR)
		return load_model(model, node->text, run_path);
	if (node->kind != MT_YAML_MAP)
		return mt_fail(MT_INPUT, "%s: model must be a name, a path or a mapping", where);
	MT_TRY(mt_options_read(&mt_model_options, model, node));
	return mt_model_complete(model, where);
}

enum mt_status mt_run_check(const struct mt_run *run, const char *where)
{
	const struct mt_train_options *train = &run->train;
	bool spikes = train->spike_factor > 0 || train->spike_norm > 0;

	if (train->min_lr > train->lr)
		return mt_fail(MT_INPUT, "%s: min_lr %g is above lr %g", where, train->min_lr, train->lr);
	if (train->beta1 >= 1 || train->beta2 >= 1)
		return mt_fail(MT_INPUT, "%s: beta1 %g and beta2 %g must be below 1", where, train->beta1, train->beta2);
	if ((train->on_nan == MT_POLICY_REWIND || (spikes && train->on_spike == MT_POLICY_REWIND)) && !train->save_dir)
		return mt_fail(MT_INPUT, "%s: rewind goes back to a checkpoint: give save_dir, or skip or stop", where);
	if (train->save_every > 0 && !train->save_dir)
		return mt_fail(MT_INPUT, "%s: save_every %lld needs a save_dir", where, (long long)train->save_every);
	if (train->spike_factor > 0 && train->spike_factor <= 1)
		return mt_fail(MT_INPUT, "%s: spike_factor %g must be above 1, or 0", where, train->spike_factor);
	if (run->layout.dtype == MT_F64 && (!train->device || strcmp(train->device, "reference") != 0))
		return mt_fail(MT_INPUT, "%s: dtype f64 needs device reference, not %s", where,
			       train->device ? train->device : "none");
	MT_TRY(mt_optimizer_check(run, where));
	if ((run->layout.moment1_dtype != MT_F32 || run->layout.moment2_dtype != MT_F32) && train->optimizer != MT_ADAMW)
		return mt_fail(MT_INPUT, "%s: moment1_dtype and moment2_dtype are AdamW's: leave them f32 with another optimizer",
			       where);
	MT_TRY(mt_data_check(&run->data, where));
	if (train->eval_every > 0 && mt_data_share(&run->data, MT_DATA_VALID) <= 0)
		return mt_fail(MT_INPUT, "%s: eval_every %lld needs a validation part: set split in section data, as in 969,30,1",
			       where, (long long)train->eval_every);
	MT_TRY(mt_layout_check(&run->model, &run->layout, where));
	return mt_rampup_check(run, where);
}

enum mt_status mt_run_read(struct mt_run *run, const char *path)
{
	static const char *const sections[] = {"model", "layout", "train", "data"};
	struct mt_yaml *root = NULL;
	enum mt_status st;

	mt_run_default(run);
	MT_GOTO(out, mt_yaml_load(&root, path));
	if (root->kind != MT_YAML_MAP) {
		st = mt_fail(MT_INPUT, "%s:%d: a run file is a mapping with sections model, layout, train, data", path, root->line);
		goto out;
	}
	MT_GOTO(out, mt_yaml_check_keys(root, sections, sizeof sections / sizeof sections[0]));
	MT_GOTO(out, read_model(&run->model, mt_yaml_get(root, "model"), path));
	MT_GOTO(out, mt_options_read(&mt_layout_options, &run->layout, mt_yaml_get(root, "layout")));
	MT_GOTO(out, mt_options_read(&mt_train_options_table, &run->train, mt_yaml_get(root, "train")));
	MT_GOTO(out, mt_options_read(&mt_data_options_table, &run->data, mt_yaml_get(root, "data")));
	if (run->layout.seq == 0)
		run->layout.seq = run->model.seq;
out:
	mt_yaml_free(root);
	if (st != MT_OK)
		mt_run_free(run);
	return st;
}

enum mt_status mt_run_load(struct mt_run *run, const char *path)
{
	enum mt_status st;

	MT_TRY(mt_run_read(run, path));
	st = mt_run_check(run, path);
	if (st != MT_OK)
		mt_run_free(run);
	return st;
}

/* Each line of `header` after "# ". */
static void write_header(FILE *out, const char *header)
{
	for (const char *line = header; *line;) {
		size_t length = strcspn(line, "\n");
		fprintf(out, "#%s%.*s\n", length ? " " : "", (int)length, line);
		line += length;
		if (*line)
			line++;
	}
}

enum mt_status mt_run_save(const struct mt_run *run, const char *path, const char *header)
{
	struct mt_file file;

	MT_TRY(mt_file_create(&file, path));
	if (header)
		write_header(file.stream, header);
	mt_options_write(&mt_model_options, &run->model, file.stream);
	mt_options_write(&mt_layout_options, &run->layout, file.stream);
	mt_options_write(&mt_train_options_table, &run->train, file.stream);
	mt_options_write(&mt_data_options_table, &run->data, file.stream);
	return mt_file_commit(&file);
}
