/* doctor: a list of checks, each a function that fills one row, and the two forms of the report. */
#include "probes/doctor.h"

#include "base/plugin.h"
#include "base/process.h"
#include "base/units.h"
#include "kernels/device.h"
#include "probes/links.h"
#include "probes/parts.h"

#include <inttypes.h>
#include <linux/capability.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statvfs.h>

#ifdef MT_HAVE_HWLOC
#include <hwloc.h>
#endif

enum state { OK, ABSENT, WARN };

struct row {
	const char *item;
	enum state state;
	char value[256];
	const char *leaves_out, *what_to_do; /* static; NULL when ok */
};

static void say(struct row *row, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void say(struct row *row, const char *format, ...)
{
	va_list arguments;
	va_start(arguments, format);
	vsnprintf(row->value, sizeof row->value, format, arguments);
	va_end(arguments);
	for (char *c = row->value; *c; c++) /* names come from outside; JSON takes UTF-8 only */
		if ((unsigned char)*c < 0x20 || (unsigned char)*c > 0x7e)
			*c = '?';
}

static void blame(struct row *row, enum state state, const char *leaves_out, const char *what_to_do)
{
	row->state = state;
	row->leaves_out = leaves_out;
	row->what_to_do = what_to_do;
}

static void check_cpu(struct row *row, const struct mt_machine_host *host)
{
	say(row, "%s; sockets %d, NUMA nodes %d, cores %d, threads a core %d", host->cpu, host->sockets, host->numa_nodes,
	    host->cores, host->threads_per_core);
}

static void check_isa(struct row *row, const struct mt_machine_host *host)
{
	say(row, "%s, kernel %s", host->isa, host->kernel);
	if (strncmp(host->isa, "sse2", 4) == 0 || strncmp(host->isa, "baseline", 8) == 0)
		blame(row, WARN, "vector kernels: the baseline code path runs, several times slower",
		      "use a processor with AVX2 or better");
}

static void check_bf16(struct row *row, const struct mt_machine_host *host)
{
	struct mt_device *device = NULL;
	struct mt_device_config config = {.kind = "cpu", .threads = 1};
	bool native = strstr(host->isa, "bf16") != NULL;
	if (mt_device_create(&device, &config) == MT_OK)
		native = device->info.bf16_native;
	else
		mt_error_clear();
	say(row, native ? "native%s" : "not native%s", strstr(host->isa, "amx") ? ", with matrix tiles (AMX)" : "");
	if (!native)
		blame(row, ABSENT, "fast bf16 products: bf16 saves memory only", "train in f32 where memory allows");
	if (device && device->info.libraries[0]) {
		size_t at = strlen(row->value);
		snprintf(row->value + at, sizeof row->value - at, ", %.80s", device->info.libraries);
	}
	mt_device_destroy(device);
}

static void check_memory(struct row *row, const struct mt_machine_host *host)
{
	char total[MT_UNITS_TEXT], available[MT_UNITS_TEXT];
	say(row, "%s, %s available", mt_units_bytes(total, (double)host->memory_bytes),
	    mt_units_bytes(available, (double)host->available_bytes));
	if (host->available_bytes < 2ll << 30)
		blame(row, WARN, "all but tiny models", "end other programs, or raise the memory limit of the control group");
}

static void check_swap(struct row *row, const struct mt_machine_host *host)
{
	char line[256] = "";
	FILE *file = fopen("/proc/swaps", "re");
	int areas = -1;
	while (file && fgets(line, sizeof line, file))
		areas++;
	if (file)
		fclose(file);
	say(row, areas > 0 ? "%d areas in use" : "none", areas);
	if (areas > 0)
		blame(row, WARN, "steady step times, if memory runs short", "swapoff -a while training");
}

static void check_governor(struct row *row, const struct mt_machine_host *host)
{
	char governor[64];
	if (!mt_probe_read_line("", "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", governor, sizeof governor)) {
		say(row, "not controlled here (virtual machine or firmware)");
		return;
	}
	say(row, "%s", governor);
	if (strcmp(governor, "performance") != 0)
		blame(row, WARN, "steady clocks: measurements spread more", "cpupower frequency-set -g performance");
}

static void say_limit(struct row *row, rlim_t limit, bool bytes)
{
	char text[MT_UNITS_TEXT];
	if (limit == RLIM_INFINITY)
		say(row, "unlimited");
	else if (bytes)
		say(row, "%s", mt_units_bytes(text, (double)limit));
	else
		say(row, "%llu", (unsigned long long)limit);
}

static void check_memlock(struct row *row, const struct mt_machine_host *host)
{
	struct rlimit limit = {0};
	getrlimit(RLIMIT_MEMLOCK, &limit);
	say_limit(row, limit.rlim_cur, true);
	if (limit.rlim_cur != RLIM_INFINITY && limit.rlim_cur < 1u << 30)
		blame(row, WARN, "InfiniBand and other networks that pin memory", "ulimit -l unlimited, or memlock in limits.conf");
}

static void check_nofile(struct row *row, const struct mt_machine_host *host)
{
	struct rlimit limit = {0};
	getrlimit(RLIMIT_NOFILE, &limit);
	say_limit(row, limit.rlim_cur, false);
	if (limit.rlim_cur != RLIM_INFINITY && limit.rlim_cur < 1024)
		blame(row, WARN, "many ranks on one host", "ulimit -n 4096");
}

static void check_shm(struct row *row, const struct mt_machine_host *host)
{
	struct statvfs shm;
	char free_text[MT_UNITS_TEXT], size_text[MT_UNITS_TEXT];
	if (statvfs("/dev/shm", &shm) != 0) {
		say(row, "not there");
		blame(row, ABSENT, "fast messages between ranks of one host", "mount -t tmpfs tmpfs /dev/shm");
		return;
	}
	double free_bytes = (double)shm.f_bavail * (double)shm.f_frsize;
	say(row, "%s, %s free", mt_units_bytes(size_text, (double)shm.f_blocks * (double)shm.f_frsize),
	    mt_units_bytes(free_text, free_bytes));
	if (free_bytes < 256e6)
		blame(row, WARN, "more than a few ranks a host", "in a container: --shm-size=1g");
}

/* First line that `program --version` prints; false when it is not on PATH. */
static bool ask_version(const char *program, const char *option, char *text, size_t size)
{
	char *path = mt_process_find(program);
	const char *argv[] = {path, option, NULL};
	struct mt_process_result result = {0};
	if (!path)
		return false;
	snprintf(text, size, "%s", path);
	if (mt_process_run(&result, argv, NULL, 5) == MT_OK && result.output && result.output[0])
		snprintf(text, size, "%.*s (%s)", (int)strcspn(result.output, "\n"), result.output, path);
	mt_error_clear();
	mt_process_result_free(&result);
	free(path);
	return true;
}

static void check_mpirun(struct row *row, const struct mt_machine_host *host)
{
	char version[160];
#ifdef MT_HAVE_MPI
	const bool built = true;
#else
	const bool built = false;
#endif
	if (!ask_version("mpirun", "--version", version, sizeof version)) {
		say(row, "not on PATH%s", built ? "" : "; built without MPI");
		blame(row, ABSENT, "runs over more than one rank", "apt-get install openmpi-bin libopenmpi-dev, then make");
		return;
	}
	say(row, "%s%s", version, built ? "" : "; built without MPI");
	if (!built)
		blame(row, ABSENT, "runs over more than one rank", "apt-get install libopenmpi-dev, then make");
}

static void check_hwloc(struct row *row, const struct mt_machine_host *host)
{
#ifdef MT_HAVE_HWLOC
	unsigned version = hwloc_get_api_version();
	say(row, "API %u.%u", version >> 16, version >> 8 & 0xff);
#else
	say(row, "built without it");
	blame(row, ABSENT, "shapes beyond /sys; simulated topologies", "apt-get install libhwloc-dev, then make");
#endif
}

static void check_gnuplot(struct row *row, const struct mt_machine_host *host)
{
	char version[160];
	if (ask_version("gnuplot", "--version", version, sizeof version)) {
		say(row, "%s", version);
		return;
	}
	say(row, "not on PATH");
	blame(row, ABSENT, "figures: reports have tables in their place", "apt-get install gnuplot-nox");
}

static void check_gpu(struct row *row, const struct mt_machine_host *host)
{
	char driver[128];
	bool loaded = mt_probe_read_line("", "/proc/driver/nvidia/version", driver, sizeof driver);
	if (host->gpus == 0) {
		say(row, "none found");
		blame(row, ABSENT, "measurements of GPUs; plans for GPU machines work from machine files",
		      "none needed for CPU training");
		return;
	}
	say(row, "%d NVIDIA GPUs, %s", host->gpus, loaded ? driver : "no driver loaded");
	blame(row, loaded ? WARN : ABSENT, "training on them: this program has a CPU backend only",
	      loaded ? "plan for them with a machine file" : "install the NVIDIA driver");
}

/* A link narrower than both ends can do is a card badly seated or a slot shared; the speed alone drops when a GPU idles. */
static void check_links(struct row *row, const struct mt_machine_host *host)
{
	struct mt_links *links = malloc(sizeof *links);
	int narrow = 0;
	if (!links || host->gpus == 0) {
		say(row, "no GPU to look at");
		free(links);
		return;
	}
	mt_links_of_host(links);
	for (int i = 0; i < links->gpu_count; i++)
		narrow += links->gpus[i].pcie_width_now > 0 && links->gpus[i].pcie_width_now < links->gpus[i].pcie_width;
	if (links->gpu_count > 0) {
		const struct mt_machine_gpu *g = &links->gpus[0];
		say(row, "PCIe generation %d x%d, %d NVLinks (%.0f GB/s), nearest NIC %s %s; to each GPU of the host: %s",
		    g->pcie_generation, g->pcie_width, g->nvlinks, g->nvlink_gbps, g->nic[0] ? g->nic : "none", g->nic_path,
		    g->peers);
	} else {
		say(row, "%d GPUs, whose links neither /sys nor the driver shows", host->gpus);
	}
	if (narrow > 0) {
		say(row, "%d of %d GPUs use fewer PCIe lanes than they could", narrow, links->gpu_count);
		blame(row, WARN, "the full rate between host and GPU", "reseat the cards; see gpus: in machine.yaml for which");
	}
	free(links);
}

/* What the CUDA plugins find. Only the plugins touch CUDA. */
static void check_cuda(struct row *row, const struct mt_machine_host *host)
{
	static const char *const libraries[] = {"cudnn", "nccl", "cupti"};
	char memory[MT_UNITS_TEXT];
	struct mt_device_info gpus[1];
	int count;
	if (mt_device_plugin_list("cuda", gpus, 1, &count) != MT_OK) {
		const char *why = mt_error_message();
		say(row, "%s", strncmp(why, "CUDA: ", 6) ? why : why + 6);
		blame(row, ABSENT, "training and measuring on NVIDIA GPUs", "what the line says; none on a machine without them");
		mt_error_clear();
		return;
	}
	say(row, "%d x %.40s (%.8s), %s; %.50s", count, gpus[0].name, gpus[0].isa,
	    mt_units_bytes(memory, (double)gpus[0].memory_bytes), gpus[0].libraries);
	for (size_t i = 0; i < sizeof libraries / sizeof libraries[0]; i++) {
		bool there = mt_plugin_load(libraries[i]) == MT_OK;
		size_t at = strlen(row->value);
		mt_error_clear();
		snprintf(row->value + at, sizeof row->value - at, "%s%s", there ? ", " : ", no ", libraries[i]);
	}
}

static void check_network(struct row *row, const struct mt_machine_host *host)
{
	say(row, "%s", host->nic_text[0] ? host->nic_text : "no interface but loopback");
	if (host->nics == 0)
		blame(row, WARN, "runs over more than one host", "bring an interface up");
}

static void check_slurm(struct row *row, const struct mt_machine_host *host)
{
	char version[160];
	const char *job = getenv("SLURM_JOB_ID");
	if (ask_version("srun", "--version", version, sizeof version)) {
		say(row, "%s%s%.32s", version, job ? ", in job " : "", job ? job : "");
		return;
	}
	say(row, "srun not on PATH");
	blame(row, ABSENT, "starting jobs through Slurm; sbatch files are still written", "none needed on one host or with mpirun");
}

/* Whether this process could make network and UTS namespaces: CAP_SYS_ADMIN in its effective set, and the kernel allows some. */
static void check_namespaces(struct row *row, const struct mt_machine_host *host)
{
	char line[256];
	uint64_t effective = 0;
	FILE *file = fopen("/proc/self/status", "re");
	while (file && fgets(line, sizeof line, file))
		if (sscanf(line, "CapEff: %" SCNx64, &effective) == 1)
			break;
	if (file)
		fclose(file);
	bool admin = effective >> CAP_SYS_ADMIN & 1, net = effective >> CAP_NET_ADMIN & 1;
	bool room = mt_probe_read_int("", "/proc/sys/user/max_net_namespaces", 0) > 0;
	say(row, "%s, %s%s", admin ? "CAP_SYS_ADMIN held" : "CAP_SYS_ADMIN not held",
	    net ? "CAP_NET_ADMIN held" : "CAP_NET_ADMIN not held", room ? "" : ", the kernel permits none");
	if (!admin || !net || !room)
		blame(row, ABSENT, "simulated clusters in tests: they are skipped", "run the tests as root");
}

static const struct check {
	const char *item;
	void (*run)(struct row *row, const struct mt_machine_host *host);
} checks[] = {
	{"processor", check_cpu},
	{"instruction set", check_isa},
	{"bf16", check_bf16},
	{"memory", check_memory},
	{"swap", check_swap},
	{"cpu governor", check_governor},
	{"locked memory", check_memlock},
	{"open files", check_nofile},
	{"/dev/shm", check_shm},
	{"mpirun", check_mpirun},
	{"hwloc", check_hwloc},
	{"gnuplot", check_gnuplot},
	{"GPU", check_gpu},
	{"GPU links", check_links},
	{"CUDA", check_cuda},
	{"network", check_network},
	{"Slurm", check_slurm},
	{"namespaces", check_namespaces},
};
enum { CHECKS = sizeof checks / sizeof *checks };

static const char *state_name(enum state state)
{
	static const char *const names[] = {"ok", "absent", "warn"};
	return names[state];
}

/* Words wrapped to 80 columns, the lines after the first indented by 24. `first`: columns already on the line. */
static void print_wrapped(FILE *file, const char *text)
{
	const int indent = 24, most = 80;
	int column = indent;
	while (*text) {
		int word = (int)strcspn(text, " ");
		if (column > indent && column + 1 + word > most) {
			fprintf(file, "\n%*s", indent, "");
			column = indent;
		} else if (column > indent) {
			fputc(' ', file);
			column++;
		}
		int shown = word > most - indent ? most - indent : word; /* a word longer than the line is cut */
		fprintf(file, "%.*s", shown, text);
		column += shown;
		text += word;
		text += strspn(text, " ");
	}
	fputc('\n', file);
}

static void print_row(FILE *file, const struct row *row)
{
	fprintf(file, "%-7s %-15s ", state_name(row->state), row->item);
	print_wrapped(file, row->value);
	if (!row->leaves_out)
		return;
	fprintf(file, "%-24s", "            leaves out");
	print_wrapped(file, row->leaves_out);
	fprintf(file, "%-24s", "            do");
	print_wrapped(file, row->what_to_do);
}

static json_t *row_json(const struct row *row)
{
	return json_pack("{s:s, s:s, s:s, s:s?, s:s?}", "item", row->item, "state", state_name(row->state), "value", row->value,
			 "leaves_out", row->leaves_out, "do", row->what_to_do);
}

enum mt_status mt_doctor_report(FILE *file, json_t **json)
{
	struct mt_machine_host host;
	int counts[3] = {0};
	json_t *rows = json ? json_array() : NULL;
	enum mt_status st = mt_probe_host(&host);
	if (st != MT_OK)
		goto out;
	for (int i = 0; i < CHECKS; i++) {
		struct row row = {.item = checks[i].item};
		checks[i].run(&row, &host);
		counts[row.state]++;
		if (file)
			print_row(file, &row);
		if (rows)
			json_array_append_new(rows, row_json(&row));
	}
	if (file)
		fprintf(file, "%d ok, %d absent, %d to look at\n", counts[OK], counts[ABSENT], counts[WARN]);
	if (json) {
		*json = json_pack("{s:s, s:O, s:i, s:i, s:i}", "host", host.name, "rows", rows, "ok", counts[OK], "absent",
				  counts[ABSENT], "warn", counts[WARN]);
		if (!*json)
			st = mt_fail(MT_NOMEM, "doctor: no memory for the report, or a value that is no UTF-8");
	}
out:
	json_decref(rows);
	return st;
}
