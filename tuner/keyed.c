/* keyed: see keyed.h. Linear probing, at most half full. */
#include "tuner/keyed.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

/* Where a key is, or would be. */
static size_t slot_of(struct mt_key *const *slots, size_t room, const struct mt_key *key)
{
	size_t at = (size_t)XXH3_64bits(key, sizeof *key) & (room - 1);

	while (slots[at] && memcmp(slots[at], key, sizeof *key) != 0)
		at = (at + 1) & (room - 1);
	return at;
}

void *mt_keyed_find(const struct mt_keyed *keyed, const struct mt_key *key)
{
	return keyed->room > 0 ? keyed->slots[slot_of(keyed->slots, keyed->room, key)] : NULL;
}

static enum mt_status grow(struct mt_keyed *keyed)
{
	size_t room = keyed->room ? 2 * keyed->room : 64;
	struct mt_key **slots = calloc(room, sizeof *slots);

	if (!slots)
		return mt_fail(MT_NOMEM, "no memory for a table of %zu", room);
	for (size_t i = 0; i < keyed->room; i++) {
		if (keyed->slots[i])
			slots[slot_of(slots, room, keyed->slots[i])] = keyed->slots[i];
	}
	free(keyed->slots);
	keyed->slots = slots;
	keyed->room = room;
	return MT_OK;
}

enum mt_status mt_keyed_add(struct mt_keyed *keyed, void *thing)
{
	if (2 * keyed->count >= keyed->room)
		MT_TRY(grow(keyed));
	keyed->slots[slot_of(keyed->slots, keyed->room, thing)] = thing;
	keyed->count++;
	return MT_OK;
}

void mt_keyed_free(struct mt_keyed *keyed, void (*release)(void *thing))
{
	for (size_t i = 0; i < keyed->room; i++) {
		if (keyed->slots[i])
			release(keyed->slots[i]);
	}
	free(keyed->slots);
	*keyed = (struct mt_keyed){0};
}
