/* cuda_host: runs the threads of a grid as fibers.
 *
 * A fiber is a stack and a saved stack pointer. The scheduler is the code that called the launch: it switches to a thread that is
 * ready, and gets control back when the thread ends or waits. A thread that is the last to come makes the others ready. When
 * nobody is ready and not everybody has ended, the block can never go on: the launch ends with what each side waits for, and
 * the fibers are abandoned (kernels own nothing that would leak). */
#include "tests/cuda_host/cuda_host.h"
#include "tests/cuda_host/control.h"

#include <stdarg.h>
#include <stdlib.h>
#include <sys/mman.h>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#define MOST_THREADS 1024
#define STACK_BYTES  ((size_t)128 << 10)
#define GUARD_BYTES  ((size_t)4 << 10)

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

enum state { READY, AT_WARP, AT_BARRIER, ENDED };

struct context {
#if defined(__x86_64__)
	void *sp;
#else
	ucontext_t saved;
#endif
	void *fake_stack; /* the sanitizer's */
	const void *bottom;
	size_t bytes;
};

struct thread {
	struct context context;
	uint3 index;
	enum state state;
	const char *kind; /* where it waits: the operation of the warp, or the file of the barrier */
	int line;
	unsigned mask;
	uint64_t given, taken[32]; /* what it gave to the warp's operation, and what all gave */
};

/* All there is of a launch. */
static struct {
	struct thread threads[MOST_THREADS];
	int ready[MOST_THREADS], ready_count, ready_first; /* a ring */
	int count, ended, at_barrier;
	struct thread *current;
	struct context scheduler;
	char *stacks;
	void (*body)(const void *closure);
	const void *closure;
	char *shared;
	const char *name;
	bool failed;
	bool dirty; /* stacks were abandoned */
} run;

static char message[512], last_message[512];
static cudaError_t last_error;
static uint64_t seed, draws;
static long launches;
static struct {
	const void *kernel;
	size_t bytes;
} allowed[64];

/* Switching. The sanitizer must know which stack is in use. */
#if defined(__x86_64__)
extern "C" void cuda_host_switch(void **save, void *load);
__asm__(".text\n"
	".globl cuda_host_switch\n"
	".hidden cuda_host_switch\n"
	".type cuda_host_switch, @function\n"
	"cuda_host_switch:\n"
	"	pushq %rbp\n	pushq %rbx\n	pushq %r12\n	pushq %r13\n	pushq %r14\n	pushq %r15\n"
	"	movq %rsp, (%rdi)\n"
	"	movq %rsi, %rsp\n"
	"	popq %r15\n	popq %r14\n	popq %r13\n	popq %r12\n	popq %rbx\n	popq %rbp\n"
	"	ret\n"
	".size cuda_host_switch, . - cuda_host_switch\n"
	".section .note.GNU-stack,\"\",@progbits\n.text\n");
#endif

static void switch_context(struct context *from, struct context *to, bool last)
{
#if defined(__SANITIZE_ADDRESS__)
	__sanitizer_start_switch_fiber(last ? NULL : &from->fake_stack, to->bottom, to->bytes);
#else
	(void)last;
#endif
#if defined(__x86_64__)
	cuda_host_switch(&from->sp, to->sp);
#else
	swapcontext(&from->saved, &to->saved);
#endif
#if defined(__SANITIZE_ADDRESS__)
	__sanitizer_finish_switch_fiber(from->fake_stack, NULL, NULL);
#endif
}

static void leave(bool last)
{
	switch_context(&run.current->context, &run.scheduler, last);
}

static void thread_main(void)
{
#if defined(__SANITIZE_ADDRESS__)
	__sanitizer_finish_switch_fiber(NULL, &run.scheduler.bottom, &run.scheduler.bytes);
#endif
	run.body(run.closure);
	run.current->state = ENDED;
	run.ended++;
	leave(true);
	__builtin_unreachable();
}

static void prepare(struct thread *t, char *stack)
{
	t->context.bottom = stack + GUARD_BYTES;
	t->context.bytes = STACK_BYTES - GUARD_BYTES;
	t->context.fake_stack = NULL;
#if defined(__x86_64__)
	/* Six registers, the address to return to, and one word so that the stack is as after a call. */
	void **top = (void **)(stack + STACK_BYTES);
	*--top = NULL;
	*--top = (void *)thread_main;
	for (int i = 0; i < 6; i++)
		*--top = NULL;
	t->context.sp = top;
#else
	getcontext(&t->context.saved);
	t->context.saved.uc_stack.ss_sp = stack + GUARD_BYTES;
	t->context.saved.uc_stack.ss_size = STACK_BYTES - GUARD_BYTES;
	t->context.saved.uc_link = NULL;
	makecontext(&t->context.saved, thread_main, 0);
#endif
}

/* Who is next. */
static uint64_t draw(uint64_t below)
{
	uint64_t x = seed + 0x9e3779b97f4a7c15u * ++draws; /* splitmix64 */
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
	x = (x ^ x >> 27) * 0x94d049bb133111ebu;
	return (x ^ x >> 31) % below;
}

static void make_ready(struct thread *t)
{
	t->state = READY;
	run.ready[(run.ready_first + run.ready_count++) % MOST_THREADS] = (int)(t - run.threads);
}

static struct thread *take_ready(void)
{
	if (seed) {
		int *other = &run.ready[(run.ready_first + (int)draw((uint64_t)run.ready_count)) % MOST_THREADS];
		int index = *other;
		*other = run.ready[run.ready_first];
		run.ready[run.ready_first] = index;
	}
	struct thread *t = &run.threads[run.ready[run.ready_first]];
	run.ready_first = (run.ready_first + 1) % MOST_THREADS;
	run.ready_count--;
	return t;
}

static void record(const char *format, va_list arguments)
{
	char what[400];
	vsnprintf(what, sizeof what, format, arguments);
	run.failed = true;
	if (last_error != cudaSuccess)
		return;
	last_error = cudaErrorLaunchFailure;
	snprintf(message, sizeof message, "%s: %s", run.name, what);
}

static void __attribute__((format(printf, 1, 2))) fail(const char *format, ...)
{
	va_list arguments;
	va_start(arguments, format);
	record(format, arguments);
	va_end(arguments);
}

void cuda_host_fault(const char *format, ...)
{
	va_list arguments;
	va_start(arguments, format);
	record(format, arguments);
	va_end(arguments);
	leave(true);
	__builtin_unreachable();
}

/* Waiting. With a seed even the last to come lets the others go first. */
static void release(struct thread *last)
{
	if (seed) {
		make_ready(last);
		leave(false);
	} else {
		last->state = READY;
	}
}

void cuda_host_barrier(const char *file, int line)
{
	struct thread *self = run.current;
	self->state = AT_BARRIER;
	self->kind = file;
	self->line = line;
	if (++run.at_barrier < run.count) {
		leave(false);
		return;
	}
	run.at_barrier = 0;
	for (int i = 0; i < run.count; i++) {
		const struct thread *t = &run.threads[i];
		if (t->line != line || strcmp(t->kind, file) != 0)
			cuda_host_fault("threads wait at different barriers: %s:%d and %s:%d", t->kind, t->line, file, line);
	}
	for (int i = 0; i < run.count; i++)
		if (&run.threads[i] != self)
			make_ready(&run.threads[i]);
	release(self);
}

unsigned cuda_host_lane(void)
{
	return (unsigned)(run.current - run.threads) % 32;
}

/* Whether every lane of the mask waits at the same operation; a lane that is not there is a fault. */
static bool all_came(struct thread *warp, int lanes, const struct thread *self)
{
	for (int l = 0; l < 32; l++) {
		if (!(self->mask >> l & 1))
			continue;
		if (l >= lanes || warp[l].state == ENDED)
			cuda_host_fault("%s: mask %#x names lane %d, which %s", self->kind, self->mask, l,
					l >= lanes ? "the block has not" : "has returned");
		if (warp[l].state != AT_WARP || warp[l].mask != self->mask ||
		    (warp[l].kind != self->kind && strcmp(warp[l].kind, self->kind) != 0))
			return false;
	}
	return true;
}

const uint64_t *cuda_host_exchange(const char *kind, unsigned mask, uint64_t value)
{
	struct thread *self = run.current;
	unsigned lane = cuda_host_lane();
	struct thread *warp = self - lane;
	int lanes = (int)(&run.threads[run.count] - warp);
	if (!(mask >> lane & 1))
		cuda_host_fault("%s: lane %u is not in its own mask %#x", kind, lane, mask);
	self->state = AT_WARP;
	self->kind = kind;
	self->mask = mask;
	self->given = value;
	if (!all_came(warp, lanes, self)) {
		leave(false);
		return self->taken;
	}
	uint64_t all[32] = {0};
	for (unsigned l = 0; l < 32; l++)
		if (mask >> l & 1)
			all[l] = warp[l].given;
	for (unsigned l = 0; l < 32; l++)
		if (mask >> l & 1) {
			memcpy(warp[l].taken, all, sizeof all);
			if (l != lane)
				make_ready(&warp[l]);
		}
	release(self);
	return self->taken;
}

/* Launching. */
static void describe_deadlock(void)
{
	const struct thread *warp = NULL, *barrier = NULL;
	for (int i = 0; i < run.count; i++) {
		if (run.threads[i].state == AT_WARP && !warp)
			warp = &run.threads[i];
		if (run.threads[i].state == AT_BARRIER && !barrier)
			barrier = &run.threads[i];
	}
	if (barrier)
		fail("block (%u,%u,%u): %d of %d threads wait at the barrier %s:%d, %d have returned, the others wait %s",
		     blockIdx.x, blockIdx.y, blockIdx.z, run.at_barrier, run.count, barrier->kind, barrier->line, run.ended,
		     warp ? warp->kind : "nowhere");
	else
		fail("block (%u,%u,%u): thread %d waits at %s with mask %#x and not all lanes of it come", blockIdx.x, blockIdx.y,
		     blockIdx.z, (int)(warp - run.threads), warp->kind, warp->mask);
}

static void run_block(void)
{
	run.ended = run.at_barrier = run.ready_count = run.ready_first = 0;
	for (int i = 0; i < run.count; i++) {
		struct thread *t = &run.threads[i];
		unsigned n = (unsigned)i;
		t->index = uint3{n % blockDim.x, n / blockDim.x % blockDim.y, n / blockDim.x / blockDim.y};
		prepare(t, run.stacks + (size_t)i * STACK_BYTES);
		make_ready(t);
	}
	while (run.ready_count > 0 && !run.failed) {
		run.current = take_ready();
		threadIdx = run.current->index;
		switch_context(&run.scheduler, &run.current->context, false);
	}
	if (!run.failed && run.ended < run.count)
		describe_deadlock();
}

/* Stacks for all threads, each with a page below it that faults. */
static bool have_stacks(void)
{
	size_t bytes = MOST_THREADS * STACK_BYTES;
	if (!run.stacks) {
		void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (memory == MAP_FAILED)
			return false;
		run.stacks = (char *)memory;
		for (size_t i = 0; i < MOST_THREADS; i++)
			mprotect(run.stacks + i * STACK_BYTES, GUARD_BYTES, PROT_NONE);
	}
#if defined(__SANITIZE_ADDRESS__)
	if (run.dirty)
		__asan_unpoison_memory_region(run.stacks, bytes);
#endif
	run.dirty = false;
	return true;
}

static size_t allowed_shared(const void *kernel)
{
	for (size_t i = 0; i < sizeof allowed / sizeof *allowed; i++)
		if (allowed[i].kernel == kernel)
			return allowed[i].bytes;
	return 48 << 10;
}

cudaError_t cuda_host_allow_shared(const void *kernel, size_t bytes)
{
	for (size_t i = 0; i < sizeof allowed / sizeof *allowed; i++)
		if (bytes <= 227 << 10 && (!allowed[i].kernel || allowed[i].kernel == kernel)) {
			allowed[i].kernel = kernel;
			allowed[i].bytes = bytes;
			return cudaSuccess;
		}
	return cudaErrorInvalidValue;
}

/* NULL when a GPU would take the launch. */
static const char *refuse(const void *kernel, dim3 grid, dim3 block, size_t shared_bytes)
{
	uint64_t threads = (uint64_t)block.x * block.y * block.z;
	if (threads < 1 || threads > MOST_THREADS || block.z > 64)
		return "a block has 1 to 1024 threads";
	if (grid.x < 1 || grid.x > INT32_MAX || grid.y < 1 || grid.y > 65535 || grid.z < 1 || grid.z > 65535)
		return "a grid has 1 to 2^31-1 by 65535 by 65535 blocks";
	if (shared_bytes > allowed_shared(kernel))
		return "more shared memory than a block may have, or has asked for with cudaFuncSetAttribute";
	return have_stacks() ? NULL : "no memory for stacks";
}

void cuda_host_run(const char *name, const void *kernel, dim3 grid, dim3 block, size_t shared_bytes,
		   void (*body)(const void *closure), const void *closure)
{
	void *shared = NULL;
	run.name = name;
	run.failed = false;
	launches++;
	const char *why = refuse(kernel, grid, block, shared_bytes);
	if (!why && posix_memalign(&shared, 128, shared_bytes ? shared_bytes : 1) != 0)
		why = "no memory for shared memory";
	if (why) {
		fail("%s", why);
		last_error = cudaErrorInvalidConfiguration;
		return;
	}
	run.count = (int)(block.x * block.y * block.z);
	run.body = body;
	run.closure = closure;
	run.shared = (char *)shared;
	gridDim = grid;
	blockDim = block;
	uint64_t blocks = (uint64_t)grid.x * grid.y * grid.z, shift = seed ? draw(blocks) : 0;
	bool backwards = seed && draw(2);
	for (uint64_t i = 0; i < blocks && !run.failed; i++) {
		uint64_t b = ((backwards ? blocks - 1 - i : i) + shift) % blocks;
		blockIdx = uint3{(unsigned)(b % grid.x), (unsigned)(b / grid.x % grid.y), (unsigned)(b / grid.x / grid.y)};
		memset(shared, 0xff, shared_bytes);
		run_block();
	}
	run.dirty = run.failed;
	free(shared);
}

void *cuda_host_shared(void)
{
	return run.shared;
}

/* The runtime, as far as kernels' launchers use it. */
cudaError_t cudaPeekAtLastError(void)
{
	return last_error;
}

cudaError_t cudaGetLastError(void)
{
	cudaError_t error = last_error;
	last_error = cudaSuccess;
	return error;
}

const char *cudaGetErrorString(cudaError_t error)
{
	return error == cudaSuccess ? "no error" : message;
}

cudaError_t cudaMemsetAsync(void *memory, int value, size_t bytes, cudaStream_t)
{
	memset(memory, value, bytes);
	return cudaSuccess;
}

void cuda_host_seed(uint64_t value)
{
	seed = value;
	draws = 0;
}

const char *cuda_host_error(void)
{
	memcpy(last_message, message, sizeof last_message);
	message[0] = '\0';
	last_error = cudaSuccess;
	return last_message;
}

long cuda_host_launches(void)
{
	long count = launches;
	launches = 0;
	return count;
}
