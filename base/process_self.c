/* process_self: what a process knows about itself, and the signals it catches. */
#define _GNU_SOURCE
#include "base/process.h"

#include "base/file.h"

#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Signals belong to the process, so this flag does too. */
static volatile sig_atomic_t interrupted; /* the number of the signal */

static void on_signal(int number)
{
	if (interrupted == number && number != SIGUSR1) {
		signal(number, SIG_DFL);
		raise(number);
	}
	interrupted = number;
}

void mt_process_catch_signals(void)
{
	/* On a stack of its own: generated kernels of libraries use the stack pointer as they like, and what a signal pushes
	 * (11 KB with AMX) would then overwrite the heap: 3 of 9 runs that were stopped within a product died of it. */
	static char stack[128 << 10] __attribute__((aligned(64)));
	stack_t alternate = {.ss_sp = stack, .ss_size = sizeof stack};
	struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART | SA_ONSTACK};

	sigaltstack(&alternate, NULL);
	sigemptyset(&action.sa_mask);
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGUSR1, &action, NULL);
}

int mt_process_interrupted(void)
{
	return interrupted != 0;
}

int mt_process_signal(void)
{
	return interrupted;
}

char *mt_process_self(void)
{
	char path[PATH_MAX];
	ssize_t length = readlink("/proc/self/exe", path, sizeof path);
	return length > 0 && (size_t)length < sizeof path ? strndup(path, (size_t)length) : NULL;
}

static bool is_program(const char *path)
{
	struct stat info;
	return stat(path, &info) == 0 && S_ISREG(info.st_mode) && access(path, X_OK) == 0;
}

char *mt_process_find(const char *program)
{
	const char *path = getenv("PATH");

	if (strchr(program, '/'))
		return mt_file_exists(program) ? strdup(program) : NULL;
	for (const char *at = path ? path : "/usr/local/bin:/usr/bin:/bin"; *program;) {
		int length = (int)strcspn(at, ":");
		char *candidate = mt_string("%.*s%s%s", length, at, length ? "/" : "./", program);
		if (candidate && is_program(candidate))
			return candidate;
		free(candidate);
		if (at[length] == '\0')
			break;
		at += length + 1;
	}
	return NULL;
}

/* A line "VmRSS:     1234 kB" of /proc/self/status, in bytes. */
static size_t status_bytes(const char *name)
{
	FILE *file = fopen("/proc/self/status", "re");
	char line[256];
	unsigned long long kib = 0;
	size_t length = strlen(name);

	if (!file)
		return 0;
	while (fgets(line, sizeof line, file))
		if (strncmp(line, name, length) == 0 && sscanf(line + length, ": %llu", &kib) == 1)
			break;
	fclose(file);
	return (size_t)kib * 1024;
}

size_t mt_process_peak_bytes(void)
{
	return status_bytes("VmHWM");
}

size_t mt_process_resident_bytes(void)
{
	return status_bytes("VmRSS");
}
