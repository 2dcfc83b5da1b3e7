/* profile: the table of measured operations: samples in, rows in and out. What a key costs is in cost.c, how one
 * operation is timed alone in measure.c. */
#include "profiles/profile.h"

#include "base/log.h"
#include "base/random.h"
#include "profiles/table.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_SLOTS 256

static struct mt_profile_slot *make_slots(uint64_t count)
{
	struct mt_profile_slot *slots = malloc(count * sizeof *slots);
	for (uint64_t i = 0; slots && i < count; i++)
		slots[i] = (struct mt_profile_slot){0, -1};
	return slots;
}

enum mt_status mt_profile_create(struct mt_profile **profile, int threads, int busy_ranks, const struct mt_profile_rates *fallback)
{
	struct mt_profile *made = calloc(1, sizeof *made);
	*profile = NULL;
	if (!made || !(made->slots = make_slots(FIRST_SLOTS))) {
		free(made);
		return mt_fail(MT_NOMEM, "out of memory for a kernel profile");
	}
	made->threads = threads;
	made->busy_ranks = busy_ranks;
	made->slot_mask = FIRST_SLOTS - 1;
	if (fallback)
		made->rates = *fallback;
	for (int kind = 0; kind < MT_OP_KIND_COUNT; kind++)
		for (int dtype = 0; dtype < MT_DTYPE_COUNT; dtype++)
			made->chain[kind][dtype] = -1;
	*profile = made;
	return MT_OK;
}

void mt_profile_destroy(struct mt_profile *profile)
{
	if (!profile)
		return;
	for (int i = 0; i < profile->count; i++)
		free(profile->entries[i].samples);
	free(profile->entries);
	free(profile->slots);
	free(profile);
}

static void place(struct mt_profile_slot *slots, uint64_t mask, uint64_t hash, int entry)
{
	uint64_t i = hash & mask;
	while (slots[i].entry >= 0)
		i = (i + 1) & mask;
	slots[i] = (struct mt_profile_slot){hash, entry};
}

/* Room for one more entry, with the slots at most half full after it. */
static enum mt_status grow(struct mt_profile *profile)
{
	if (profile->count == profile->capacity) {
		int capacity = profile->capacity ? 2 * profile->capacity : 64;
		struct mt_profile_entry *entries = realloc(profile->entries, (size_t)capacity * sizeof *entries);
		if (!entries)
			return mt_fail(MT_NOMEM, "out of memory for %d profiled operations", capacity);
		profile->entries = entries;
		profile->capacity = capacity;
	}
	if (2 * (uint64_t)(profile->count + 1) > profile->slot_mask) {
		uint64_t count = 2 * (profile->slot_mask + 1);
		struct mt_profile_slot *slots = make_slots(count);
		if (!slots)
			return mt_fail(MT_NOMEM, "out of memory for %d profiled operations", profile->count);
		for (uint64_t i = 0; i <= profile->slot_mask; i++)
			if (profile->slots[i].entry >= 0)
				place(slots, count - 1, profile->slots[i].hash, profile->slots[i].entry);
		free(profile->slots);
		profile->slots = slots;
		profile->slot_mask = count - 1;
	}
	return MT_OK;
}

enum mt_status mt_profile_entry_of(struct mt_profile *profile, const struct mt_op_key *key, int *entry)
{
	const struct mt_profile_entry *found = table_find(profile, key);
	struct mt_profile_entry *made;
	int *chain;
	if (found) {
		*entry = (int)(found - profile->entries);
		return MT_OK;
	}
	if (key->kind < 0 || key->kind >= MT_OP_KIND_COUNT || key->dtype < 0 || key->dtype >= MT_DTYPE_COUNT)
		return mt_fail(MT_INPUT, "a profiled operation has kind %d and dtype %d, which this build does not know", key->kind,
			       key->dtype);
	MT_TRY(grow(profile));
	chain = &profile->chain[key->kind][key->dtype];
	made = &profile->entries[profile->count];
	*made = (struct mt_profile_entry){.key = *key, .cost_s = -1, .next = *chain};
	made->work = mt_profile_work(key);
	made->log_work = log(made->work);
	mt_profile_log_dims(key, made->log_dims);
	place(profile->slots, profile->slot_mask, mt_op_key_hash(key), profile->count);
	*entry = *chain = profile->count++;
	return MT_OK;
}

static void update_cost(struct mt_profile_entry *entry)
{
	int n = entry->count;
	if (n > 0)
		entry->cost_s = 0.5 * (entry->samples[(n - 1) / 2] + entry->samples[n / 2]);
	else
		entry->cost_s = entry->row.samples > 0 ? entry->row.median_s : -1;
}

static void insert_sorted(struct mt_profile_entry *entry, double seconds)
{
	int lo = 0, hi = entry->count;
	while (lo < hi) {
		int middle = (lo + hi) / 2;
		if (entry->samples[middle] <= seconds)
			lo = middle + 1;
		else
			hi = middle;
	}
	memmove(&entry->samples[lo + 1], &entry->samples[lo], (size_t)(entry->count - lo) * sizeof *entry->samples);
	entry->samples[lo] = seconds;
	entry->count++;
}

static void drop_sample(struct mt_profile_entry *entry, uint64_t which)
{
	entry->count--;
	memmove(&entry->samples[which], &entry->samples[which + 1], ((size_t)entry->count - which) * sizeof *entry->samples);
}

enum mt_status mt_profile_add_sample(struct mt_profile *profile, int which_entry, double seconds)
{
	struct mt_profile_entry *entry = &profile->entries[which_entry];
	entry->seen++;
	if (entry->count == TABLE_MOST_SAMPLES) {
		uint64_t which = mt_random_integer(1, mt_op_key_hash(&entry->key), entry->seen, entry->seen);
		if (which >= TABLE_MOST_SAMPLES)
			return MT_OK;
		drop_sample(entry, which);
	}
	if (entry->count == entry->capacity) {
		int capacity = entry->capacity ? 2 * entry->capacity : 8;
		double *samples = realloc(entry->samples, (size_t)capacity * sizeof *samples);
		if (!samples)
			return mt_fail(MT_NOMEM, "out of memory for %d samples of a profiled operation", capacity);
		entry->samples = samples;
		entry->capacity = capacity;
	}
	insert_sorted(entry, seconds);
	update_cost(entry);
	return MT_OK;
}

void mt_profile_collect(void *context, const struct mt_trace_event *event)
{
	struct mt_profile *profile = context;
	double seconds = event->end_s - event->start_s;
	int entry;
	if (!event->key || !isfinite(seconds) || seconds < 0)
		return;
	if (mt_profile_entry_of(profile, event->key, &entry) == MT_OK && mt_profile_add_sample(profile, entry, seconds) == MT_OK)
		return;
	/* A sink cannot fail: a sample that finds no memory is left out, and that is said once. */
	if (!profile->short_of_memory)
		mt_warn("profile: samples are left out: %s", mt_error_message());
	profile->short_of_memory = true;
	mt_error_clear();
}

void mt_profile_reset(struct mt_profile *profile)
{
	for (int i = 0; i < profile->count; i++) {
		profile->entries[i].count = 0;
		profile->entries[i].seen = 0;
		update_cost(&profile->entries[i]);
	}
}

/* 90% of the median; with fewer samples than order statistics need for that, all that was seen. */
static struct mt_interval sample_interval(const struct mt_profile_entry *entry)
{
	size_t n = (size_t)entry->count;
	struct mt_interval interval = mt_stats_median_interval(entry->samples, n, 0.9);

	if (!isfinite(interval.lo) || !isfinite(interval.hi))
		interval = (struct mt_interval){mt_stats_quantile(entry->samples, n, 0), mt_stats_quantile(entry->samples, n, 1)};
	return interval;
}

enum mt_status mt_profile_rows(const struct mt_profile *profile, struct mt_store_row **rows, int *count)
{
	*count = 0;
	*rows = calloc((size_t)profile->count + 1, sizeof **rows);
	if (!*rows)
		return mt_fail(MT_NOMEM, "out of memory for %d rows of a profile", profile->count);
	for (int i = 0; i < profile->count; i++) {
		const struct mt_profile_entry *entry = &profile->entries[i];
		if (entry->count == 0)
			continue;
		(*rows)[(*count)++] = (struct mt_store_row){
			.key = entry->key,
			.threads = profile->threads,
			.busy_ranks = profile->busy_ranks,
			.median_s = entry->cost_s,
			.mad_s = mt_stats_mad(entry->samples, (size_t)entry->count),
			.interval = sample_interval(entry),
			.samples = entry->count,
		};
	}
	return MT_OK;
}

enum mt_status mt_profile_add_rows(struct mt_profile *profile, const struct mt_store_row *rows, int count)
{
	for (int i = 0; i < count; i++) {
		int entry;
		if (rows[i].threads != profile->threads || rows[i].busy_ranks != profile->busy_ranks || rows[i].samples <= 0)
			continue;
		MT_TRY(mt_profile_entry_of(profile, &rows[i].key, &entry));
		profile->entries[entry].row = rows[i];
		update_cost(&profile->entries[entry]);
	}
	return MT_OK;
}
