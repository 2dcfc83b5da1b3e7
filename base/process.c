/* process: run a program and wait.
 *
 * The child leads a process group of its own, so that all it started can be ended with it. Both its pipes are drained
 * together, or a child that fills one while we read the other would hang. The child is left a zombie until its group
 * has been killed: as long as it is one, its id, which is the group's, cannot be given to anyone else. */
#define _GNU_SOURCE
#include "base/process.h"

#include "base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define ERRORS_BYTES  ((size_t)64 << 10)
#define POLL_MS       20
#define AT_ONCE_BYTES ((size_t)1 << 20) /* read from a pipe before looking at the clock again */
#define GRACE_S       3.0               /* between SIGTERM and SIGKILL: launchers clean up on the first */
#define QUIET_S       0.2               /* after the child's end: how long its own children may pause in writing, */
#define LINGER_S      2.0               /* and how long they are listened to at all */

extern char **environ;

/* What a pipe gave so far; `most` 0: all of it, else its last `most` bytes (up to twice that while reading). */
struct capture {
	int fd; /* -1 at its end */
	char *text;
	size_t used, room, most;
};

static bool make_room(struct capture *capture)
{
	if (capture->most && capture->used >= 2 * capture->most) {
		memmove(capture->text, capture->text + capture->used - capture->most, capture->most);
		capture->used = capture->most;
	}
	if (capture->room - capture->used > 4096)
		return true;
	size_t room = capture->room ? capture->room * 2 : 16384;
	char *text = realloc(capture->text, room);
	if (!text)
		return false;
	capture->text = text;
	capture->room = room;
	return true;
}

static void close_pipe(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/* Reads what is there. False when out of memory. */
static bool drain(struct capture *capture)
{
	for (size_t taken = 0; capture->fd >= 0 && taken < AT_ONCE_BYTES;) {
		if (!make_room(capture))
			return false;
		ssize_t got = read(capture->fd, capture->text + capture->used, capture->room - capture->used - 1);
		if (got > 0) {
			capture->used += (size_t)got;
			taken += (size_t)got;
			continue;
		}
		if (got == 0 || (errno != EAGAIN && errno != EINTR))
			close_pipe(&capture->fd);
		if (got == 0 || errno != EINTR)
			break;
	}
	return true;
}

static char *finish(struct capture *capture)
{
	if (!capture->text)
		return calloc(1, 1);
	if (capture->most && capture->used > capture->most) {
		memmove(capture->text, capture->text + capture->used - capture->most, capture->most);
		capture->used = capture->most;
	}
	capture->text[capture->used] = '\0';
	char *text = capture->text;
	capture->text = NULL;
	return text;
}

/* environ with `added` put over it: an array to free, its strings borrowed. */
static char **merge_environment(const char *const *added)
{
	size_t count = 0, extra = 0;
	while (environ && environ[count])
		count++;
	while (added && added[extra])
		extra++;
	char **merged = malloc((count + extra + 1) * sizeof *merged);
	if (!merged)
		return NULL;
	size_t used = 0;
	for (size_t i = 0; i < count; i++) {
		bool replaced = false;
		for (size_t j = 0; j < extra && !replaced; j++) {
			size_t name = strcspn(added[j], "=");
			replaced = strncmp(environ[i], added[j], name) == 0 && environ[i][name] == '=';
		}
		if (!replaced)
			merged[used++] = environ[i];
	}
	for (size_t j = 0; j < extra; j++)
		merged[used++] = (char *)added[j];
	merged[used] = NULL;
	return merged;
}

/* In the child, between fork and exec: only calls that are safe in a signal handler, since other threads may hold locks.
 * Its stdin (-1: nothing to read), stdout and stderr (-1: ours). */
static void become(const char *path, const char *const *argv, char **environment, const int files[3], int report)
{
	sigset_t none;
	int in = files[0];

	setpgid(0, 0);
	prctl(PR_SET_PDEATHSIG, SIGTERM); /* we may be killed by a signal that nobody catches */
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_DFL);
	if (in < 0)
		in = open("/dev/null", O_RDONLY);
	if (in >= 0 && dup2(in, STDIN_FILENO) >= 0 && (files[1] < 0 || dup2(files[1], STDOUT_FILENO) >= 0) &&
	    (files[2] < 0 || dup2(files[2], STDERR_FILENO) >= 0)) {
		if (in > STDERR_FILENO)
			close(in);
		execve(path, (char *const *)argv, environment);
	}
	int cause = errno;
	ssize_t ignored = write(report, &cause, sizeof cause);
	(void)ignored;
	_exit(127);
}

/* Forks and waits for the exec to have worked: the report pipe closes by it, or brings its errno. */
static enum mt_status start(const char *const *argv, const char *const *added, const int files[3], pid_t *pid)
{
	enum mt_status st = MT_OK;
	int report[2] = {-1, -1}, cause = 0;
	char *path = mt_process_find(argv[0]), **environment = merge_environment(added);

	if (!path)
		MT_GOTO(end, mt_fail(MT_UNAVAILABLE, "program %s is not installed or not on PATH", argv[0]));
	if (!environment)
		MT_GOTO(end, mt_fail(MT_NOMEM, "out of memory starting %s", argv[0]));
	if (pipe2(report, O_CLOEXEC) != 0)
		MT_GOTO(end, mt_fail(MT_FAILED, "cannot start %s: pipe: %s", argv[0], strerror(errno)));
	*pid = fork();
	if (*pid < 0)
		MT_GOTO(end, mt_fail(MT_FAILED, "cannot start %s: fork: %s", argv[0], strerror(errno)));
	if (*pid == 0)
		become(path, argv, environment, files, report[1]);
	setpgid(*pid, *pid); /* here and in the child: whoever comes first */
	close_pipe(&report[1]);
	ssize_t got;
	while ((got = read(report[0], &cause, sizeof cause)) < 0 && errno == EINTR)
		;
	if (got == sizeof cause) {
		waitpid(*pid, NULL, 0);
		MT_GOTO(end, mt_fail(MT_FAILED, "cannot start %s: %s", path, strerror(cause)));
	}
end:
	close_pipe(&report[0]);
	close_pipe(&report[1]);
	free(environment);
	free(path);
	return st;
}

enum mt_status mt_process_spawn(pid_t *pid, const char *const *argv, const char *const *environment, int input)
{
	const int files[3] = {input, -1, -1};
	return start(argv, environment, files, pid);
}

static enum mt_status start_captured(const char *const *argv, const char *const *added, pid_t *pid, struct capture *out,
				     struct capture *err)
{
	int out_pipe[2] = {-1, -1}, err_pipe[2] = {-1, -1};
	enum mt_status st = MT_OK;

	if (pipe2(out_pipe, O_CLOEXEC) != 0 || pipe2(err_pipe, O_CLOEXEC) != 0)
		MT_GOTO(end, mt_fail(MT_FAILED, "cannot start %s: pipe: %s", argv[0], strerror(errno)));
	MT_GOTO(end, start(argv, added, (const int[3]){-1, out_pipe[1], err_pipe[1]}, pid));
	out->fd = out_pipe[0];
	err->fd = err_pipe[0];
	fcntl(out->fd, F_SETFL, O_NONBLOCK);
	fcntl(err->fd, F_SETFL, O_NONBLOCK);
	out_pipe[0] = err_pipe[0] = -1;
end:
	for (int i = 0; i < 2; i++) {
		close_pipe(&out_pipe[i]);
		close_pipe(&err_pipe[i]);
	}
	return st;
}

static bool has_ended(pid_t pid)
{
	siginfo_t info = {0};
	return waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid == pid;
}

/* When waiting is over after the child's end: all it started has closed the pipes, or pauses, or goes on too long. */
struct linger {
	double ended_s, heard_s;
};

static bool heard_enough(struct linger *linger, double now, bool open, bool heard)
{
	if (linger->ended_s == 0)
		linger->ended_s = linger->heard_s = now;
	if (heard)
		linger->heard_s = now;
	return !open || now - linger->heard_s > QUIET_S || now - linger->ended_s > LINGER_S;
}

/* Drains both pipes until the child has ended. At `end_s`, or when we are interrupted, the group gets SIGTERM, and
 * SIGKILL a moment later. */
static enum mt_status attend(pid_t pid, double end_s, struct capture *out, struct capture *err, int *timed_out)
{
	enum mt_status st = MT_OK;
	struct linger linger = {0};
	double kill_s = 0;

	for (;;) {
		struct pollfd pipes[2] = {{.fd = out->fd, .events = POLLIN}, {.fd = err->fd, .events = POLLIN}};
		bool ended = has_ended(pid), open = out->fd >= 0 || err->fd >= 0;
		int ready = poll(pipes, 2, open ? POLL_MS : ended ? 0 : 2);
		if (!drain(out) || !drain(err))
			return mt_fail(MT_NOMEM, "out of memory reading the output of a program");
		double now = mt_clock_s();
		if (ended && heard_enough(&linger, now, out->fd >= 0 || err->fd >= 0, ready > 0))
			return st;
		if (ended)
			continue;
		if (kill_s > 0) {
			if (now >= kill_s)
				kill(-pid, SIGKILL);
		} else if (mt_process_interrupted() || (end_s > 0 && now >= end_s)) {
			*timed_out = !mt_process_interrupted();
			if (!*timed_out)
				st = mt_fail(MT_INTERRUPTED, "interrupted by a signal");
			kill(-pid, SIGTERM);
			kill_s = now + GRACE_S;
		}
	}
}

enum mt_status mt_process_run(struct mt_process_result *result, const char *const *argv, const char *const *environment,
			      double timeout_s)
{
	struct capture out = {.fd = -1}, err = {.fd = -1, .most = ERRORS_BYTES};
	pid_t pid = 0;
	int wait_status = 0;
	double start_s = mt_clock_s();

	memset(result, 0, sizeof *result);
	if (mt_process_interrupted())
		return mt_fail(MT_INTERRUPTED, "interrupted by a signal before %s was started", argv[0]);
	MT_TRY(start_captured(argv, environment, &pid, &out, &err));
	enum mt_status st = attend(pid, timeout_s > 0 ? start_s + timeout_s : 0, &out, &err, &result->timed_out);
	kill(-pid, SIGKILL); /* what the child left behind, or all of it after a failure */
	while (waitpid(pid, &wait_status, 0) < 0 && errno == EINTR)
		;
	result->seconds = mt_clock_s() - start_s;
	result->exit_code = WIFSIGNALED(wait_status) ? 128 + WTERMSIG(wait_status) : WEXITSTATUS(wait_status);
	close_pipe(&out.fd);
	close_pipe(&err.fd);
	result->output = finish(&out);
	result->errors = finish(&err);
	free(out.text);
	free(err.text);
	if (st == MT_OK && (!result->output || !result->errors))
		st = mt_fail(MT_NOMEM, "out of memory keeping the output of %s", argv[0]);
	if (st != MT_OK)
		mt_process_result_free(result);
	return st;
}

void mt_process_result_free(struct mt_process_result *result)
{
	free(result->output);
	free(result->errors);
	result->output = NULL;
	result->errors = NULL;
}
