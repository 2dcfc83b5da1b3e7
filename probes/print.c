/* print: a machine as tables of at most 80 columns. */
#include "probes/probe.h"

#include "base/units.h"

#include <math.h>
#include <string.h>

static void print_hosts(const struct mt_machine *m, FILE *file)
{
	fprintf(file, "host              ranks cores numa     memory  gpus  processor\n");
	for (int h = 0; h < m->host_count; h++) {
		const struct mt_machine_host *host = &m->hosts[h];
		char memory[MT_UNITS_TEXT];
		if (h >= 4 && m->host_count > 8 && h < m->host_count - 1) { /* many are alike: the first four and the last */
			if (h == 4)
				fprintf(file, "... %d more\n", m->host_count - 5);
			continue;
		}
		fprintf(file, "%-17.17s %5d %5d %4d %10s %5d  %.27s\n", host->name, host->ranks, host->cores, host->numa_nodes,
			mt_units_bytes(memory, (double)host->memory_bytes), host->gpus, host->cpu);
		fprintf(file, "                  %.27s, caches %lld KiB, %lld KiB, %lld MiB\n", host->isa,
			(long long)host->l1d_bytes >> 10, (long long)host->l2_bytes >> 10, (long long)host->l3_bytes >> 20);
		if (host->nic_text[0])
			fprintf(file, "                  %.62s\n", host->nic_text);
	}
}

static void print_memory(const struct mt_machine *m, FILE *file)
{
	char rank[MT_UNITS_TEXT], process[MT_UNITS_TEXT];
	fprintf(file, "\nmemory a rank     %s to use, %s taken before training\n",
		mt_units_bytes(rank, (double)m->rank_memory_bytes), mt_units_bytes(process, (double)m->process_bytes));
	if (m->memory_gbps <= 0)
		return;
	int64_t cached = m->host_count > 0 ? m->hosts[0].l3_bytes * (m->hosts[0].sockets > 0 ? m->hosts[0].sockets : 1) : 0;
	bool fits = m->host_count > 0 && m->memory_triad_bytes * m->hosts[0].ranks <= cached;
	fprintf(file, "triad             %.1f GB/s a host, %.1f GB/s one rank alone%s\n", m->memory_gbps, m->memory_one_gbps,
		fits ? " (fits the L3)" : "");
	fprintf(file, "jitter            %.1f%% of a fixed piece of work\n", 100 * m->step_jitter_frac);
}

static void print_rates(const struct mt_machine *m, FILE *file)
{
	if (m->rate_count > 0)
		fprintf(file, "\nproduct of cubes  threads  busy ranks   TFLOP/s a rank    spread\n");
	for (int i = 0; i < m->rate_count; i++) {
		const struct mt_machine_rate *r = &m->rates[i];
		fprintf(file, "%-17s %7d %11d %16.4f %8.1f%%\n", mt_dtype_name(r->dtype), r->threads, r->busy_ranks, r->tflops,
			r->tflops > 0 ? 100 * r->spread_tflops / r->tflops : 0);
	}
}

/* The GPUs of the first host, and of others that differ in number only by the head line of each. */
static void print_gpus(const struct mt_machine *m, FILE *file)
{
	if (m->gpu_count > 0)
		fprintf(file, "\ngpu            bus id        numa     memory PCIe now (most)  NVLinks  GB/s\n");
	for (int i = 0; i < m->gpu_count; i++) {
		const struct mt_machine_gpu *g = &m->gpus[i];
		char memory[MT_UNITS_TEXT], now[24], most[24];
		if (g->host > 0 && m->host_count > 2) { /* hosts are alike as a rule: the file has them all */
			fprintf(file, "... and %d more on other hosts\n", m->gpu_count - i);
			break;
		}
		snprintf(now, sizeof now, "%dx%d", g->pcie_generation_now % 100, g->pcie_width_now % 100);
		snprintf(most, sizeof most, "(%dx%d)", g->pcie_generation % 100, g->pcie_width % 100);
		fprintf(file, "%-14.14s %-12.12s %5d %10s %8s %-8s %7d %5.0f\n", g->name, g->bus_id, g->numa_node,
			mt_units_bytes(memory, (double)g->memory_bytes), now, most, g->nvlinks, g->nvlink_gbps);
		fprintf(file, "               NIC %.16s %.4s; to each GPU of the host: %.27s\n", g->nic[0] ? g->nic : "none",
			g->nic_path, g->peers);
	}
	for (int i = 0; i < m->nic_count && i < 16; i++) {
		const struct mt_machine_nic *n = &m->nics[i];
		if (i == 0)
			fprintf(file, "\nNIC            bus id        numa  port GB/s  PCIe now (most)\n");
		fprintf(file, "%-14.14s %-12.12s %5d %10.3g  %3dx%d (%dx%d) %s\n", n->name, n->bus_id, n->numa_node, n->port_gbps,
			n->pcie_generation_now, n->pcie_width_now, n->pcie_generation, n->pcie_width, n->up ? "up" : "down");
	}
}

static void print_copies(const struct mt_machine *m, FILE *file)
{
	const struct mt_machine_copies *c = &m->copies;
	char bytes[MT_UNITS_TEXT];
	if (c->bytes <= 0)
		return;
	fprintf(file, "\ncopies, GB/s      to device  from device  both at once   local   a = b + c\n");
	fprintf(file, "%-17s %9.2f %12.2f %13.2f %7.1f %11.1f\n", mt_units_bytes(bytes, (double)c->bytes), c->to_device_gbps,
		c->from_device_gbps, c->both_ways_gbps, c->local_gbps, c->memory_gbps);
}

static void print_classes(const struct mt_machine *m, FILE *file)
{
	if (m->class_count > 0)
		fprintf(file, "\npairs                    count  latency us      GB/s    lowest   highest\n");
	for (int i = 0; i < m->class_count; i++) {
		const struct mt_machine_pair_class *c = &m->classes[i];
		fprintf(file, "%-23s %6d %11.2f %9.3f %9.3f %9.3f\n", c->name, c->pairs, c->latency_us, c->bandwidth_gbps,
			c->lo_gbps, c->hi_gbps);
	}
}

static void print_curves(const struct mt_machine *m, FILE *file)
{
	if (m->curve_count > 0)
		fprintf(file, "\ncollective      type  size stride      bytes    time us busbw GB/s  alpha us fit\n");
	for (int i = 0; i < m->curve_count; i++) {
		const struct mt_comm_curve *c = &m->curves[i];
		char bytes[MT_UNITS_TEXT], busbw[16] = "n/a";
		if (c->points == 0)
			continue;
		double most = c->bytes[c->points - 1], seconds = c->seconds[c->points - 1],
		       factor = mt_comm_bus_factor(c->op, c->size);
		if (c->size > 1 && seconds > 0)
			snprintf(busbw, sizeof busbw, "%.3f", most / seconds * factor * 1e-9);
		fprintf(file, "%-15s %-4s %5d %6d %10s %10.1f %10s %9.1f %2.0f%%\n", mt_comm_op_name(c->op),
			mt_dtype_name(c->dtype), c->size, c->stride, mt_units_bytes(bytes, most), 1e6 * seconds, busbw,
			1e6 * c->alpha_s, fmin(99, 100 * c->residual_frac));
	}
	if (m->curve_count > 0)
		fputs("(largest size measured; fit: residual of alpha + beta * bytes)\n", file);
}

void mt_probe_print(const struct mt_machine *m, FILE *file)
{
	fprintf(file, "%.30s: %d %s on %d %s, %s, fingerprint %s\n", m->name, m->world, m->world == 1 ? "rank" : "ranks",
		m->host_count, m->host_count == 1 ? "host" : "hosts", mt_provenance_name(m->provenance),
		m->fingerprint[0] ? m->fingerprint : "none");
	if (m->libraries[0])
		fprintf(file, "%.80s\n", m->libraries);
	fputc('\n', file);
	print_hosts(m, file);
	print_memory(m, file);
	print_gpus(m, file);
	print_copies(m, file);
	print_rates(m, file);
	print_classes(m, file);
	print_curves(m, file);
}
