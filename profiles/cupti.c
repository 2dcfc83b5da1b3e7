/* cupti: kernel times from NVIDIA's activity API, as the plugin `cupti`. Read tracer.h first.
 *
 * CUPTI gives records in buffers that it asks for and gives back, from its own thread, in no order; each piece of work on the
 * device has a correlation number, and each call made while an operation's number is pushed has a record that links the two.
 * Both go into one log under a lock; activity.c joins them. Records of API calls must be on, or no links are made; they are
 * skipped when read.
 *
 * CUPTI belongs to the process and its callbacks take no context, so this file holds the one log there is. */
#include "base/plugin.h"
#include "profiles/tracer.h"

#include <cupti.h>
#include <pthread.h>
#include <stdlib.h>

#define BUFFER_BYTES ((size_t)4 << 20) /* about 20,000 records: a step of many layers in a few */
#define BUFFER_ALIGN 8

#if CUPTI_API_VERSION >= 130000
typedef CUpti_ActivityKernel10 kernel_record;
typedef CUpti_ActivityMemcpy6 copy_record;
#else
typedef CUpti_ActivityKernel9 kernel_record;
typedef CUpti_ActivityMemcpy5 copy_record;
#endif
typedef CUpti_ActivityMemset4 fill_record;

static struct {
	pthread_mutex_t lock;
	struct mt_activity_log log;
	bool open;
} cupti = {.lock = PTHREAD_MUTEX_INITIALIZER};

static const CUpti_ActivityKind kinds[] = {
	CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL, CUPTI_ACTIVITY_KIND_MEMCPY, CUPTI_ACTIVITY_KIND_MEMSET,
	CUPTI_ACTIVITY_KIND_RUNTIME,           CUPTI_ACTIVITY_KIND_DRIVER, CUPTI_ACTIVITY_KIND_EXTERNAL_CORRELATION,
};
enum { KINDS = sizeof kinds / sizeof *kinds };

static enum mt_status explain(CUptiResult result, const char *what)
{
	const char *text = NULL, *hint = "";
	cuptiGetResultString(result, &text);
	if (result == CUPTI_ERROR_INSUFFICIENT_PRIVILEGES)
		hint = "; the driver lets only the administrator profile (NVreg_RestrictProfilingToAdminUsers=0 changes that)";
	else if (result == CUPTI_ERROR_MULTIPLE_SUBSCRIBERS_NOT_SUPPORTED)
		hint = "; another profiler is attached";
	else if (result == CUPTI_ERROR_UNKNOWN || result == CUPTI_ERROR_NOT_INITIALIZED)
		hint = "; that is what CUPTI says where there is no NVIDIA driver";
	return mt_fail(MT_UNAVAILABLE, "%s: %s%s", what, text ? text : "unknown error", hint);
}

static void CUPTIAPI give_buffer(uint8_t **buffer, size_t *bytes, size_t *most_records)
{
	*buffer = aligned_alloc(BUFFER_ALIGN, BUFFER_BYTES);
	*bytes = *buffer ? BUFFER_BYTES : 0; /* none: CUPTI drops the records and counts them */
	*most_records = 0;
}

static void add_work(enum mt_activity_kind kind, uint32_t correlation, uint32_t stream, uint64_t start_ns, uint64_t end_ns)
{
	struct mt_activity_work work = {kind, correlation, stream, start_ns, end_ns};
	mt_activity_add_work(&cupti.log, &work);
}

static void read_record(const CUpti_Activity *record)
{
	const CUpti_ActivityExternalCorrelation *link = (const void *)record;
	const kernel_record *kernel = (const void *)record;
	const copy_record *copy = (const void *)record;
	const fill_record *fill = (const void *)record;

	switch (record->kind) {
	case CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL:
	case CUPTI_ACTIVITY_KIND_KERNEL:
		add_work(MT_ACTIVITY_KERNEL, kernel->correlationId, kernel->streamId, kernel->start, kernel->end);
		break;
	case CUPTI_ACTIVITY_KIND_MEMCPY:
		add_work(MT_ACTIVITY_COPY, copy->correlationId, copy->streamId, copy->start, copy->end);
		break;
	case CUPTI_ACTIVITY_KIND_MEMSET:
		add_work(MT_ACTIVITY_FILL, fill->correlationId, fill->streamId, fill->start, fill->end);
		break;
	case CUPTI_ACTIVITY_KIND_EXTERNAL_CORRELATION:
		if (link->externalKind == CUPTI_EXTERNAL_CORRELATION_KIND_CUSTOM0)
			mt_activity_add_link(&cupti.log, link->correlationId, link->externalId);
		break;
	default:
		break;
	}
}

static void CUPTIAPI take_buffer(CUcontext context, uint32_t stream, uint8_t *buffer, size_t bytes, size_t valid_bytes)
{
	CUpti_Activity *record = NULL;
	size_t dropped = 0;

	pthread_mutex_lock(&cupti.lock);
	while (valid_bytes > 0 && cuptiActivityGetNextRecord(buffer, valid_bytes, &record) == CUPTI_SUCCESS)
		read_record(record);
	if (cuptiActivityGetNumDroppedRecords(context, stream, &dropped) == CUPTI_SUCCESS)
		cupti.log.dropped += dropped;
	pthread_mutex_unlock(&cupti.lock);
	free(buffer);
}

static void disable(int count)
{
	for (int i = 0; i < count; i++)
		cuptiActivityDisable(kinds[i]);
}

static enum mt_status open_tracer(void)
{
	CUptiResult result;

	if (cupti.open)
		return mt_fail(MT_UNAVAILABLE, "CUPTI is in use by another tracer of this process");
	if ((result = cuptiActivityRegisterCallbacks(give_buffer, take_buffer)) != CUPTI_SUCCESS)
		return explain(result, "cuptiActivityRegisterCallbacks");
	for (int i = 0; i < KINDS; i++)
		if ((result = cuptiActivityEnable(kinds[i])) != CUPTI_SUCCESS) {
			disable(i);
			return explain(result, "cuptiActivityEnable");
		}
	mt_activity_clear(&cupti.log);
	cupti.open = true;
	return MT_OK;
}

static void push(uint64_t operation)
{
	cuptiActivityPushExternalCorrelationId(CUPTI_EXTERNAL_CORRELATION_KIND_CUSTOM0, operation);
}

static void pop(void)
{
	uint64_t operation;
	cuptiActivityPopExternalCorrelationId(CUPTI_EXTERNAL_CORRELATION_KIND_CUSTOM0, &operation);
}

static enum mt_status flush(struct mt_activity_log *log)
{
	/* Not forced: the work is over, so its records are complete; a forced flush would give back unfinished ones too. */
	CUptiResult result = cuptiActivityFlushAll(0);

	if (result != CUPTI_SUCCESS)
		return explain(result, "cuptiActivityFlushAll");
	pthread_mutex_lock(&cupti.lock);
	for (size_t i = 0; i < cupti.log.work_count; i++)
		mt_activity_add_work(log, &cupti.log.works[i]);
	for (size_t i = 0; i < cupti.log.link_count; i++)
		mt_activity_add_link(log, cupti.log.links[i].correlation, cupti.log.links[i].operation);
	log->dropped += cupti.log.dropped;
	mt_activity_clear(&cupti.log);
	pthread_mutex_unlock(&cupti.lock);
	return MT_OK;
}

static void close_tracer(void)
{
	if (!cupti.open)
		return;
	disable(KINDS);
	cuptiActivityFlushAll(CUPTI_ACTIVITY_FLAG_FLUSH_FORCED);
	pthread_mutex_lock(&cupti.lock);
	mt_activity_free(&cupti.log);
	pthread_mutex_unlock(&cupti.lock);
	cupti.open = false;
}

static const struct mt_tracer_ops tracer_ops = {
	.name = "CUPTI",
	.open = open_tracer,
	.push = push,
	.pop = pop,
	.flush = flush,
	.close = close_tracer,
};

MT_PLUGIN_EXPORT const void *megatune_plugin(int abi);
const void *megatune_plugin(int abi)
{
	return abi == MT_TRACER_ABI ? &tracer_ops : NULL;
}
