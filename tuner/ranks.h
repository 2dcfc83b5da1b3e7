/* ranks: the processes that `megatune launch` started, on this host and through other hosts' own launchers, until all have ended.
 */
#ifndef MT_TUNER_RANKS_H
#define MT_TUNER_RANKS_H

#include "base/status.h"

#include <sys/types.h>

struct mt_rank_process {
	pid_t pid;
	char name[80]; /* "rank 3", "the launcher on host b" */
	bool launches; /* another launcher, which tells of its ranks itself */
	int leash;     /* its stdin, a pipe of ours that says what signals say elsewhere; -1: none */
	bool ended;
	int signal, exit_code;
};

/* Waits for all of them. Signals of ours are passed on; when one ends with a failure the others are ended: SIGTERM, SIGKILL 5 s
 * later. `leash`: a pipe of our own launcher, -1: none; when it closes, all are ended.
 * The status is that of the first that failed; its message is recorded only where it cannot have told one itself. */
enum mt_status mt_ranks_wait(struct mt_rank_process *list, int count, int leash);
/* Ends all that were started, after a failure to start more. */
void mt_ranks_end(struct mt_rank_process *list, int count);

#endif
