/* launch: `megatune launch -n N COMMAND`: starts N processes that find each other without MPI (comm/place.h), on this host or,
 * through a remote shell, on several. Where the ranks of a job are on other hosts, a launcher there starts them: it gets the job's
 * token on its stdin, and ends its ranks when that closes, so nothing stays behind when this launcher or the network is gone. */
#define _GNU_SOURCE
#include "base/file.h"
#include "base/process.h"
#include "comm/place.h"
#include "kernels/device.h"
#include "tuner/cli.h"
#include "tuner/commands.h"
#include "tuner/ranks.h"

#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#define REMOTE_PORT 29517
#define TOKEN_BYTES 16
#define AGENT_WORDS 16

struct launch_command {
	int64_t ranks, port, node;
	char *hosts, *agent;
};

static const struct mt_option options[] = {
	{"ranks", MT_OPTION_INT, offsetof(struct launch_command, ranks), "0", 0, 1 << 20, NULL,
	 "ranks in all, also -n; 0: one for each GPU of this host, or as many as the hosts say"},
	{"hosts", MT_OPTION_STRING, offsetof(struct launch_command, hosts), NULL, 0, 0, NULL,
	 "hosts with their ranks, as in a:8,b:8; without numbers all have as many; none: this host"},
	{"port", MT_OPTION_INT, offsetof(struct launch_command, port), "0", 0, 65535, NULL,
	 "where rank 0 is met; 0: a free one here, 29517 with hosts"},
	{"agent", MT_OPTION_STRING, offsetof(struct launch_command, agent), "ssh", 0, 0, NULL,
	 "what runs a command on another host: 'AGENT HOST COMMAND', split at blanks"},
	{"node", MT_OPTION_INT, offsetof(struct launch_command, node), "-1", -1, 1 << 20, NULL,
	 "used between launchers: which of the hosts this is"},
};
static const struct mt_option_table table = {"launch", options, sizeof options / sizeof options[0]};

struct node {
	char name[256];
	int ranks, first;
};

struct job {
	const struct launch_command *command;
	char **argv;        /* of the ranks' command */
	struct node *nodes; /* owned */
	int node_count, size, port;
	char token[2 * TOKEN_BYTES + 1];
	struct mt_rank_process *processes; /* owned */
	int started;
};

/* ---- which ranks where ---- */

static enum mt_status read_hosts(struct job *j, const char *text)
{
	char *copy = strdup(text), *state = NULL;
	int words = 1, counted = 0, sum = 0;
	enum mt_status st = MT_OK;
	for (const char *c = text; *c; c++)
		words += *c == ',';
	j->nodes = calloc((size_t)words, sizeof *j->nodes);
	if (!copy || !j->nodes)
		MT_GOTO(out, mt_fail(MT_NOMEM, "no memory for %d hosts", words));
	for (char *word = strtok_r(copy, ",", &state); word; word = strtok_r(NULL, ",", &state)) {
		struct node *n = &j->nodes[j->node_count++];
		char *colon = strrchr(word, ':'), *end = NULL;
		long ranks = colon ? strtol(colon + 1, &end, 10) : 0;
		if (colon && (end == colon + 1 || *end || ranks < 1 || ranks > 4096))
			MT_GOTO(out, mt_fail(MT_INPUT, "hosts '%s': '%s' is no number of ranks", text, colon + 1));
		if (colon)
			*colon = '\0';
		if (!*word || word[0] == '-' || strlen(word) >= sizeof n->name)
			MT_GOTO(out, mt_fail(MT_INPUT, "hosts '%s': '%s' is no host", text, word));
		strcpy(n->name, word);
		n->ranks = (int)ranks;
		counted += colon != NULL;
		sum += (int)ranks;
	}
	if (j->node_count == 0 || (counted && counted != j->node_count))
		MT_GOTO(out, mt_fail(MT_INPUT, "hosts '%s': give all hosts a number of ranks, as in a:8,b:8, or none", text));
	if (!counted && (j->command->ranks == 0 || j->command->ranks % j->node_count))
		MT_GOTO(out, mt_fail(MT_INPUT, "%lld ranks do not fit %d hosts evenly: give -n, or numbers as in a:8,b:8",
				     (long long)j->command->ranks, j->node_count));
	for (int i = 0; i < j->node_count && !counted; i++)
		sum += j->nodes[i].ranks = (int)j->command->ranks / j->node_count;
	if (j->command->ranks && j->command->ranks != sum)
		MT_GOTO(out,
			mt_fail(MT_INPUT, "hosts '%s' have %d ranks, not the %lld of -n", text, sum, (long long)j->command->ranks));
	j->size = sum;
out:
	free(copy);
	return st;
}

static enum mt_status one_host(struct job *j)
{
	struct mt_device_info info;
	int gpus = 0;
	j->size = (int)j->command->ranks;
	if (j->size == 0) {
		if (mt_device_plugin_list("cuda", &info, 1, &gpus) != MT_OK) {
			mt_error_clear();
			return mt_fail(MT_INPUT, "how many ranks? This host has no GPU that could tell: give -n N");
		}
		j->size = gpus;
	}
	j->nodes = calloc(1, sizeof *j->nodes);
	if (!j->nodes)
		return mt_fail(MT_NOMEM, "no memory");
	strcpy(j->nodes[0].name, "127.0.0.1");
	j->nodes[0].ranks = j->size;
	j->node_count = 1;
	return MT_OK;
}

static enum mt_status make_token(char token[2 * TOKEN_BYTES + 1])
{
	unsigned char bytes[TOKEN_BYTES];
	if (getrandom(bytes, sizeof bytes, 0) != (ssize_t)sizeof bytes)
		return mt_fail(MT_FAILED, "the system gives no random number");
	for (int i = 0; i < TOKEN_BYTES; i++)
		snprintf(token + 2 * i, 3, "%02x", bytes[i]);
	return MT_OK;
}

/* The first line of a remote launcher's stdin, byte by byte: signals may follow. */
static enum mt_status read_token(char token[2 * TOKEN_BYTES + 1])
{
	for (int i = 0; i <= 2 * TOKEN_BYTES; i++) {
		if (read(STDIN_FILENO, &token[i], 1) != 1 || (token[i] == '\n') != (i == 2 * TOKEN_BYTES))
			return mt_fail(MT_INPUT, "--node is for a launcher that another one started");
	}
	token[2 * TOKEN_BYTES] = '\0';
	return MT_OK;
}

static enum mt_status settle(struct job *j)
{
	const struct launch_command *c = j->command;
	MT_TRY(c->hosts ? read_hosts(j, c->hosts) : one_host(j));
	if (c->node >= j->node_count)
		return mt_fail(MT_INPUT, "--node %lld: there are %d hosts", (long long)c->node, j->node_count);
	for (int i = 1; i < j->node_count; i++)
		j->nodes[i].first = j->nodes[i - 1].first + j->nodes[i - 1].ranks;
	j->port = c->port ? (int)c->port : REMOTE_PORT;
	if (!c->port && !c->hosts)
		MT_TRY(mt_place_free_port(&j->port));
	j->processes = calloc((size_t)(j->size + j->node_count), sizeof *j->processes);
	if (!j->processes)
		return mt_fail(MT_NOMEM, "no memory for %d ranks", j->size);
	return c->node >= 0 ? read_token(j->token) : make_token(j->token);
}

/* ---- ranks of this host ---- */

static enum mt_status start_rank(struct job *j, const struct node *n, int local)
{
	struct mt_rank_process *p = &j->processes[j->started];
	char *environment[9] = {0};
	enum mt_status st = MT_OK;
	int rank = n->first + local;
	environment[0] = mt_string("RANK=%d", rank);
	environment[1] = mt_string("WORLD_SIZE=%d", j->size);
	environment[2] = mt_string("LOCAL_RANK=%d", local);
	environment[3] = mt_string("LOCAL_WORLD_SIZE=%d", n->ranks);
	environment[4] = mt_string("MASTER_ADDR=%s", j->nodes[0].name);
	environment[5] = mt_string("MASTER_PORT=%d", j->port);
	environment[6] = mt_string("MEGATUNE_TOKEN=%s", j->token);
	environment[7] = mt_string("MEGATUNE_PORT=%d", j->port);
	for (int i = 0; i < 8; i++)
		if (!environment[i])
			MT_GOTO(out, mt_fail(MT_NOMEM, "no memory for the environment of rank %d", rank));
	p->leash = -1;
	snprintf(p->name, sizeof p->name, "rank %d", rank);
	st = mt_process_spawn(&p->pid, (const char *const *)j->argv, (const char *const *)environment, -1);
	j->started += st == MT_OK;
out:
	for (int i = 0; i < 8; i++)
		free(environment[i]);
	return st;
}

static enum mt_status start_here(struct job *j, const struct node *n)
{
	for (int i = 0; i < n->ranks; i++)
		MT_TRY(start_rank(j, n, i));
	return MT_OK;
}

/* ---- other hosts ---- */

/* A word as a shell reads it back. */
static void print_quoted(FILE *file, const char *word)
{
	fputs(" '", file);
	for (const char *c = word; *c; c++)
		if (*c == '\'')
			fputs("'\\''", file);
		else
			fputc(*c, file);
	fputc('\'', file);
}

/* What the ranks are told by variables of ours, they are told there too. */
static bool travels(const char *variable)
{
	static const char *const prefixes[] = {"MEGATUNE_", "NCCL_", "OMP_", "CUDA_", "PATH=", "LD_LIBRARY_PATH="};
	if (strncmp(variable, "MEGATUNE_TOKEN=", 15) == 0)
		return false;
	for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++)
		if (strncmp(variable, prefixes[i], strlen(prefixes[i])) == 0)
			return true;
	return false;
}

static char *remote_command(const struct job *j, int node)
{
	char *text = NULL, directory[PATH_MAX], *self = mt_process_self();
	size_t length = 0;
	FILE *file = self && getcwd(directory, sizeof directory) ? open_memstream(&text, &length) : NULL;
	if (!file) {
		free(self);
		return NULL;
	}
	fputs("cd", file);
	print_quoted(file, directory);
	fputs(" && exec env", file);
	for (char **e = environ; *e; e++)
		if (travels(*e))
			print_quoted(file, *e);
	print_quoted(file, self);
	fprintf(file, " launch --node %d --port %d --hosts", node, j->port);
	print_quoted(file, j->command->hosts);
	fprintf(file, " --ranks %d --", j->size);
	for (char **word = j->argv; *word; word++)
		print_quoted(file, *word);
	free(self);
	if (fclose(file) == 0)
		return text;
	free(text);
	return NULL;
}

static enum mt_status start_there(struct job *j, int node)
{
	struct mt_rank_process *p = &j->processes[j->started];
	const char *argv[AGENT_WORDS + 3];
	char *agent = strdup(j->command->agent), *command = remote_command(j, node), *state = NULL, line[2 * TOKEN_BYTES + 2];
	int count = 0, ends[2] = {-1, -1};
	enum mt_status st;
	if (!agent || !command)
		MT_GOTO(out, mt_fail(MT_NOMEM, "no memory for the command of host %s", j->nodes[node].name));
	for (char *word = strtok_r(agent, " \t", &state); word && count < AGENT_WORDS; word = strtok_r(NULL, " \t", &state))
		argv[count++] = word;
	if (count == 0)
		MT_GOTO(out, mt_fail(MT_INPUT, "--agent is empty"));
	argv[count++] = j->nodes[node].name;
	argv[count++] = command;
	argv[count] = NULL;
	if (pipe2(ends, O_CLOEXEC) != 0)
		MT_GOTO(out, mt_fail(MT_FAILED, "no pipe for the launcher of host %s", j->nodes[node].name));
	MT_GOTO(out, mt_process_spawn(&p->pid, argv, NULL, ends[0]));
	snprintf(p->name, sizeof p->name, "the launcher on %.60s", j->nodes[node].name);
	p->launches = true;
	p->leash = ends[1];
	ends[1] = -1;
	j->started++;
	snprintf(line, sizeof line, "%s\n", j->token);
	/* One that is gone already is found so when it is waited for. */
	ssize_t ignored = write(p->leash, line, sizeof line - 1);
	(void)ignored;
out:
	for (int i = 0; i < 2; i++)
		if (ends[i] >= 0)
			close(ends[i]);
	free(agent);
	free(command);
	return st;
}

static bool is_here(const char *name)
{
	char own[256] = "";
	size_t length = strlen(name);
	if (strcmp(name, "localhost") == 0 || strncmp(name, "127.", 4) == 0)
		return true;
	return gethostname(own, sizeof own - 1) == 0 && strncmp(own, name, length) == 0 &&
	       (own[length] == '\0' || own[length] == '.');
}

static enum mt_status start_all(struct job *j)
{
	if (j->command->node >= 0)
		return start_here(j, &j->nodes[j->command->node]);
	for (int i = 0; i < j->node_count; i++)
		MT_TRY(is_here(j->nodes[i].name) ? start_here(j, &j->nodes[i]) : start_there(j, i));
	return MT_OK;
}

/* ---- the command ---- */

static enum mt_status launch(struct job *j)
{
	char *self = NULL, *found = mt_process_find(j->argv[0]);
	enum mt_status st;
	signal(SIGPIPE, SIG_IGN); /* a leash whose other end is gone */
	if (!found && strcmp(j->argv[0], "megatune") == 0 && (self = mt_process_self()))
		j->argv[0] = self;
	free(found);
	MT_GOTO(out, settle(j));
	st = start_all(j);
	if (st != MT_OK)
		mt_ranks_end(j->processes, j->started);
	else
		st = mt_ranks_wait(j->processes, j->started, j->command->node >= 0 ? STDIN_FILENO : -1);
out:
	free(j->processes);
	free(j->nodes);
	free(self);
	return st;
}

enum mt_status mt_command_launch(int argc, char **argv)
{
	struct launch_command command = {0};
	struct mt_cli cli = {
		.usage = "megatune launch -n N [options] COMMAND ...",
		.summary = "Starts a command on several ranks that find each other without MPI: RANK, WORLD_SIZE, LOCAL_RANK, "
			   "MASTER_ADDR and MASTER_PORT say which one a process is. When one fails the others are ended.",
		.tables = {&table},
		.values = {&command},
		.takes_command = true};
	struct job job = {.command = &command};
	enum mt_status st;

	mt_options_default(&table, &command);
	st = mt_cli_parse(&cli, argc, argv);
	if (cli.helped)
		goto out;
	MT_GOTO(out, st);
	MT_GOTO(out, mt_cli_apply(&cli));
	if (!cli.rest || !cli.rest[0])
		MT_GOTO(out, mt_fail(MT_INPUT, "command line: what is to be started? (%s)", cli.usage));
	job.argv = cli.rest;
	st = launch(&job);
out:
	mt_cli_free(&cli);
	mt_options_free(&table, &command);
	return st;
}
