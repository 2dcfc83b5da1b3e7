/* memory: see memory.h. */
#include "tuner/memory.h"

#include <string.h>

#define LEAST_ARCH 80

/* Steps in which arenas take memory, huge pages on the host. */
static int64_t whole_steps(int64_t bytes)
{
	const int64_t step = (int64_t)MT_ARENA_COMMIT_BYTES;

	return (bytes + step - 1) / step * step;
}

bool mt_machine_has_device_memory(const struct mt_machine *machine)
{
	return strcmp(machine->device, "cuda") == 0;
}

int mt_machine_gpu_arch(const struct mt_machine *machine)
{
	int arch = 0;

	if (!mt_machine_has_device_memory(machine))
		return 0;
	for (int i = 0; i < machine->gpu_count; i++)
		if (machine->gpus[i].arch > 0 && (arch == 0 || machine->gpus[i].arch < arch))
			arch = machine->gpus[i].arch;
	return arch ? arch : LEAST_ARCH;
}

int64_t mt_machine_device_bytes(const struct mt_machine *machine)
{
	int64_t least = 0, usable;

	if (!mt_machine_has_device_memory(machine))
		return 0;
	for (int h = 0; h < machine->host_count; h++) {
		int64_t smallest = 0;
		int gpus = 0, sharing;

		for (int i = 0; i < machine->gpu_count; i++) {
			const struct mt_machine_gpu *gpu = &machine->gpus[i];

			if (gpu->host != h)
				continue;
			gpus++;
			if (gpu->memory_bytes > 0 && (smallest == 0 || gpu->memory_bytes < smallest))
				smallest = gpu->memory_bytes;
		}
		if (smallest == 0)
			continue;
		sharing = (machine->hosts[h].ranks + gpus - 1) / gpus;
		smallest /= sharing > 0 ? sharing : 1;
		least = least == 0 || smallest < least ? smallest : least;
	}
	usable = least - least / 16 - (512ll << 20);
	return usable > least / 2 ? usable : least / 2;
}

void mt_stage_sum(struct mt_stage_prediction *stage, const struct mt_machine *machine)
{
	int64_t taken = 0;

	stage->peak_bytes = 0;
	for (int i = 0; i < MT_ENGINE_ARENAS; i++) {
		stage->peak_bytes += stage->arena_bytes[i];
		taken += whole_steps(stage->arena_bytes[i]);
	}
	stage->resident_bytes = machine->process_bytes + whole_steps(stage->host_bytes);
	stage->device_bytes = 0;
	if (mt_machine_has_device_memory(machine)) {
		stage->device_bytes = taken + stage->scratch_bytes;
		stage->resident_bytes += stage->pinned_bytes;
	} else {
		stage->resident_bytes += taken;
	}
}

int64_t mt_process_beyond(size_t resident_bytes, const struct mt_arena_stats arenas[MT_ENGINE_ARENAS], size_t pinned_bytes)
{
	int64_t beyond = (int64_t)resident_bytes - (int64_t)pinned_bytes;

	for (int i = 0; i < MT_ENGINE_ARENAS; i++)
		beyond -= arenas[i].resident ? whole_steps((int64_t)arenas[i].peak_bytes) : 0;
	return beyond;
}
