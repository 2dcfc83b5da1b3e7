/* A stand-in for libnvidia-ml.so.1: two GPUs on a PCIe switch each, joined by 4 NVLinks, whose state a test sets through
 * nvml_double_set. Built as build/tests/nvml/libnvidia-ml.so.1. It is written from the driver's documented interface, apart
 * from base/nvml.c, so that a slip in one does not hide in the other. */
#include <string.h>

typedef struct {
	char busIdLegacy[16];
	unsigned int domain, bus, device, pciDeviceId, pciSubSystemId;
	char busId[32];
} nvmlPciInfo_t;
typedef struct {
	unsigned long long total, free, used;
} nvmlMemory_t;
typedef struct {
	unsigned int gpu, memory;
} nvmlUtilization_t;
typedef int *nvmlDevice_t;

enum { OK = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, DRIVER_NOT_LOADED = 9 };

/* How often each was asked; what the next answers are. */
static struct {
	int refuse_init, opened;
	unsigned power_mw, clock_mhz, temperature;
	unsigned long long energy_mj, throttle, corrected, uncorrected;
	unsigned power_step_mw;
	int no_energy;
} set = {.power_mw = 400000, .clock_mhz = 1755, .temperature = 54};
static int devices[2] = {0, 1};

void nvml_double_set(const char *what, unsigned long long value);
void nvml_double_set(const char *what, unsigned long long value)
{
	if (!strcmp(what, "refuse_init"))
		set.refuse_init = (int)value;
	else if (!strcmp(what, "power_mw"))
		set.power_mw = (unsigned)value;
	else if (!strcmp(what, "power_step_mw"))
		set.power_step_mw = (unsigned)value;
	else if (!strcmp(what, "clock_mhz"))
		set.clock_mhz = (unsigned)value;
	else if (!strcmp(what, "energy_mj"))
		set.energy_mj = value;
	else if (!strcmp(what, "throttle"))
		set.throttle = value;
	else if (!strcmp(what, "uncorrected"))
		set.uncorrected = value;
	else if (!strcmp(what, "no_energy"))
		set.no_energy = (int)value;
}

int nvml_double_opened(void);
int nvml_double_opened(void)
{
	return set.opened;
}

#define EXPORT __attribute__((visibility("default")))
#pragma GCC diagnostic ignored "-Wmissing-prototypes"

EXPORT int nvmlInit_v2(void)
{
	if (set.refuse_init)
		return DRIVER_NOT_LOADED;
	set.opened++;
	return OK;
}

EXPORT int nvmlShutdown(void)
{
	set.opened--;
	return OK;
}

EXPORT const char *nvmlErrorString(int result)
{
	return result == DRIVER_NOT_LOADED ? "Driver Not Loaded" : "Unknown Error";
}

EXPORT int nvmlSystemGetDriverVersion(char *text, unsigned length)
{
	strncpy(text, "580.65.06", length);
	return OK;
}

EXPORT int nvmlDeviceGetCount_v2(unsigned *count)
{
	*count = 2;
	return OK;
}

EXPORT int nvmlDeviceGetHandleByIndex_v2(unsigned index, nvmlDevice_t *device)
{
	if (index > 1)
		return INVALID_ARGUMENT;
	*device = &devices[index];
	return OK;
}

EXPORT int nvmlDeviceGetName(nvmlDevice_t device, char *text, unsigned length)
{
	strncpy(text, "NVIDIA Test 80GB", length);
	return OK;
}

EXPORT int nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, nvmlPciInfo_t *pci)
{
	memset(pci, 0, sizeof *pci);
	pci->bus = *device == 0 ? 0x1b : 0xcb;
	strcpy(pci->busId, *device == 0 ? "00000000:1B:00.0" : "00000000:CB:00.0");
	return OK;
}

EXPORT int nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory)
{
	*memory = (nvmlMemory_t){85520809984ull, 85520809984ull, 0};
	return OK;
}

EXPORT int nvmlDeviceGetCudaComputeCapability(nvmlDevice_t device, int *major, int *minor)
{
	*major = 9;
	*minor = 0;
	return OK;
}

#define NUMBER(function, value)                                                                                                    \
	EXPORT int function(nvmlDevice_t device, unsigned *number)                                                                 \
	{                                                                                                                          \
		*number = value;                                                                                                   \
		return OK;                                                                                                         \
	}
NUMBER(nvmlDeviceGetMaxPcieLinkGeneration, 5)
NUMBER(nvmlDeviceGetMaxPcieLinkWidth, 16)
NUMBER(nvmlDeviceGetCurrPcieLinkGeneration, 5)
NUMBER(nvmlDeviceGetCurrPcieLinkWidth, *device == 0 ? 16 : 8)
NUMBER(nvmlDeviceGetEnforcedPowerLimit, 700000)

EXPORT int nvmlDeviceGetPowerUsage(nvmlDevice_t device, unsigned *milliwatts)
{
	*milliwatts = set.power_mw;
	if (*device == 1)
		set.power_mw += set.power_step_mw;
	return OK;
}

EXPORT int nvmlDeviceGetTotalEnergyConsumption(nvmlDevice_t device, unsigned long long *millijoules)
{
	*millijoules = set.energy_mj;
	return set.no_energy ? NOT_SUPPORTED : OK;
}

EXPORT int nvmlDeviceGetClockInfo(nvmlDevice_t device, int type, unsigned *mhz)
{
	*mhz = type == 1 ? set.clock_mhz : 2619;
	return OK;
}

EXPORT int nvmlDeviceGetMaxClockInfo(nvmlDevice_t device, int type, unsigned *mhz)
{
	*mhz = type == 1 ? 1980 : 2619;
	return OK;
}

EXPORT int nvmlDeviceGetTemperature(nvmlDevice_t device, int sensor, unsigned *celsius)
{
	*celsius = set.temperature + (unsigned)*device;
	return OK;
}

/* The name before driver 535 only: the other is asked for first. */
EXPORT int nvmlDeviceGetCurrentClocksThrottleReasons(nvmlDevice_t device, unsigned long long *reasons)
{
	*reasons = set.throttle;
	return OK;
}

EXPORT int nvmlDeviceGetEccMode(nvmlDevice_t device, int *now, int *pending)
{
	*now = *pending = 1;
	return OK;
}

EXPORT int nvmlDeviceGetTotalEccErrors(nvmlDevice_t device, int type, int counter, unsigned long long *count)
{
	*count = type == 0 ? set.corrected : set.uncorrected;
	return counter == 0 ? OK : NOT_SUPPORTED;
}

EXPORT int nvmlDeviceGetNvLinkState(nvmlDevice_t device, unsigned link, int *active)
{
	if (link >= 18)
		return INVALID_ARGUMENT;
	*active = link < 4;
	return OK;
}

EXPORT int nvmlDeviceGetNvLinkVersion(nvmlDevice_t device, unsigned link, unsigned *version)
{
	*version = 7;
	return link < 4 ? OK : NOT_SUPPORTED;
}

EXPORT int nvmlDeviceGetNvLinkRemotePciInfo_v2(nvmlDevice_t device, unsigned link, nvmlPciInfo_t *pci)
{
	return nvmlDeviceGetPciInfo_v3(&devices[1 - *device], pci);
}
