/* place: see place.h. */
#define _GNU_SOURCE
#include "comm/place.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

/* Steps that are no srun: batch, extern, interactive have numbers from here on. */
#define SLURM_STEP_MOST 0xfffffff0u

static const char *get(const char *name)
{
	const char *value = getenv(name);
	return value && *value ? value : NULL;
}

static enum mt_status number(const char *name, long least, long most, int *value)
{
	const char *text = get(name);
	char *end = NULL;
	long n = text ? strtol(text, &end, 10) : 0;
	if (!text)
		return mt_fail(MT_INPUT,
			       "the environment says that this is one rank of several, but not %s: use `megatune launch`, "
			       "mpirun, srun or torchrun",
			       name);
	if (*end != '\0' || n < least || n > most)
		return mt_fail(MT_INPUT, "%s is '%s' in the environment, not a number from %ld to %ld", name, text, least, most);
	*value = (int)n;
	return MT_OK;
}

static enum mt_status optional(const char *name, long least, long most, int *value)
{
	return get(name) ? number(name, least, most, value) : MT_OK;
}

/* FNV-1a: the same on all ranks, and another for another job. */
static uint64_t mix(uint64_t hash, const char *text)
{
	for (const char *c = text ? text : ""; *c; c++)
		hash = (hash ^ (uint64_t)(unsigned char)*c) * 1099511628211u;
	return (hash ^ '/') * 1099511628211u;
}

/* The launcher's own, else one of what all ranks of the job know. */
static uint64_t find_token(const struct mt_place *place)
{
	const char *given = get("MEGATUNE_TOKEN");
	uint64_t hash = 14695981039346656037u;
	char port[16];
	if (given)
		return mix(hash, given);
	snprintf(port, sizeof port, "%d", place->port);
	hash = mix(mix(hash, place->address), port);
	return mix(mix(hash, get("TORCHELASTIC_RUN_ID")), get("SLURM_JOB_ID"));
}

/* torchrun may keep a store of its own at MASTER_PORT. */
static enum mt_status find_port(struct mt_place *place)
{
	const char *store = get("TORCHELASTIC_USE_AGENT_STORE");
	if (get("MEGATUNE_PORT"))
		return number("MEGATUNE_PORT", 1, 65535, &place->port);
	MT_TRY(number("MASTER_PORT", 1, 65535, &place->port));
	if (store && strcasecmp(store, "true") == 0)
		place->port += place->port < 65535 ? 1 : -1;
	return MT_OK;
}

static enum mt_status from_variables(struct mt_place *p)
{
	MT_TRY(number("WORLD_SIZE", 1, 1 << 20, &p->size));
	MT_TRY(number("RANK", 0, p->size - 1, &p->rank));
	MT_TRY(optional("LOCAL_WORLD_SIZE", 1, p->size, &p->local_size));
	MT_TRY(optional("LOCAL_RANK", 0, p->local_size > 0 ? p->local_size - 1 : p->size - 1, &p->local_rank));
	if (!get("MASTER_ADDR"))
		return mt_fail(MT_INPUT, "RANK and WORLD_SIZE are set, but not MASTER_ADDR, the host of rank 0");
	snprintf(p->address, sizeof p->address, "%s", get("MASTER_ADDR"));
	return find_port(p);
}

enum mt_status mt_place_first_host(const char *list, char *host, size_t bytes)
{
	size_t name = strcspn(list, "[,"), digits = 0;
	const char *range = list + name;
	if (*range == '[') {
		range++;
		digits = strspn(range, "0123456789");
	}
	if (name + digits == 0 || name + digits >= bytes || (range > list + name && digits == 0))
		return mt_fail(MT_INPUT, "'%s' is no list of hosts as Slurm writes it; set MASTER_ADDR to the host of rank 0",
			       list);
	snprintf(host, bytes, "%.*s%.*s", (int)name, list, (int)digits, range);
	return MT_OK;
}

static enum mt_status from_slurm(struct mt_place *p)
{
	const char *hosts = get("SLURM_STEP_NODELIST") ? get("SLURM_STEP_NODELIST") : get("SLURM_JOB_NODELIST");
	int job = 0, step = 0;
	MT_TRY(number("SLURM_STEP_NUM_TASKS", 1, 1 << 20, &p->size));
	MT_TRY(number("SLURM_PROCID", 0, p->size - 1, &p->rank));
	MT_TRY(optional("SLURM_LOCALID", 0, p->size - 1, &p->local_rank));
	MT_TRY(number("SLURM_JOB_ID", 0, 0x7fffffff, &job));
	MT_TRY(number("SLURM_STEP_ID", 0, 0x7fffffff, &step));
	if (get("MASTER_ADDR"))
		snprintf(p->address, sizeof p->address, "%s", get("MASTER_ADDR"));
	else if (get("SLURM_STEP_NUM_NODES") && strcmp(get("SLURM_STEP_NUM_NODES"), "1") == 0) /* a node's name need not resolve */
		strcpy(p->address, "127.0.0.1");
	else if (hosts)
		MT_TRY(mt_place_first_host(hosts, p->address, sizeof p->address));
	else
		return mt_fail(MT_INPUT, "srun says no list of hosts (SLURM_STEP_NODELIST): set MASTER_ADDR to the host of rank 0");
	p->port = MT_PLACE_PORT_FIRST + (int)(((unsigned)job * 31u + (unsigned)step) % MT_PLACE_PORTS);
	return get("MEGATUNE_PORT") || get("MASTER_PORT") ? find_port(p) : MT_OK;
}

/* A batch script has SLURM_PROCID too, and is no rank. */
static bool is_slurm_step(void)
{
	const char *step = get("SLURM_STEP_ID"), *tasks = get("SLURM_STEP_NUM_TASKS");
	return get("SLURM_PROCID") && step && strtoul(step, NULL, 10) < SLURM_STEP_MOST && tasks && strtol(tasks, NULL, 10) > 1;
}

enum mt_status mt_place_find(struct mt_place *place, bool *found)
{
	*place = (struct mt_place){.size = 1, .local_rank = -1, .local_size = -1};
	*found = false;
	if (get("RANK") && get("WORLD_SIZE"))
		MT_TRY(from_variables(place));
	else if (is_slurm_step())
		MT_TRY(from_slurm(place));
	*found = place->size > 1;
	place->token = find_token(place);
	place->watched = get("MEGATUNE_TOKEN") != NULL;
	return MT_OK;
}

static bool is_unused(int port)
{
	struct sockaddr_in address = {
		.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_ANY)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	bool unused = fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof address) == 0;
	if (fd >= 0)
		close(fd);
	return unused;
}

enum mt_status mt_place_free_port(int *port)
{
	unsigned start = 0;
	if (getrandom(&start, sizeof start, 0) != (ssize_t)sizeof start)
		return mt_fail(MT_FAILED, "the system gives no random number");
	for (unsigned i = 0; i < MT_PLACE_PORTS; i++) {
		*port = MT_PLACE_PORT_FIRST + (int)((start % MT_PLACE_PORTS + i) % MT_PLACE_PORTS);
		if (is_unused(*port))
			return MT_OK;
	}
	return mt_fail(MT_FAILED, "no port from %d to %d is free for the ranks to meet at", MT_PLACE_PORT_FIRST,
		       MT_PLACE_PORT_FIRST + MT_PLACE_PORTS - 1);
}
