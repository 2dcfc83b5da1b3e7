/* place: this process' rank in a job that was started without MPI, as its launcher says in the environment:
 *
 *   megatune launch   RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT, and MEGATUNE_TOKEN
 *   torchrun          the same without the token
 *   srun              SLURM_PROCID, SLURM_STEP_NUM_TASKS, SLURM_LOCALID, the step's list of hosts; MASTER_ADDR and MASTER_PORT, if
 * set, say more
 *
 * Rank 0 serves the job's board (board.h) at that address and port; MEGATUNE_PORT names another port. */
#ifndef MT_COMM_PLACE_H
#define MT_COMM_PLACE_H

#include "base/status.h"

#include <stdbool.h>
#include <stdint.h>

/* Where a port is chosen for a job, it is one of these: below those that Linux gives to connections (32768 on, ip(7)), any of which
 * keeps its port from being served, with its end for a minute longer. */
#define MT_PLACE_PORT_FIRST 20000
#define MT_PLACE_PORTS      12000

struct mt_place {
	int rank, size;
	int local_rank, local_size; /* -1: not said */
	char address[256];          /* host of rank 0 */
	int port;
	uint64_t token;
	bool watched; /* by megatune launch, which tells of a rank that dies without a word */
};

/* *found false: nothing says that there are several ranks. MT_INPUT when what is said makes no sense. */
enum mt_status mt_place_find(struct mt_place *place, bool *found);
/* One that nobody on this host serves now; until rank 0 takes it, somebody could. MT_FAILED when there is none. */
enum mt_status mt_place_free_port(int *port);
/* The first host of a list as Slurm writes it: "gpu[03-07,11],login" is gpu03. */
enum mt_status mt_place_first_host(const char *list, char *host, size_t bytes);

#endif
