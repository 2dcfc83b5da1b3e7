/* tokenizer_names: the tables of a tokenizer and the characters they are made of. */
#include "engine/tokenizer_parts.h"

#include <stdlib.h>
#include <string.h>

/* --- strings to tokens --- */

/* Eight bytes at a time, multiplied and folded: the keys are a vocabulary's, not an enemy's. */
uint64_t mt_names_hash(const char *text, size_t bytes)
{
	uint64_t hash = 0x9e3779b97f4a7c15u ^ bytes, part;

	for (; bytes >= 8; bytes -= 8, text += 8) {
		memcpy(&part, text, 8);
		hash = (hash ^ part) * 0xd6e8feb86659fd93u;
		hash ^= hash >> 32;
	}
	part = 0;
	memcpy(&part, text, bytes);
	hash = (hash ^ part) * 0xd6e8feb86659fd93u;
	hash ^= hash >> 32;
	hash *= 0xd6e8feb86659fd93u;
	return hash ^ hash >> 29;
}

static struct mt_name *slot_of(const struct mt_names *names, const char *text, size_t bytes, uint64_t hash)
{
	size_t at = hash & (names->room - 1);

	while (names->slots[at].id >= 0) {
		const struct mt_name *name = &names->slots[at];
		if (name->hash == hash && name->bytes == bytes && memcmp(name->text, text, bytes) == 0)
			break;
		at = (at + 1) & (names->room - 1);
	}
	return &names->slots[at];
}

static enum mt_status grow(struct mt_names *names)
{
	struct mt_names larger = {.room = names->room ? 2 * names->room : 1024, .count = names->count};

	larger.slots = malloc(larger.room * sizeof *larger.slots);
	if (!larger.slots)
		return mt_fail(MT_NOMEM, "out of memory for a vocabulary of %zu tokens", names->count);
	for (size_t i = 0; i < larger.room; i++)
		larger.slots[i] = (struct mt_name){.id = -1};
	for (size_t i = 0; i < names->room; i++) {
		const struct mt_name *name = &names->slots[i];
		if (name->id >= 0)
			*slot_of(&larger, name->text, name->bytes, name->hash) = *name;
	}
	free(names->slots);
	*names = larger;
	return MT_OK;
}

enum mt_status mt_names_add(struct mt_names *names, const char *text, size_t bytes, int32_t id)
{
	uint64_t hash = mt_names_hash(text, bytes);

	if (2 * (names->count + 1) > names->room)
		MT_TRY(grow(names));
	struct mt_name *slot = slot_of(names, text, bytes, hash);
	names->count += slot->id < 0;
	*slot = (struct mt_name){hash, text, (uint32_t)bytes, id};
	return MT_OK;
}

int32_t mt_names_find(const struct mt_names *names, const char *text, size_t bytes)
{
	return names->room ? slot_of(names, text, bytes, mt_names_hash(text, bytes))->id : -1;
}

/* --- merges --- */

enum mt_status mt_merges_create(struct mt_merges *merges, size_t count)
{
	merges->room = 16;
	while (merges->room < 2 * count + 2)
		merges->room *= 2;
	merges->slots = malloc(merges->room * sizeof *merges->slots);
	if (!merges->slots)
		return mt_fail(MT_NOMEM, "out of memory for %zu merges", count);
	for (size_t i = 0; i < merges->room; i++)
		merges->slots[i] = (struct mt_merge){.pair = UINT64_MAX};
	return MT_OK;
}

static struct mt_merge *merge_slot(const struct mt_merges *merges, uint64_t pair)
{
	uint64_t hash = pair * 0x9e3779b97f4a7c15u;
	size_t at = (hash ^ hash >> 32) & (merges->room - 1);

	while (merges->slots[at].pair != pair && merges->slots[at].pair != UINT64_MAX)
		at = (at + 1) & (merges->room - 1);
	return &merges->slots[at];
}

static uint64_t pair_of(int32_t left, int32_t right)
{
	return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

void mt_merges_add(struct mt_merges *merges, int32_t left, int32_t right, uint32_t rank, int32_t id)
{
	struct mt_merge *slot = merge_slot(merges, pair_of(left, right));

	*slot = (struct mt_merge){pair_of(left, right), rank, id};
}

const struct mt_merge *mt_merges_find(const struct mt_merges *merges, int32_t left, int32_t right)
{
	const struct mt_merge *slot = merge_slot(merges, pair_of(left, right));

	return slot->pair == UINT64_MAX ? NULL : slot;
}

/* --- characters --- */

/* GPT-2 writes printable Latin-1 bytes as themselves, the other 68 as U+0100.. in order. */
int mt_byte_of_character(uint32_t character)
{
	if ((character >= '!' && character <= '~') || (character >= 0xa1 && character <= 0xac) ||
	    (character >= 0xae && character <= 0xff))
		return (int)character;
	if (character < 0x100 || character > 0x143)
		return -1;
	int index = (int)character - 0x100;
	if (index <= 32)
		return index; /* 0 to space */
	if (index <= 66)
		return 0x7f + index - 33; /* delete to 0xa0 */
	return 0xad;
}

size_t mt_utf8_valid(const char *text, size_t bytes)
{
	const unsigned char *at = (const unsigned char *)text;
	size_t length = at[0] < 0x80 ? 1 : at[0] < 0xc2 ? 0 : at[0] < 0xe0 ? 2 : at[0] < 0xf0 ? 3 : at[0] < 0xf5 ? 4 : 0;

	if (length == 0 || length > bytes)
		return 0;
	for (size_t i = 1; i < length; i++) {
		if ((at[i] & 0xc0) != 0x80)
			return 0;
	}
	/* overlong forms, surrogates, and what lies above U+10FFFF */
	if ((at[0] == 0xe0 && at[1] < 0xa0) || (at[0] == 0xed && at[1] > 0x9f) || (at[0] == 0xf0 && at[1] < 0x90) ||
	    (at[0] == 0xf4 && at[1] > 0x8f))
		return 0;
	return length;
}

uint32_t mt_utf8_next(const char *text, size_t *bytes)
{
	const unsigned char *at = (const unsigned char *)text;

	*bytes = at[0] < 0x80 ? 1 : at[0] < 0xe0 ? 2 : at[0] < 0xf0 ? 3 : 4;
	if (*bytes == 1)
		return at[0];
	uint32_t character = at[0] & (0x7fu >> *bytes);
	for (size_t i = 1; i < *bytes; i++)
		character = character << 6 | (at[i] & 0x3fu);
	return character;
}

bool mt_is_space(uint32_t character)
{
	return (character >= 9 && character <= 13) || character == ' ' || character == 0x85 || character == 0xa0 ||
	       character == 0x1680 || (character >= 0x2000 && character <= 0x200a) || character == 0x2028 || character == 0x2029 ||
	       character == 0x202f || character == 0x205f || character == 0x3000;
}
