/* links_gather: the GPUs and network cards of every host, told by the first rank of each. */
#include "probes/links.h"
#include "probes/parts.h"

#include <stdlib.h>
#include <string.h>

struct told {
	int gpu_count, nic_count;
	struct mt_machine_gpu gpus[MT_LINKS_GPUS];
	struct mt_machine_nic nics[MT_LINKS_NICS];
};

static void tell(struct told *told)
{
	struct mt_links *links = malloc(sizeof *links);
	if (!links)
		return;
	mt_links_of_host(links);
	told->gpu_count = links->gpu_count;
	told->nic_count = links->nic_count;
	memcpy(told->gpus, links->gpus, sizeof told->gpus);
	memcpy(told->nics, links->nics, sizeof told->nics);
	free(links);
}

static enum mt_status keep(struct mt_machine *m, const struct told *all, int ranks)
{
	int gpus = 0, nics = 0;
	for (int r = 0; r < ranks; r++) {
		gpus += all[r].gpu_count;
		nics += all[r].nic_count;
	}
	m->gpus = calloc((size_t)gpus + 1, sizeof *m->gpus);
	m->nics = calloc((size_t)nics + 1, sizeof *m->nics);
	if (!m->gpus || !m->nics)
		return mt_fail(MT_NOMEM, "probe: no memory for %d GPUs and %d network cards", gpus, nics);
	for (int r = 0; r < ranks; r++) {
		for (int i = 0; i < all[r].gpu_count; i++) {
			m->gpus[m->gpu_count] = all[r].gpus[i];
			m->gpus[m->gpu_count++].host = m->rank_host[r];
		}
		for (int i = 0; i < all[r].nic_count; i++) {
			m->nics[m->nic_count] = all[r].nics[i];
			m->nics[m->nic_count++].host = m->rank_host[r];
		}
	}
	return MT_OK;
}

enum mt_status mt_probe_gather_links(struct mt_probe *probe)
{
	struct told *all = calloc((size_t)probe->size + 1, sizeof *all), *own = all ? all + probe->size : NULL;
	enum mt_status st = all ? MT_OK : mt_fail(MT_NOMEM, "probe: no memory for the links of %d ranks", probe->size);
	MT_GOTO(out, mt_probe_agree(probe, st));
	if (mt_fabric_local_rank(probe->fabric) == 0)
		tell(own);
	MT_GOTO(out, mt_comm_host_all_gather(probe->world, own, all, sizeof *own));
	st = keep(probe->machine, all, probe->size);
out:
	free(all);
	return st;
}
