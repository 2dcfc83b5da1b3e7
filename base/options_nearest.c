/* options_nearest: what a mistyped name was meant to be. */
#include "base/options.h"

#include <ctype.h>
#include <string.h>

#define LONGEST 64

static int letter(char c)
{
	return c == '-' ? '_' : tolower((unsigned char)c);
}

static int least(int a, int b)
{
	return a < b ? a : b;
}

/* Edit distance with swaps of neighbours counted once (optimal string alignment), case and '-' for '_' ignored; names
 * beyond LONGEST letters are compared by their start. Three rows of the table are kept. */
static int distance(const char *a, const char *b)
{
	int rows[3][LONGEST + 1];
	int a_length = (int)strnlen(a, LONGEST), b_length = (int)strnlen(b, LONGEST);
	int *before = rows[0], *last = rows[1], *now = rows[2];

	for (int j = 0; j <= b_length; j++)
		last[j] = j;
	for (int i = 1; i <= a_length; i++) {
		now[0] = i;
		for (int j = 1; j <= b_length; j++) {
			bool same = letter(a[i - 1]) == letter(b[j - 1]);
			now[j] = least(least(last[j], now[j - 1]) + 1, last[j - 1] + !same);
			if (i > 1 && j > 1 && letter(a[i - 1]) == letter(b[j - 2]) && letter(a[i - 2]) == letter(b[j - 1]))
				now[j] = least(now[j], before[j - 2] + 1);
		}
		int *spare = before;
		before = last;
		last = now;
		now = spare;
	}
	return last[b_length];
}

const char *mt_options_nearest(const char *name, const char *const *names, size_t count)
{
	const char *nearest = NULL;
	int shortest = LONGEST + 1;

	for (size_t i = 0; i < count; i++) {
		int edits = distance(name, names[i]);
		size_t length = strlen(name) > strlen(names[i]) ? strlen(name) : strlen(names[i]);
		if (edits < shortest && 2 * (size_t)edits <= length) {
			nearest = names[i];
			shortest = edits;
		}
	}
	return nearest;
}
