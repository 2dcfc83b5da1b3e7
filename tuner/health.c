/* health: see health.h. */
#include "tuner/health.h"

#include "base/log.h"

#include <string.h>

#define INTERVAL_S 0.2

struct mt_nvml_watch *mt_health_start(const struct mt_device *device)
{
	struct mt_nvml_watch *watch = NULL;

	if (strcmp(device->info.kind, "cuda") != 0)
		return NULL;
	if (mt_nvml_watch_start(&watch, NULL, INTERVAL_S) != MT_OK) {
		mt_warn("power and clocks of the GPUs are not read: %s", mt_error_message());
		mt_error_clear();
	}
	return watch;
}

void mt_health_print(const struct mt_nvml_watched *list, int count, FILE *file)
{
	for (int i = 0; i < count; i++) {
		const struct mt_nvml_watched *gpu = &list[i];
		char reasons[160];

		if (gpu->samples == 0) {
			fprintf(file, "GPU %s  gave no readings\n", gpu->bus_id);
			continue;
		}
		mt_nvml_throttle_text(gpu->throttle, reasons, sizeof reasons);
		fprintf(file, "GPU %s ", gpu->bus_id);
		if (gpu->mean_power_w >= 0)
			fprintf(file, " %.0f W (most %.0f)", gpu->mean_power_w, gpu->most_power_w);
		if (gpu->energy_j >= 0)
			fprintf(file, "  %.1f kJ", gpu->energy_j * 1e-3);
		if (gpu->mean_sm_clock_mhz >= 0)
			fprintf(file, "  %d MHz (%d to %d)", gpu->mean_sm_clock_mhz, gpu->least_sm_clock_mhz,
				gpu->most_sm_clock_mhz);
		if (gpu->most_temperature_c >= 0)
			fprintf(file, "  %d C", gpu->most_temperature_c);
		fprintf(file, "  held back: %s", reasons);
		if (gpu->throttled_frac > 0)
			fprintf(file, " (%.0f%% of the time)", 100 * gpu->throttled_frac);
		if (gpu->ecc_corrected > 0 || gpu->ecc_uncorrected > 0)
			fprintf(file, "  new memory errors: %lld corrected, %lld not", (long long)gpu->ecc_corrected,
				(long long)gpu->ecc_uncorrected);
		fputc('\n', file);
	}
}

static json_t *known(double value)
{
	return value < 0 ? json_null() : json_real(value);
}

static json_t *known_count(int64_t value)
{
	return value < 0 ? json_null() : json_integer(value);
}

json_t *mt_health_json(const struct mt_nvml_watched *list, int count)
{
	json_t *gpus = json_array();

	for (int i = 0; i < count; i++) {
		const struct mt_nvml_watched *g = &list[i];
		char reasons[160];

		mt_nvml_throttle_text(g->throttle, reasons, sizeof reasons);
		json_array_append_new(
			gpus, json_pack("{s:s, s:s, s:i, s:f, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:s, s:f, s:o, s:o}", "name",
					g->name, "bus_id", g->bus_id, "samples", g->samples, "seconds", g->seconds, "power_w",
					known(g->mean_power_w), "most_power_w", known(g->most_power_w), "energy_j",
					known(g->energy_j), "temperature_c", known_count(g->most_temperature_c), "sm_clock_mhz",
					known_count(g->mean_sm_clock_mhz), "least_sm_clock_mhz", known_count(g->least_sm_clock_mhz),
					"most_sm_clock_mhz", known_count(g->most_sm_clock_mhz), "held_back_by", reasons,
					"held_back_frac", g->throttled_frac, "ecc_corrected", known_count(g->ecc_corrected),
					"ecc_uncorrected", known_count(g->ecc_uncorrected)));
	}
	return gpus;
}
