/* activity: the join of work and links. Both are sorted, so the cost is n log n, and the order in which a tracer's buffers
 * came back makes no difference. */
#include "profiles/activity.h"

#include <stdbool.h>
#include <stdlib.h>

#define FIRST_CAPACITY 1024

/* Room for one more element; false: no memory. */
static bool grow(void **list, size_t count, size_t *capacity, size_t size)
{
	if (count < *capacity)
		return true;
	size_t wanted = *capacity ? 2 * *capacity : FIRST_CAPACITY;
	void *grown = realloc(*list, wanted * size);
	if (!grown)
		return false;
	*list = grown;
	*capacity = wanted;
	return true;
}

void mt_activity_add_work(struct mt_activity_log *log, const struct mt_activity_work *work)
{
	if (grow((void **)&log->works, log->work_count, &log->work_capacity, sizeof *log->works))
		log->works[log->work_count++] = *work;
	else
		log->dropped++;
}

void mt_activity_add_link(struct mt_activity_log *log, uint32_t correlation, uint64_t operation)
{
	if (grow((void **)&log->links, log->link_count, &log->link_capacity, sizeof *log->links))
		log->links[log->link_count++] = (struct mt_activity_link){correlation, operation};
	else
		log->dropped++;
}

void mt_activity_clear(struct mt_activity_log *log)
{
	log->work_count = log->link_count = 0;
	log->dropped = 0;
}

void mt_activity_free(struct mt_activity_log *log)
{
	free(log->works);
	free(log->links);
	*log = (struct mt_activity_log){0};
}

static int compare(uint64_t a, uint64_t b)
{
	return a < b ? -1 : a > b;
}

static int by_correlation(const void *a, const void *b)
{
	const struct mt_activity_link *x = a, *y = b;
	return compare(x->correlation, y->correlation);
}

/* A piece with what it belongs to, and how long its stream stood still before it. */
struct piece {
	struct mt_activity_work work;
	uint64_t operation; /* 0: none */
	uint64_t idle_ns;
};

static int by_stream(const void *a, const void *b)
{
	const struct piece *x = a, *y = b;
	int order = compare(x->work.stream, y->work.stream);
	return order ? order : compare(x->work.start_ns, y->work.start_ns);
}

static int by_operation(const void *a, const void *b)
{
	const struct piece *x = a, *y = b;
	int order = compare(x->operation, y->operation);
	return order ? order : compare(x->work.start_ns, y->work.start_ns);
}

static uint64_t find_operation(const struct mt_activity_log *log, uint32_t correlation)
{
	const struct mt_activity_link wanted = {correlation, 0}, *found = NULL;
	if (log->link_count > 0)
		found = bsearch(&wanted, log->links, log->link_count, sizeof wanted, by_correlation);
	return found ? found->operation : 0;
}

static size_t join(struct mt_activity_log *log, struct piece *pieces, struct mt_activity_totals *totals)
{
	size_t count = 0;
	if (log->link_count > 0)
		qsort(log->links, log->link_count, sizeof *log->links, by_correlation);
	for (size_t i = 0; i < log->work_count; i++) {
		const struct mt_activity_work *work = &log->works[i];
		totals->pieces++;
		if (work->start_ns == 0 || work->end_ns < work->start_ns) {
			totals->without_time++;
			continue;
		}
		pieces[count] = (struct piece){.work = *work, .operation = find_operation(log, work->correlation)};
		if (pieces[count].operation == 0) {
			totals->unattributed++;
			totals->unattributed_ns += work->end_ns - work->start_ns;
		}
		count++;
	}
	return count;
}

void mt_activity_add_totals(struct mt_activity_totals *sum, const struct mt_activity_totals *part)
{
	sum->pieces += part->pieces;
	sum->unattributed += part->unattributed;
	sum->without_time += part->without_time;
	sum->busy_ns += part->busy_ns;
	sum->gap_ns += part->gap_ns;
	sum->idle_ns += part->idle_ns;
	sum->unattributed_ns += part->unattributed_ns;
	sum->dropped += part->dropped;
}

/* How long each stream stood still before each of its pieces. */
static void note_idle(struct piece *pieces, size_t count, struct mt_activity_totals *totals)
{
	uint64_t end_ns = 0;
	qsort(pieces, count, sizeof *pieces, by_stream);
	for (size_t i = 0; i < count; i++) {
		struct piece *piece = &pieces[i];
		bool first = i == 0 || pieces[i - 1].work.stream != piece->work.stream;
		if (!first && piece->work.start_ns > end_ns)
			piece->idle_ns = piece->work.start_ns - end_ns;
		if (!first && pieces[i - 1].operation != piece->operation)
			totals->idle_ns += piece->idle_ns;
		end_ns = first || piece->work.end_ns > end_ns ? piece->work.end_ns : end_ns;
	}
}

/* Pieces of one operation in the order of their starts. They may overlap: busy is the length of their union. */
static void extend(struct mt_activity_span *span, const struct piece *piece)
{
	const struct mt_activity_work *work = &piece->work;
	if (span->pieces++ == 0) {
		*span = (struct mt_activity_span){
			piece->operation, 1, work->stream, work->start_ns, work->end_ns, work->end_ns - work->start_ns,
			piece->idle_ns};
		return;
	}
	if (work->end_ns <= span->end_ns)
		return;
	span->busy_ns += work->end_ns - (work->start_ns > span->end_ns ? work->start_ns : span->end_ns);
	span->end_ns = work->end_ns;
}

enum mt_status mt_activity_attribute(struct mt_activity_log *log, struct mt_activity_span **spans, size_t *count,
				     struct mt_activity_totals *totals)
{
	struct piece *pieces = malloc((log->work_count + 1) * sizeof *pieces);
	struct mt_activity_span *list = calloc(log->work_count + 1, sizeof *list);
	size_t piece_count, n = 0;
	*spans = NULL;
	*count = 0;
	*totals = (struct mt_activity_totals){.dropped = log->dropped};
	if (!pieces || !list) {
		free(pieces);
		free(list);
		return mt_fail(MT_NOMEM, "out of memory for attributing %zu records of the device", log->work_count);
	}
	piece_count = join(log, pieces, totals);
	note_idle(pieces, piece_count, totals);
	qsort(pieces, piece_count, sizeof *pieces, by_operation);
	for (size_t i = 0; i < piece_count; i++) {
		if (pieces[i].operation == 0)
			continue;
		if (n > 0 && list[n - 1].operation == pieces[i].operation)
			extend(&list[n - 1], &pieces[i]);
		else
			extend(&list[n++], &pieces[i]);
	}
	for (size_t i = 0; i < n; i++) {
		totals->busy_ns += list[i].busy_ns;
		totals->gap_ns += list[i].end_ns - list[i].start_ns - list[i].busy_ns;
	}
	free(pieces);
	*spans = list;
	*count = n;
	return MT_OK;
}
