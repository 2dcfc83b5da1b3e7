/* commands: what `megatune COMMAND` can be. One file a command, one row a command in main.c. */
#ifndef MT_TUNER_COMMANDS_H
#define MT_TUNER_COMMANDS_H

#include "base/status.h"

/* argv[0] is the command's name. Results on stdout, everything else on stderr. */
enum mt_status mt_command_doctor(int argc, char **argv);
enum mt_status mt_command_probe(int argc, char **argv);
enum mt_status mt_command_profile(int argc, char **argv);
enum mt_status mt_command_plan(int argc, char **argv);
enum mt_status mt_command_tune(int argc, char **argv);
enum mt_status mt_command_scale(int argc, char **argv);
enum mt_status mt_command_export(int argc, char **argv);
enum mt_status mt_command_train(int argc, char **argv);
enum mt_status mt_command_rehearse(int argc, char **argv);
enum mt_status mt_command_launch(int argc, char **argv);
enum mt_status mt_command_data(int argc, char **argv);
enum mt_status mt_command_ckpt(int argc, char **argv);
enum mt_status mt_command_logits(int argc, char **argv);
enum mt_status mt_command_report(int argc, char **argv);
enum mt_status mt_command_validate(int argc, char **argv);
enum mt_status mt_command_calibrate(int argc, char **argv);

#endif
