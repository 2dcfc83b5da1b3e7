/* logits: `megatune logits DIR --tokens 1,2,3`: the logits of given tokens, to be held against another program's. */
#include "base/file.h"
#include "engine/weights.h"
#include "tuner/cli.h"
#include "tuner/commands.h"

#include <stdlib.h>
#include <string.h>

struct logits_command {
	char *tokens; /* owned */
	char *device; /* owned */
	int dtype;
	int64_t threads;
};

static const char *const dtypes[] = {"f32", "bf16", "f64", NULL};

static const struct mt_option options[] = {
	{"tokens", MT_OPTION_STRING, offsetof(struct logits_command, tokens), NULL, 0, 0, NULL,
	 "the tokens of one sequence, commas between"},
	{"device", MT_OPTION_STRING, offsetof(struct logits_command, device), "cpu", 0, 0, NULL, "cpu, reference or cuda"},
	{"dtype", MT_OPTION_CHOICE, offsetof(struct logits_command, dtype), "f32", 0, 0, dtypes,
	 "type of weights and activations; f64 on the reference device only"},
	{"threads", MT_OPTION_INT, offsetof(struct logits_command, threads), "0", 0, 4096, NULL, "host threads; 0: all"},
};
static const struct mt_option_table table = {"command", options, sizeof options / sizeof options[0]};

/* "1,2,3" to numbers below vocab; *tokens is to be freed. */
static enum mt_status parse_tokens(const char *text, int64_t vocab, int32_t **tokens, int64_t *count)
{
	int32_t *list = calloc(strlen(text) + 1, sizeof *list);
	int64_t n = 0;

	if (!list)
		return mt_fail(MT_NOMEM, "out of memory");
	for (const char *at = text; *at;) {
		char *end;
		long value = strtol(at, &end, 10);

		if (end == at || value < 0 || value >= vocab || (*end && (*end != ',' || !end[1]))) {
			free(list);
			return mt_fail(MT_INPUT, "command line: tokens '%s': '%s' is no number below the vocabulary of %lld", text,
				       at, (long long)vocab);
		}
		list[n++] = (int32_t)value;
		at = *end ? end + 1 : end;
	}
	*tokens = list;
	*count = n;
	return n > 0 ? MT_OK : mt_fail(MT_INPUT, "command line: give --tokens, as in --tokens 464,3290,318");
}

static void print_logits(const double *logits, int64_t rows, int64_t vocab)
{
	printf("{\"rows\": %lld, \"vocab\": %lld, \"logits\": [\n", (long long)rows, (long long)vocab);
	for (int64_t row = 0; row < rows; row++) {
		printf("[");
		for (int64_t c = 0; c < vocab; c++)
			printf("%s%.9g", c ? "," : "", logits[row * vocab + c]);
		printf("]%s\n", row + 1 < rows ? "," : "");
	}
	printf("]}\n");
}

static enum mt_status compute(struct mt_run *run, const char *kind, const char *directory, const int32_t *tokens)
{
	struct mt_device_config device_config = {.kind = kind, .threads = (int)run->layout.threads};
	struct mt_fabric_config fabric_config = {.kind = "self"};
	struct mt_engine_config config = {.run = run};
	struct mt_engine *engine = NULL;
	double *logits = malloc((size_t)(run->layout.seq * run->model.vocab) * sizeof *logits);
	enum mt_status st;

	if (!logits)
		return mt_fail(MT_NOMEM, "no memory for the logits of %lld tokens", (long long)run->layout.seq);
	MT_GOTO(out, mt_device_create(&config.device, &device_config));
	MT_GOTO(out, mt_fabric_create(&config.fabric, &fabric_config));
	MT_GOTO(out, mt_engine_create(&engine, &config));
	MT_GOTO(out, mt_weights_load(engine, directory));
	MT_GOTO(out, mt_engine_logits(engine, tokens, logits));
	print_logits(logits, run->layout.seq, run->model.vocab);
out:
	mt_engine_destroy(engine);
	mt_fabric_destroy(config.fabric);
	mt_device_destroy(config.device);
	free(logits);
	return st;
}

static enum mt_status run_command(const struct logits_command *command, const char *directory)
{
	static const enum mt_dtype types[] = {MT_F32, MT_BF16, MT_F64};
	int32_t *tokens = NULL;
	struct mt_run run;
	enum mt_status st;

	mt_run_default(&run);
	MT_GOTO(out, mt_weights_model(&run.model, directory));
	run.model.mtp = 0; /* they predict what no logit here is of */
	MT_GOTO(out, parse_tokens(command->tokens ? command->tokens : "", run.model.vocab, &tokens, &run.layout.seq));
	run.layout.gbs = run.layout.mbs = 1;
	run.layout.dtype = types[command->dtype];
	run.layout.threads = command->threads;
	st = compute(&run, command->device, directory, tokens);
out:
	free(tokens);
	mt_run_free(&run);
	return st;
}

enum mt_status mt_command_logits(int argc, char **argv)
{
	struct logits_command command = {0};
	struct mt_cli cli = {
		.usage = "megatune logits DIR --tokens 1,2,3",
		.summary = "Logits of a sequence of tokens by the weights of a Hugging Face directory or a checkpoint, as "
			   "JSON: {\"rows\", \"vocab\", \"logits\"}. tests/hf_logits.py compares them with PyTorch's.",
		.tables = {&table},
		.values = {&command},
		.least_words = 1,
		.most_words = 1};
	enum mt_status st;

	mt_options_default(&table, &command);
	st = mt_cli_parse(&cli, argc, argv);
	if (st == MT_OK && !cli.helped)
		st = mt_cli_apply(&cli);
	if (st == MT_OK && !cli.helped)
		st = run_command(&command, cli.words[0]);
	mt_options_free(&table, &command);
	mt_cli_free(&cli);
	return st;
}
