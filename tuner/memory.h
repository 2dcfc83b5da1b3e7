/* memory: what a stage takes of which memory, and what a rank may have of it.
 *
 * On a host device the arenas are the process' own memory. On a GPU they are its memory, with the scratch of its streams beside
 * them (kernels/scratch.h), and what the process has is the rest: program and libraries, pinned memory, what is offloaded. */
#ifndef MT_TUNER_MEMORY_H
#define MT_TUNER_MEMORY_H

#include "probes/machine.h"
#include "tuner/candidate.h"

/* True when the machine's rates are of GPUs, whose memory is not the host's. */
bool mt_machine_has_device_memory(const struct mt_machine *machine);
/* The architecture of its GPUs, the oldest that is known: 90; 0: it has no device memory. */
int mt_machine_gpu_arch(const struct mt_machine *machine);
/* What one rank may use of a GPU: its share where that is least, less a sixteenth and 512 MiB for the context and the buffers of
 * communicators; 0: not known, or no device memory. */
int64_t mt_machine_device_bytes(const struct mt_machine *machine);
/* peak_bytes, device_bytes and resident_bytes from the other fields. */
void mt_stage_sum(struct mt_stage_prediction *stage, const struct mt_machine *machine);
/* What a process of so many resident bytes holds beyond what mt_stage_sum adds to it: the engine's arenas where their memory is
 * the host's, and the device's pinned memory. */
int64_t mt_process_beyond(size_t resident_bytes, const struct mt_arena_stats arenas[MT_ENGINE_ARENAS], size_t pinned_bytes);

#endif
