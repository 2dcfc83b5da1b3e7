/* nvml: what the NVIDIA driver says of its GPUs: power, clocks, temperature, what holds the clocks back, memory errors, energy,
 * and the links. Through libnvidia-ml.so.1, which comes with the driver, loaded at run time: no header and no library of it is
 * needed to build. Only functions of its stable interface are used; one that a driver lacks leaves its value unknown. */
#ifndef MT_BASE_NVML_H
#define MT_BASE_NVML_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct mt_nvml; /* the library, opened */

/* MT_UNAVAILABLE: no driver, or it does not answer. */
enum mt_status mt_nvml_open(struct mt_nvml **nvml);
void mt_nvml_close(struct mt_nvml *nvml);
const char *mt_nvml_driver(const struct mt_nvml *nvml); /* its version, "" when it does not say */
int mt_nvml_count(const struct mt_nvml *nvml);

/* A number that is not known is -1, in all of the structs below. */
struct mt_nvml_facts {
	char name[64];
	char bus_id[24]; /* "0000:3b:00.0": as /sys writes it */
	int arch;        /* 90: compute capability 9.0 */
	int64_t memory_bytes;
	int pcie_generation, pcie_width; /* most that the GPU and its slot can do */
	int pcie_generation_now, pcie_width_now;
	int nvlinks, nvlink_version; /* active ones; the version is NVLink's own number */
	int sm_clock_most_mhz, memory_clock_most_mhz;
	double power_limit_w;
	int ecc; /* 1 on, 0 off */
};
enum mt_status mt_nvml_facts(const struct mt_nvml *nvml, int index, struct mt_nvml_facts *facts);

/* The bus ids at the far ends of the active NVLinks: another GPU's or a switch's. Returns how many, at most `most`. */
#define MT_NVML_LINKS 36
int mt_nvml_link_ends(const struct mt_nvml *nvml, int index, char (*bus_ids)[24], int most);

struct mt_nvml_state {
	double power_w, energy_j; /* energy: since the driver was loaded */
	int temperature_c, sm_clock_mhz, memory_clock_mhz;
	int64_t throttle;                       /* bits, see mt_nvml_throttle_text */
	int64_t ecc_corrected, ecc_uncorrected; /* since the driver was loaded */
	int utilization_percent;
};
enum mt_status mt_nvml_state(const struct mt_nvml *nvml, int index, struct mt_nvml_state *state);

/* "power cap, hardware thermal"; "none" when nothing holds the clocks back but having no work. */
void mt_nvml_throttle_text(int64_t throttle, char *text, size_t size);

/* A watch reads the state of GPUs every interval_s from a thread of its own until it is stopped. */
struct mt_nvml_watch;

struct mt_nvml_watched {
	char name[64], bus_id[24];
	int samples;
	double seconds;
	double mean_power_w, most_power_w;
	double energy_j; /* used meanwhile: by the counter, else mean power times the time */
	int most_temperature_c, least_sm_clock_mhz, mean_sm_clock_mhz, most_sm_clock_mhz;
	int64_t throttle;                       /* all reasons seen */
	double throttled_frac;                  /* of the samples with a reason other than having no work */
	int64_t ecc_corrected, ecc_uncorrected; /* new ones */
};

/* bus_id "" or NULL: all GPUs of the host. MT_UNAVAILABLE as mt_nvml_open; MT_INPUT when no GPU has this bus id. */
enum mt_status mt_nvml_watch_start(struct mt_nvml_watch **watch, const char *bus_id, double interval_s);
/* Ends the thread after a last reading; *list (free() it) has one entry a watched GPU. */
enum mt_status mt_nvml_watch_stop(struct mt_nvml_watch *watch, struct mt_nvml_watched **list, int *count);

#endif
