/* job: the ranks that this process is one of. What every rank would find wrong with its input is told once. */
#ifndef MT_TUNER_JOB_H
#define MT_TUNER_JOB_H

#include "comm/comm.h"
#include "engine/run.h"

/* Joins the ranks that mpirun, srun, torchrun or `megatune launch` started, or makes a job of one; log lines name the rank from
 * here on. */
enum mt_status mt_job_open(struct mt_fabric **fabric);

/* Collective. What the ranks' collectives go over, once the kind of device is known. The fabric that joined the ranks stays, or
 * gets nccl on top: with auto, where the devices are CUDA's, each rank has one for itself, and every rank's plugin can be used.
 * MT_INPUT when the choice cannot be. */
enum mt_status mt_job_choose(struct mt_fabric **fabric, enum mt_fabric_choice choice, const char *device);

/* Collective. Each rank hands in how a part without communication ended for it: all ranks go on, or all get the status of the
 * first one that failed. That rank has told its message, which nobody has to tell again. */
enum mt_status mt_job_agree(struct mt_fabric *fabric, enum mt_status st);

/* The ranks in the order that the run's rank_order says; *ordered stays as it is where there is none. `ordered` NULL: only whether
 * it is one. Destroy it before the fabric. */
enum mt_status mt_job_order(struct mt_fabric **ordered, const struct mt_run *run, struct mt_fabric *fabric);

/* After a failure between collectives: tells the message and ends all ranks, for others may be waiting for this one. A job
 * of one rank goes on to its own clean-up. */
void mt_job_give_up(struct mt_fabric *fabric, enum mt_status st);

#endif
