/* fingerprint: what kernel times depend on: processor, instruction sets, cores, memory, GPUs, libraries, compiler and build. The
 * kernel's release, host names and the number of hosts are left out: they change without the times changing. Hosts of
 * different kinds all count, alike ones once. FNV-1a, 64 bits. */
#include "probes/parts.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static uint64_t hash_text(uint64_t hash, const char *text)
{
	for (; *text; text++)
		hash = (hash ^ (unsigned char)*text) * 1099511628211u;
	return hash;
}

static uint64_t hash_host(const struct mt_machine_host *host)
{
	char text[256];
	double gib = (double)host->memory_bytes / (1u << 30);
	snprintf(text, sizeof text, "%s|%s|%d|%d|%.0f|%d", host->cpu, host->isa, host->cores, host->threads_per_core, gib,
		 host->gpus);
	return hash_text(14695981039346656037u, text);
}

void mt_probe_fingerprint(struct mt_machine *m)
{
	uint64_t kinds = 0, hash = 14695981039346656037u;
	for (int h = 0; h < m->host_count; h++) {
		uint64_t kind = hash_host(&m->hosts[h]);
		bool seen = false;
		for (int i = 0; i < h && !seen; i++)
			seen = hash_host(&m->hosts[i]) == kind;
		kinds += seen ? 0 : kind; /* a sum, so that the order of hosts does not matter */
	}
	char text[32];
	snprintf(text, sizeof text, "%016" PRIx64 "|", kinds);
	hash = hash_text(hash, text);
	hash = hash_text(hash, m->libraries);
	hash = hash_text(hash, "|" __VERSION__ "|" MT_VERSION "|");
	hash = hash_text(hash, m->device);
	snprintf(m->fingerprint, sizeof m->fingerprint, "%016" PRIx64, hash);
}
