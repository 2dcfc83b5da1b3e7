/* fabric: making one by name, and what is known of its ranks and hosts. */
#include "comm/fabric.h"
#include "base/log.h"
#include "base/plugin.h"
#include "comm/place.h"
#include "comm/watchdog.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* NULL ends the list. A fabric that this build lacks is known by name in mt_fabric_create only. */
static const struct mt_fabric_ops *const fabrics[] = {
	&mt_fabric_self,
#ifdef MT_HAVE_MPI
	&mt_fabric_mpi,  &mt_fabric_rehearsal,
#endif
	&mt_fabric_tcp,  &mt_fabric_dry,       &mt_fabric_alone, NULL,
};

const char *const *mt_fabric_kinds(void)
{
	static const char *const kinds[] = {
		"self",
#ifdef MT_HAVE_MPI
		"mpi",  "rehearsal",
#endif
		"tcp",  "nccl",      "dry", "alone", NULL,
	};
	return kinds;
}

static bool is_set(const char *variable)
{
	const char *value = getenv(variable);
	return value && *value;
}

bool mt_fabric_launched(void)
{
	return is_set("OMPI_COMM_WORLD_SIZE") || is_set("PMIX_RANK") || (is_set("PMI_RANK") && is_set("SLURM_JOB_ID"));
}

/* What makes no sense in the environment is told by the fabric when it opens. */
const char *mt_fabric_launched_kind(void)
{
	struct mt_place place;
	bool found = false;
	enum mt_status st = mt_place_find(&place, &found);
	bool tcp = st != MT_OK || found;
	if (st != MT_OK)
		mt_error_clear();
#ifdef MT_HAVE_MPI
	if (mt_fabric_launched() && !(tcp && place.watched))
		return "mpi";
	return tcp ? "tcp" : "self";
#else
	return tcp ? "tcp" : mt_fabric_launched() ? "mpi" : "self";
#endif
}

static enum mt_status find(const char *kind, const struct mt_fabric_ops **ops)
{
	for (int i = 0; fabrics[i]; i++) {
		*ops = fabrics[i];
		if (kind && strcmp(fabrics[i]->kind, kind) == 0)
			return MT_OK;
	}
	if (kind && (strcmp(kind, "mpi") == 0 || strcmp(kind, "rehearsal") == 0))
		return mt_fail(MT_UNAVAILABLE, "fabric mpi: this build has no MPI, so only one rank can run; install Open MPI "
					       "(Debian: openmpi-bin libopenmpi-dev) and build again");
	if (kind && strcmp(kind, "nccl") == 0) {
		const void *table = NULL;
		MT_TRY(mt_plugin_open(kind, MT_FABRIC_ABI, &table));
		*ops = table;
		return MT_OK;
	}
	return mt_fail(MT_INPUT, "fabric '%s' is not known; there are self, mpi, tcp, nccl, dry, rehearsal and alone",
		       kind ? kind : "(null)");
}

enum mt_status mt_fabric_create(struct mt_fabric **fabric, const struct mt_fabric_config *config)
{
	struct mt_fabric *f;
	enum mt_status st;
	const struct mt_fabric_ops *ops;
	*fabric = NULL;
	MT_TRY(find(config->kind, &ops));
	f = calloc(1, sizeof *f);
	if (!f)
		return mt_fail(MT_NOMEM, "fabric %s: no memory", ops->kind);
	f->ops = ops;
	MT_GOTO(fail, ops->open(f, config));
	*fabric = f;
	return MT_OK;
fail:
	free(f->hosts);
	free(f);
	return st;
}

void mt_fabric_destroy(struct mt_fabric *fabric)
{
	if (!fabric)
		return;
	if (fabric->groups)
		mt_error("fabric %s is destroyed while %d of its groups are alive", fabric->ops->kind, fabric->groups);
	if (fabric->ops->close && !fabric->parent)
		fabric->ops->close(fabric);
	free(fabric->hosts);
	free(fabric->order);
	free(fabric->place);
	free(fabric);
}

void mt_fabric_set_deadline(struct mt_fabric *fabric, double deadline_s)
{
	if (fabric->parent)
		mt_fabric_set_deadline(fabric->parent, deadline_s);
	else if (fabric->watchdog)
		mt_watchdog_set_deadline(fabric->watchdog, deadline_s);
}

enum mt_status mt_fabric_register(struct mt_fabric *fabric, void *memory, size_t bytes, void **handle)
{
	*handle = NULL;
	if (fabric->parent)
		return mt_fabric_register(fabric->parent, memory, bytes, handle);
	return fabric->ops->register_memory ? fabric->ops->register_memory(fabric, memory, bytes, handle) : MT_OK;
}

void mt_fabric_unregister(struct mt_fabric *fabric, void *handle)
{
	if (handle && fabric->parent)
		mt_fabric_unregister(fabric->parent, handle);
	else if (handle)
		fabric->ops->unregister_memory(fabric, handle);
}

void mt_fabric_abort(struct mt_fabric *fabric, int exit_code)
{
	if (fabric && fabric->parent)
		mt_fabric_abort(fabric->parent, exit_code);
	if (fabric && fabric->ops->abort)
		fabric->ops->abort(fabric, exit_code);
	exit(exit_code);
}

enum mt_status mt_fabric_one_host(struct mt_fabric *fabric)
{
	fabric->hosts = calloc(1, sizeof *fabric->hosts);
	if (!fabric->hosts)
		return mt_fail(MT_NOMEM, "fabric %s: no memory", fabric->ops->kind);
	fabric->host_entries = 1;
	if (gethostname(fabric->hosts[0], MT_FABRIC_HOST - 1) != 0)
		strcpy(fabric->hosts[0], "localhost");
	return MT_OK;
}

enum mt_status mt_fabric_usable(const char *kind)
{
	const struct mt_fabric_ops *ops;
	MT_TRY(find(kind, &ops));
	return ops->usable ? ops->usable() : MT_OK;
}

const char *mt_fabric_kind(const struct mt_fabric *fabric)
{
	return fabric->ops->kind;
}

int mt_fabric_rank(const struct mt_fabric *fabric)
{
	return fabric->rank;
}

int mt_fabric_size(const struct mt_fabric *fabric)
{
	return fabric->size;
}

int mt_fabric_local_rank(const struct mt_fabric *fabric)
{
	return fabric->local_rank;
}

int mt_fabric_local_size(const struct mt_fabric *fabric)
{
	return fabric->local_size;
}

const char *mt_fabric_host(const struct mt_fabric *fabric, int rank)
{
	return fabric->hosts[fabric->host_entries > 1 ? rank : 0];
}

const char *mt_fabric_library(const struct mt_fabric *fabric)
{
	return fabric->library;
}
