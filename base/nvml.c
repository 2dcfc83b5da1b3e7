/* nvml: the library's functions by name, and facts and states through them. The few types that cross the interface are
 * declared here as the driver's interface has had them since version 2 of its calls. */
#include "base/nvml.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct nvml_device *nvml_device;
struct pci_info {
	char bus_id_legacy[16];
	unsigned domain, bus, device, device_id, subsystem_id;
	char bus_id[32];
};
struct memory_info {
	unsigned long long total, free, used;
};
struct utilization {
	unsigned gpu, memory;
};
enum { CLOCK_SM = 1, CLOCK_MEMORY = 2, SENSOR_GPU = 0, ECC_CORRECTED = 0, ECC_UNCORRECTED = 1, ECC_VOLATILE = 0 };

struct mt_nvml {
	void *library;
	int count;
	char driver[80];
	int (*init)(void);
	int (*shutdown)(void);
	const char *(*error_string)(int);
	int (*driver_version)(char *, unsigned);
	int (*device_count)(unsigned *);
	int (*by_index)(unsigned, nvml_device *);
	int (*name)(nvml_device, char *, unsigned);
	int (*pci)(nvml_device, struct pci_info *);
	int (*memory)(nvml_device, struct memory_info *);
	int (*capability)(nvml_device, int *, int *);
	int (*pcie_generation)(nvml_device, unsigned *);
	int (*pcie_width)(nvml_device, unsigned *);
	int (*pcie_generation_now)(nvml_device, unsigned *);
	int (*pcie_width_now)(nvml_device, unsigned *);
	int (*link_state)(nvml_device, unsigned, int *);
	int (*link_version)(nvml_device, unsigned, unsigned *);
	int (*link_end)(nvml_device, unsigned, struct pci_info *);
	int (*clock)(nvml_device, int, unsigned *);
	int (*clock_most)(nvml_device, int, unsigned *);
	int (*power_limit)(nvml_device, unsigned *);
	int (*power)(nvml_device, unsigned *);
	int (*energy)(nvml_device, unsigned long long *);
	int (*temperature)(nvml_device, int, unsigned *);
	int (*throttle)(nvml_device, unsigned long long *);
	int (*ecc_mode)(nvml_device, int *, int *);
	int (*ecc_errors)(nvml_device, int, int, unsigned long long *);
	int (*utilization)(nvml_device, struct utilization *);
};

#define ENTRY(field, name, needed)                                                                                                 \
	{                                                                                                                          \
		offsetof(struct mt_nvml, field), name, needed                                                                      \
	}
static const struct {
	size_t field;
	const char *name;
	bool needed;
} entries[] = {
	ENTRY(init, "nvmlInit_v2", true),
	ENTRY(shutdown, "nvmlShutdown", true),
	ENTRY(error_string, "nvmlErrorString", true),
	ENTRY(driver_version, "nvmlSystemGetDriverVersion", false),
	ENTRY(device_count, "nvmlDeviceGetCount_v2", true),
	ENTRY(by_index, "nvmlDeviceGetHandleByIndex_v2", true),
	ENTRY(name, "nvmlDeviceGetName", false),
	ENTRY(pci, "nvmlDeviceGetPciInfo_v3", true),
	ENTRY(memory, "nvmlDeviceGetMemoryInfo", false),
	ENTRY(capability, "nvmlDeviceGetCudaComputeCapability", false),
	ENTRY(pcie_generation, "nvmlDeviceGetMaxPcieLinkGeneration", false),
	ENTRY(pcie_width, "nvmlDeviceGetMaxPcieLinkWidth", false),
	ENTRY(pcie_generation_now, "nvmlDeviceGetCurrPcieLinkGeneration", false),
	ENTRY(pcie_width_now, "nvmlDeviceGetCurrPcieLinkWidth", false),
	ENTRY(link_state, "nvmlDeviceGetNvLinkState", false),
	ENTRY(link_version, "nvmlDeviceGetNvLinkVersion", false),
	ENTRY(link_end, "nvmlDeviceGetNvLinkRemotePciInfo_v2", false),
	ENTRY(clock, "nvmlDeviceGetClockInfo", false),
	ENTRY(clock_most, "nvmlDeviceGetMaxClockInfo", false),
	ENTRY(power_limit, "nvmlDeviceGetEnforcedPowerLimit", false),
	ENTRY(power, "nvmlDeviceGetPowerUsage", false),
	ENTRY(energy, "nvmlDeviceGetTotalEnergyConsumption", false),
	ENTRY(temperature, "nvmlDeviceGetTemperature", false),
	ENTRY(throttle, "nvmlDeviceGetCurrentClocksEventReasons", false),
	ENTRY(throttle, "nvmlDeviceGetCurrentClocksThrottleReasons", false), /* its name before driver 535 */
	ENTRY(ecc_mode, "nvmlDeviceGetEccMode", false),
	ENTRY(ecc_errors, "nvmlDeviceGetTotalEccErrors", false),
	ENTRY(utilization, "nvmlDeviceGetUtilizationRates", false),
};

static enum mt_status find_entries(struct mt_nvml *nvml)
{
	for (size_t i = 0; i < sizeof entries / sizeof *entries; i++) {
		void *function = dlsym(nvml->library, entries[i].name), *known;
		memcpy(&known, (char *)nvml + entries[i].field, sizeof known);
		if (!known)
			memcpy((char *)nvml + entries[i].field, &function, sizeof function);
		if (!function && entries[i].needed)
			return mt_fail(MT_UNAVAILABLE, "libnvidia-ml.so.1 has no %s: the NVIDIA driver is too old",
				       entries[i].name);
	}
	return MT_OK;
}

enum mt_status mt_nvml_open(struct mt_nvml **nvml)
{
	struct mt_nvml *made = calloc(1, sizeof *made);
	unsigned count = 0;
	int result;
	enum mt_status st = MT_OK;

	*nvml = NULL;
	if (!made)
		return mt_fail(MT_NOMEM, "out of memory for the GPU's management library");
	made->library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
	if (!made->library) {
		st = mt_fail(MT_UNAVAILABLE, "no NVIDIA driver: %s", dlerror());
		goto out;
	}
	MT_GOTO(out, find_entries(made));
	if ((result = made->init()) != 0) {
		st = mt_fail(MT_UNAVAILABLE, "the NVIDIA driver does not answer: %s", made->error_string(result));
		goto out;
	}
	if ((result = made->device_count(&count)) != 0) {
		st = mt_fail(MT_UNAVAILABLE, "the NVIDIA driver lists no GPUs: %s", made->error_string(result));
		made->shutdown();
		goto out;
	}
	made->count = (int)count;
	if (!made->driver_version || made->driver_version(made->driver, sizeof made->driver) != 0)
		made->driver[0] = 0;
	*nvml = made;
out:
	if (st != MT_OK) {
		if (made->library)
			dlclose(made->library);
		free(made);
	}
	return st;
}

void mt_nvml_close(struct mt_nvml *nvml)
{
	if (!nvml)
		return;
	nvml->shutdown();
	dlclose(nvml->library);
	free(nvml);
}

const char *mt_nvml_driver(const struct mt_nvml *nvml)
{
	return nvml->driver;
}

int mt_nvml_count(const struct mt_nvml *nvml)
{
	return nvml->count;
}

static enum mt_status find_device(const struct mt_nvml *nvml, int index, nvml_device *device)
{
	int result = index < 0 ? -1 : nvml->by_index((unsigned)index, device);
	if (result != 0)
		return mt_fail(MT_UNAVAILABLE, "the NVIDIA driver gives no access to GPU %d: %s", index,
			       index < 0 ? "no such number" : nvml->error_string(result));
	return MT_OK;
}

/* What a function of (device, unsigned *) gives; -1 when it is not there or not supported. */
static int64_t ask(int (*function)(nvml_device, unsigned *), nvml_device device)
{
	unsigned value = 0;
	return function && function(device, &value) == 0 ? (int64_t)value : -1;
}

static int64_t ask_of(int (*function)(nvml_device, int, unsigned *), nvml_device device, int which)
{
	unsigned value = 0;
	return function && function(device, which, &value) == 0 ? (int64_t)value : -1;
}

static int64_t ask_long(int (*function)(nvml_device, unsigned long long *), nvml_device device)
{
	unsigned long long value = 0;
	return function && function(device, &value) == 0 ? (int64_t)value : -1;
}

static void write_bus_id(char text[24], const struct pci_info *pci)
{
	snprintf(text, 24, "%04x:%02x:%02x.0", pci->domain & 0xffff, pci->bus & 0xff, pci->device & 0x1f);
}

static bool link_active(const struct mt_nvml *nvml, nvml_device device, unsigned link)
{
	int active = 0;
	return nvml->link_state && nvml->link_state(device, link, &active) == 0 && active != 0;
}

static void count_links(const struct mt_nvml *nvml, nvml_device device, struct mt_nvml_facts *facts)
{
	unsigned version = 0;
	facts->nvlinks = 0;
	facts->nvlink_version = -1;
	for (unsigned link = 0; link < MT_NVML_LINKS; link++) {
		if (!link_active(nvml, device, link))
			continue;
		facts->nvlinks++;
		if (nvml->link_version && nvml->link_version(device, link, &version) == 0)
			facts->nvlink_version = (int)version;
	}
}

enum mt_status mt_nvml_facts(const struct mt_nvml *nvml, int index, struct mt_nvml_facts *facts)
{
	nvml_device device = NULL;
	struct pci_info pci = {0};
	struct memory_info memory = {0};
	int major = 0, minor = 0, mode = 0, pending = 0;

	memset(facts, 0, sizeof *facts);
	MT_TRY(find_device(nvml, index, &device));
	if (!nvml->name || nvml->name(device, facts->name, sizeof facts->name) != 0)
		snprintf(facts->name, sizeof facts->name, "unknown GPU");
	if (nvml->pci(device, &pci) == 0)
		write_bus_id(facts->bus_id, &pci);
	facts->arch = nvml->capability && nvml->capability(device, &major, &minor) == 0 ? 10 * major + minor : -1;
	facts->memory_bytes = nvml->memory && nvml->memory(device, &memory) == 0 ? (int64_t)memory.total : -1;
	facts->pcie_generation = (int)ask(nvml->pcie_generation, device);
	facts->pcie_width = (int)ask(nvml->pcie_width, device);
	facts->pcie_generation_now = (int)ask(nvml->pcie_generation_now, device);
	facts->pcie_width_now = (int)ask(nvml->pcie_width_now, device);
	count_links(nvml, device, facts);
	facts->sm_clock_most_mhz = (int)ask_of(nvml->clock_most, device, CLOCK_SM);
	facts->memory_clock_most_mhz = (int)ask_of(nvml->clock_most, device, CLOCK_MEMORY);
	int64_t limit_mw = ask(nvml->power_limit, device);
	facts->power_limit_w = limit_mw < 0 ? -1 : 1e-3 * (double)limit_mw;
	facts->ecc = nvml->ecc_mode && nvml->ecc_mode(device, &mode, &pending) == 0 ? mode : -1;
	return MT_OK;
}

int mt_nvml_link_ends(const struct mt_nvml *nvml, int index, char (*bus_ids)[24], int most)
{
	nvml_device device = NULL;
	int count = 0;

	if (nvml->by_index((unsigned)index, &device) != 0)
		return 0;
	for (unsigned link = 0; link < MT_NVML_LINKS && count < most; link++) {
		struct pci_info pci = {0};
		if (!link_active(nvml, device, link))
			continue;
		bus_ids[count][0] = 0;
		if (nvml->link_end && nvml->link_end(device, link, &pci) == 0)
			write_bus_id(bus_ids[count], &pci);
		count++;
	}
	return count;
}

enum mt_status mt_nvml_state(const struct mt_nvml *nvml, int index, struct mt_nvml_state *state)
{
	nvml_device device = NULL;
	struct utilization utilization = {0};
	unsigned long long errors = 0;
	int64_t value;

	memset(state, 0, sizeof *state);
	MT_TRY(find_device(nvml, index, &device));
	value = ask(nvml->power, device);
	state->power_w = value < 0 ? -1 : 1e-3 * (double)value;
	value = ask_long(nvml->energy, device);
	state->energy_j = value < 0 ? -1 : 1e-3 * (double)value;
	state->temperature_c = (int)ask_of(nvml->temperature, device, SENSOR_GPU);
	state->sm_clock_mhz = (int)ask_of(nvml->clock, device, CLOCK_SM);
	state->memory_clock_mhz = (int)ask_of(nvml->clock, device, CLOCK_MEMORY);
	state->throttle = ask_long(nvml->throttle, device);
	state->ecc_corrected = state->ecc_uncorrected = -1;
	if (nvml->ecc_errors && nvml->ecc_errors(device, ECC_CORRECTED, ECC_VOLATILE, &errors) == 0)
		state->ecc_corrected = (int64_t)errors;
	if (nvml->ecc_errors && nvml->ecc_errors(device, ECC_UNCORRECTED, ECC_VOLATILE, &errors) == 0)
		state->ecc_uncorrected = (int64_t)errors;
	state->utilization_percent = nvml->utilization && nvml->utilization(device, &utilization) == 0 ? (int)utilization.gpu : -1;
	return MT_OK;
}

void mt_nvml_throttle_text(int64_t throttle, char *text, size_t size)
{
	static const char *const names[] = {NULL,
					    "clocks set by hand",
					    "power cap",
					    "hardware slowdown",
					    "sync boost",
					    "software thermal",
					    "hardware thermal",
					    "power brake",
					    "display clocks"};
	text[0] = 0;
	if (throttle < 0) {
		snprintf(text, size, "unknown");
		return;
	}
	for (size_t i = 1; i < sizeof names / sizeof *names; i++) {
		size_t at = strlen(text);
		if (throttle >> i & 1)
			snprintf(text + at, size - at, "%s%s", at ? ", " : "", names[i]);
	}
	if (!text[0])
		snprintf(text, size, "none");
}
