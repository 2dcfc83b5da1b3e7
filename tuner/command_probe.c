/* probe, doctor, report: the commands that are one call. */
#include "base/file.h"
#include "base/json.h"
#include "probes/doctor.h"
#include "probes/probe.h"
#include "reports/report.h"
#include "tuner/cli.h"
#include "tuner/commands.h"
#include "tuner/job.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct probe_command {
	char *out;
};

static const struct mt_option probe_options[] = {
	{"out", MT_OPTION_STRING, offsetof(struct probe_command, out), "machine.yaml", 0, 0, NULL, "file to write"},
};
static const struct mt_option_table probe_table = {"command", probe_options, 1};

static json_t *probe_json(const struct mt_machine *m, const char *path)
{
	json_t *o = json_object();

	json_object_set_new(o, "machine", json_string(m->name));
	json_object_set_new(o, "fingerprint", json_string(m->fingerprint));
	json_object_set_new(o, "file", json_string(path));
	json_object_set_new(o, "ranks", json_integer(m->world));
	json_object_set_new(o, "hosts", json_integer(m->host_count));
	json_object_set_new(o, "memory_gbps", mt_json_number(m->memory_gbps));
	json_t *classes = json_array();
	for (int i = 0; i < m->class_count; i++) {
		json_t *c = json_object();

		json_object_set_new(c, "name", json_string(m->classes[i].name));
		json_object_set_new(c, "pairs", json_integer(m->classes[i].pairs));
		json_object_set_new(c, "latency_us", mt_json_number(m->classes[i].latency_us));
		json_object_set_new(c, "bandwidth_gbps", mt_json_number(m->classes[i].bandwidth_gbps));
		json_array_append_new(classes, c);
	}
	json_object_set_new(o, "pair_classes", classes);
	return o;
}

/* Without communication. A file that cannot be written is told before the measuring, not after. */
static enum mt_status prepare(const struct mt_cli *cli, const struct probe_command *command, const struct mt_fabric *fabric)
{
	struct mt_file file = {0};

	MT_TRY(mt_cli_apply(cli));
	if (mt_fabric_rank(fabric) != 0)
		return MT_OK;
	MT_TRY(mt_file_create(&file, command->out));
	mt_file_abort(&file);
	return MT_OK;
}

static enum mt_status probe(const struct mt_cli *cli, const struct probe_command *command, const struct mt_probe_options *options,
			    struct mt_fabric *fabric)
{
	struct mt_machine machine = {0};
	enum mt_status st;

	MT_GOTO(out, mt_probe_run(&machine, options, fabric));
	if (mt_fabric_rank(fabric) != 0)
		goto out;
	MT_GOTO(out, mt_machine_save(&machine, command->out));
	if (cli->common.json)
		st = mt_cli_print_json(probe_json(&machine, command->out));
	else
		mt_probe_print(&machine, stdout);
out:
	if (st != MT_OK)
		mt_job_give_up(fabric, st);
	mt_machine_free(&machine);
	return st;
}

enum mt_status mt_command_probe(int argc, char **argv)
{
	struct probe_command command = {0};
	struct mt_probe_options options;
	struct mt_cli cli = {
		.usage = "megatune probe [options]",
		.summary = "Measures the machine that its ranks run on and writes machine.yaml. Start it alone, or on several "
			   "ranks with `mpirun -n N megatune probe`: then links and collectives are measured too.",
		.tables = {&probe_table, &mt_probe_options_table},
		.values = {&command, &options}};
	struct mt_fabric *fabric = NULL;
	enum mt_status st, parsed;

	mt_options_default(&probe_table, &command);
	mt_options_default(&mt_probe_options_table, &options);
	st = mt_cli_parse(&cli, argc, argv);
	if (cli.helped)
		goto out;
	parsed = st;
	MT_GOTO(out, mt_job_open(&fabric));
	MT_GOTO(out, mt_job_agree(fabric, parsed == MT_OK ? prepare(&cli, &command, fabric) : parsed));
	MT_GOTO(out, mt_job_choose(&fabric, MT_FABRIC_AUTO, options.device ? options.device : "cpu"));
	st = probe(&cli, &command, &options, fabric);
out:
	mt_fabric_destroy(fabric);
	mt_cli_free(&cli);
	mt_options_free(&mt_probe_options_table, &options);
	mt_options_free(&probe_table, &command);
	return st;
}

enum mt_status mt_command_doctor(int argc, char **argv)
{
	struct mt_cli cli = {.usage = "megatune doctor [options]",
			     .summary = "Tells what this machine has, what is missing, what that leaves out and what to install."};
	json_t *document = NULL;
	enum mt_status st;

	MT_GOTO(out, mt_cli_parse(&cli, argc, argv));
	if (cli.helped)
		goto out;
	st = mt_doctor_report(cli.common.json ? NULL : stdout, cli.common.json ? &document : NULL);
	if (st == MT_OK && document)
		st = mt_cli_print_json(document);
out:
	mt_cli_free(&cli);
	return st;
}

struct report_command {
	char *out;
};

static const struct mt_option report_options[] = {
	{"out", MT_OPTION_STRING, offsetof(struct report_command, out), NULL, 0, 0, NULL,
	 "directory to write to; none: the result's own"},
};
static const struct mt_option_table report_table = {"command", report_options, 1};

static enum mt_status report(const struct mt_cli *cli, const char *out)
{
	const char *path = cli->words[0], *slash = strrchr(path, '/');
	char *directory = out ? strdup(out) : slash ? strndup(path, (size_t)(slash - path)) : strdup(".");
	json_t *result = NULL;
	enum mt_status st;

	if (!directory)
		return mt_fail(MT_NOMEM, "no memory for a path");
	MT_GOTO(out, mt_json_load(&result, path));
	MT_GOTO(out, mt_report_write(result, directory));
	if (cli->common.json)
		st = mt_cli_print_json(json_incref(result));
	else
		st = mt_report_print(result, stdout, isatty(STDOUT_FILENO) && !getenv("NO_COLOR"));
out:
	json_decref(result);
	free(directory);
	return st;
}

enum mt_status mt_command_report(int argc, char **argv)
{
	struct report_command command = {0};
	struct mt_cli cli = {.usage = "megatune report RESULT.json [options]",
			     .summary = "Makes the page, the figures and the summary again from a result of plan or tune.",
			     .tables = {&report_table},
			     .values = {&command},
			     .least_words = 1,
			     .most_words = 1};
	enum mt_status st;

	MT_GOTO(out, mt_cli_parse(&cli, argc, argv));
	if (cli.helped)
		goto out;
	MT_GOTO(out, mt_cli_apply(&cli));
	st = report(&cli, command.out);
out:
	mt_cli_free(&cli);
	mt_options_free(&report_table, &command);
	return st;
}
