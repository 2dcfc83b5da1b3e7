/* keyed: things by what they depend on: a hash table that owns them. */
#ifndef MT_TUNER_KEYED_H
#define MT_TUNER_KEYED_H

#include "base/options.h"
#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

enum { MT_KEY_NUMBERS = 20 };

/* Zero where a thing does not use them all. */
struct mt_key {
	int64_t numbers[MT_KEY_NUMBERS];
	char text[MT_OPTION_TEXT_BYTES];
};

/* What is kept begins with its key: the first member of its struct. */
struct mt_keyed {
	struct mt_key **slots; /* owned, as what they point to */
	size_t room, count;    /* a power of two, or 0 */
};

/* NULL: it is not there. */
void *mt_keyed_find(const struct mt_keyed *keyed, const struct mt_key *key);
/* `thing`, made by malloc, is the table's from then on, but after a failure. Its key is not there yet. */
enum mt_status mt_keyed_add(struct mt_keyed *keyed, void *thing);
/* `release` frees a thing. */
void mt_keyed_free(struct mt_keyed *keyed, void (*release)(void *thing));

#endif
