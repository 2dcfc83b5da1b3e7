/* laps: where the step's time goes on the compute stream.
 *
 * The host of a device that runs behind it cannot read a clock between two operations without waiting, so a lap is two
 * marks in the stream, and all laps of a step are read at its end. On other devices a mark knows its time at once. */
#include "engine/internal.h"

#include <stdlib.h>

struct mt_lap {
	struct mt_mark start, end;
	double *sum_s;
};

enum mt_status mt_lap_begin(struct mt_engine *e, struct mt_mark *start)
{
	return mt_stream_mark(e->compute, start);
}

static enum mt_status read_lap(struct mt_lap *lap)
{
	double start_s, end_s;

	MT_TRY(mt_mark_read(&lap->start, &start_s));
	MT_TRY(mt_mark_read(&lap->end, &end_s));
	*lap->sum_s += end_s - start_s;
	return MT_OK;
}

enum mt_status mt_lap_end(struct mt_engine *e, const struct mt_mark *start, double *sum_s)
{
	struct mt_lap lap = {.start = *start, .sum_s = sum_s};

	MT_TRY(mt_stream_mark(e->compute, &lap.end));
	if (!lap.end.native)
		return read_lap(&lap);
	if (e->lap_count == e->lap_room) {
		int room = e->lap_room ? 2 * e->lap_room : 256;
		struct mt_lap *grown = realloc(e->laps, (size_t)room * sizeof *grown);

		if (!grown)
			return mt_fail(MT_NOMEM, "no memory for the times of a step");
		e->laps = grown;
		e->lap_room = room;
	}
	e->laps[e->lap_count++] = lap;
	return MT_OK;
}

enum mt_status mt_laps_read(struct mt_engine *e)
{
	for (int i = 0; i < e->lap_count; i++)
		MT_TRY(read_lap(&e->laps[i]));
	e->lap_count = 0;
	return MT_OK;
}
