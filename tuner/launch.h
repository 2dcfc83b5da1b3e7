/* launch: starts ourselves on several ranks. */
#ifndef MT_TUNER_LAUNCH_H
#define MT_TUNER_LAUNCH_H

#include "base/process.h"
#include "tuner/options.h"

#define MT_LAUNCH_WORDS 64

/* Runs `megatune ARGS...` (NULL-terminated, without the program) on `ranks` ranks. One rank is started directly unless a
 * launch command was given. MT_UNAVAILABLE when nothing here can start several ranks, with what to install. */
enum mt_status mt_launch(struct mt_process_result *result, const struct mt_tune_options *options, int ranks, int threads,
			 const char *const *args, double timeout_s);

/* The command line of a job as a person would type it ("mpirun -n 2 megatune train run.yaml"); free() it. */
char *mt_launch_text(const struct mt_tune_options *options, int ranks, const char *args);

/* The last line of a failed child's messages, for a one-line reason; never empty. */
void mt_launch_reason(const struct mt_process_result *result, char buf[240]);

#endif
