/* export_slurm: a batch script. Where the run saves and resumes, Slurm sends the script SIGUSR1 before the time is over. The script
 * passes it on to the ranks, which save and end, and puts the job back in the queue, to go on from the checkpoint: Slurm itself
 * queues a job again after a node's failure or preemption only. */
#include "tuner/export.h"

#include <string.h>

static void put_name(const char *name, FILE *file)
{
	for (const char *c = name; *c && c - name < 60; c++)
		fputc(strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-", *c) ? *c : '_', file);
}

/* In single quotes, for bash. */
static void put_quoted(const char *text, FILE *file)
{
	fputc('\'', file);
	for (const char *c = text; *c; c++) {
		if (*c == '\'')
			fputs("'\\''", file);
		else
			fputc(*c, file);
	}
	fputc('\'', file);
}

/* Words of #SBATCH lines end at blanks and are not unquoted. */
static enum mt_status check_word(const char *option, const char *word)
{
	if (word && (!*word || word[strcspn(word, " \t\n\r#\"'\\")]))
		return mt_fail(MT_INPUT, "--%s: '%s' is no word that Slurm could read", option, word);
	return MT_OK;
}

/* Whether a run that is started again goes on where it was. */
static bool goes_on(const struct mt_run *run)
{
	return run->train.save_dir && (!run->train.resume || strcmp(run->train.resume, "auto") == 0);
}

/* `wait` returns when the signal comes, too: then srun is waited for again. */
static void put_megatune(FILE *file, const struct mt_run *run, const char *run_path)
{
	fputs("run=", file);
	put_quoted(run_path, file);
	fputs("\n\nexport OMP_PROC_BIND=false\n", file);
	if (!goes_on(run)) {
		fputs("exec srun --kill-on-bad-exit=1 megatune train \"$run\"\n", file);
		return;
	}
	fputs("again=\n"
	      "trap 'again=yes; scancel --signal=USR1 \"$SLURM_JOB_ID\"' USR1\n"
	      "srun --kill-on-bad-exit=1 megatune train \"$run\" &\n"
	      "status=0\n"
	      "wait $! || status=$?\n"
	      "while kill -0 $! 2>/dev/null; do\n"
	      "\tstatus=0\n"
	      "\twait $! || status=$?\n"
	      "done\n"
	      "if [ -n \"$again\" ] && [ \"$status\" -eq 0 ]; then\n"
	      "\tscontrol requeue \"$SLURM_JOB_ID\"\n"
	      "fi\n"
	      "exit \"$status\"\n",
	      file);
}

static void put_megatron(FILE *file, const struct mt_export *e, int64_t per_node)
{
	fputs("# The folder of Megatron-LM\n: \"${MEGATRON_PATH:?set it to the folder of Megatron-LM}\"\n\n", file);
	mt_export_write(e, file);
	fprintf(file,
		"\nhead_node=$(scontrol show hostnames \"$SLURM_JOB_NODELIST\" | head -n 1)\n"
		"exec srun --kill-on-bad-exit=1 --ntasks-per-node=1 torchrun \\\n"
		"\t--nnodes \"$SLURM_JOB_NUM_NODES\" --nproc-per-node %lld \\\n"
		"\t--rdzv-id \"$SLURM_JOB_ID\" --rdzv-backend c10d --rdzv-endpoint \"$head_node:29500\" \\\n"
		"\t\"$MEGATRON_PATH/pretrain_gpt.py\" \"${ARGS[@]}\"\n",
		(long long)per_node);
}

enum mt_status mt_export_slurm(FILE *file, const struct mt_run *run, const struct mt_export_beyond *beyond, const char *run_path,
			       const struct mt_slurm_options *o)
{
	int64_t world = mt_layout_world(&run->layout), per_node = world < o->gpus_per_node ? world : o->gpus_per_node;
	bool gpus = o->program == 1 || (run->train.device && strcmp(run->train.device, "cuda") == 0);
	struct mt_export e = {0};

	MT_TRY(check_word("time", o->time));
	MT_TRY(check_word("partition", o->partition));
	MT_TRY(check_word("account", o->account));
	if (world % per_node)
		return mt_fail(MT_INPUT, "%lld ranks do not fill nodes of %lld: give --gpus-per-node that divides them",
			       (long long)world, (long long)per_node);
	if (o->program == 1)
		MT_TRY(mt_export_megatron(&e, run, beyond));
	fputs("#!/bin/bash\n#SBATCH --job-name=", file);
	put_name(run->model.name, file);
	fprintf(file, "\n#SBATCH --nodes=%lld\n#SBATCH --ntasks-per-node=%lld\n", (long long)(world / per_node),
		(long long)(o->program == 1 ? 1 : per_node));
	if (gpus)
		fprintf(file, "#SBATCH --gpus-per-node=%lld\n", (long long)per_node);
	fputs("#SBATCH --exclusive\n", file);
	if (o->time)
		fprintf(file, "#SBATCH --time=%s\n", o->time);
	if (o->partition)
		fprintf(file, "#SBATCH --partition=%s\n", o->partition);
	if (o->account)
		fprintf(file, "#SBATCH --account=%s\n", o->account);
	if (o->program == 0)
		fputs(goes_on(run) ? "#SBATCH --signal=B:USR1@120\n#SBATCH --requeue\n" : "#SBATCH --no-requeue\n", file);
	fputs("#SBATCH --open-mode=append\n#SBATCH --output=%x-%j.log\n\nset -euo pipefail\n\n", file);
	if (o->program == 1)
		put_megatron(file, &e, per_node);
	else
		put_megatune(file, run, run_path);
	mt_export_free(&e);
	return MT_OK;
}
