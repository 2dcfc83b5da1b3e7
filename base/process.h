/* process: run another program with an argument array (never a shell), its output captured, within a time limit. */
#ifndef MT_BASE_PROCESS_H
#define MT_BASE_PROCESS_H

#include "base/status.h"

#include <sys/types.h>

struct mt_process_result {
	int exit_code; /* 128 + signal when killed by one */
	int timed_out; /* 1 when timeout_s ended it; the whole process group is killed */
	double seconds;
	char *output; /* stdout, NUL-terminated, owned */
	char *errors; /* the last 64 KiB of stderr, owned */
};

/* Runs argv (NULL-terminated) in its own process group with stdin from /dev/null; `environment` is a NULL-terminated
 * array of "NAME=value" to add, or NULL. timeout_s 0: none. Returns MT_OK whenever the program could be started, also
 * when it failed. A SIGINT or SIGTERM that reaches us while waiting ends the child and returns MT_INTERRUPTED.
 * Ending is SIGTERM to the group, SIGKILL 3 s later. Whatever is left of the group when the program is over is killed.
 * On failure `result` holds nothing to free. */
enum mt_status mt_process_run(struct mt_process_result *result, const char *const *argv, const char *const *environment,
			      double timeout_s);
void mt_process_result_free(struct mt_process_result *result);

/* Starts argv and does not wait for it: the leader of a process group of its own, whose output is ours; it gets SIGTERM when we
 * die. `input`: its stdin, -1: nothing to read. */
enum mt_status mt_process_spawn(pid_t *pid, const char *const *argv, const char *const *environment, int input);

/* Path of the running executable, for starting ourselves; free() it. NULL when unknown. */
char *mt_process_self(void);
/* Path of a program on PATH, free() it; NULL when there is none. */
char *mt_process_find(const char *program);
/* Installs handlers of SIGINT, SIGTERM and SIGUSR1 that note the signal. SIGINT or SIGTERM a second time ends the process; any
 * other order does not, for schedulers send SIGUSR1 first and SIGTERM later. */
void mt_process_catch_signals(void);
int mt_process_interrupted(void);
int mt_process_signal(void); /* the last one noted; 0: none */
/* Peak resident bytes of this process (VmHWM), and resident now (VmRSS); 0 when unknown. */
size_t mt_process_peak_bytes(void);
size_t mt_process_resident_bytes(void);

#endif
