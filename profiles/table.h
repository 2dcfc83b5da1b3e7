/* table: the inside of struct mt_profile, shared by the files of this room only.
 *
 * Entries lie in one array; a table of slots (open addressing, at most half full) finds one by the hash of its key, and
 * the entries of one kind and type are chained for the scaling of keys that were never measured. Samples are kept sorted,
 * so the median is there at any time and reading changes nothing: any number of threads may read. */
#ifndef MT_PROFILES_TABLE_H
#define MT_PROFILES_TABLE_H

#include "profiles/profile.h"

/* Samples kept a key: beyond that each new one replaces a random one (reservoir sampling), so the median stays that of all. */
#define TABLE_MOST_SAMPLES 512

struct mt_profile_entry {
	struct mt_op_key key;
	double cost_s;               /* what lookups give: the samples' median, else the stored row's; negative: nothing known */
	double work;                 /* FLOPs of products and attention, bytes of all others */
	double log_work;             /* natural */
	double log_dims[MT_OP_DIMS]; /* ln(1 + dim) */
	double *samples;             /* owned, sorted ascending */
	int count, capacity;
	uint64_t seen;           /* samples offered so far */
	struct mt_store_row row; /* as read from a store; row.samples 0: none */
	int next;                /* of the same kind and dtype, -1: last */
};

struct mt_profile_slot {
	uint64_t hash;
	int32_t entry; /* -1: free */
};

struct mt_profile {
	int threads, busy_ranks;
	struct mt_profile_rates rates;
	struct mt_profile_entry *entries; /* owned */
	int count, capacity;
	struct mt_profile_slot *slots; /* owned, slot_mask + 1 of them, a power of two */
	uint64_t slot_mask;
	int chain[MT_OP_KIND_COUNT][MT_DTYPE_COUNT]; /* first entry, -1: none */
	bool short_of_memory;                        /* said once */
};

/* The entry of a key, or NULL. */
static inline const struct mt_profile_entry *table_find(const struct mt_profile *profile, const struct mt_op_key *key)
{
	uint64_t hash = mt_op_key_hash(key);
	for (uint64_t i = hash & profile->slot_mask;; i = (i + 1) & profile->slot_mask) {
		const struct mt_profile_slot *slot = &profile->slots[i];
		if (slot->entry < 0)
			return NULL;
		if (slot->hash == hash && mt_op_key_equal(&profile->entries[slot->entry].key, key))
			return &profile->entries[slot->entry];
	}
}

/* The entry of a key, made when there is none; its index stays. MT_NOMEM; MT_INPUT for a key out of range. */
enum mt_status mt_profile_entry_of(struct mt_profile *profile, const struct mt_op_key *key, int *entry);
enum mt_status mt_profile_add_sample(struct mt_profile *profile, int entry, double seconds);

/* FLOPs of products and attention, bytes of all others; and the logarithms that shapes are compared by. */
double mt_profile_work(const struct mt_op_key *key);
void mt_profile_log_dims(const struct mt_op_key *key, double log_dims[MT_OP_DIMS]);

#endif
