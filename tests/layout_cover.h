/* layout_cover: a covering set of layouts. Axes are lists of choices; of any two axes every pair of choices that some layout can
 * have is in at least one row (pairwise covering: Cohen et al. 1997, "The AETG system", IEEE TSE 23(7)).
 *
 * A row begins with a pair that no row has yet and others drawn at random; then each axis in turn takes the choice that brings the
 * most new pairs. The draws are counter-based: the set is the same everywhere. */
#ifndef TESTS_LAYOUT_COVER_H
#define TESTS_LAYOUT_COVER_H

#include "base/random.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

enum { COVER_AXES = 16, COVER_CHOICES = 24, COVER_ROWS = 400, COVER_TRIES = 2000 };

struct cover {
	int axes, choices[COVER_AXES];
	int (*ranks)(const int *row); /* of the layout of a row of choices, one an axis; 0: it is none */
	int usual;                    /* ranks that a row has at most where no pair needs more */
	int rows[COVER_ROWS][COVER_AXES];
	int count;
	int pairs, impossible; /* in the rows; in none that was found */
	uint64_t draws;
	bool had[COVER_AXES][COVER_CHOICES][COVER_AXES][COVER_CHOICES];
};

static inline int cover_draw(struct cover *c, int below)
{
	return (int)mt_random_integer(17, 1, c->draws++, (uint64_t)below);
}

/* Pairs of the row with choice `axis` that no row has. */
static inline int cover_new_pairs(const struct cover *c, const int *row, int axis)
{
	int count = 0;

	for (int other = 0; other < c->axes; other++)
		count += other != axis && !c->had[axis][row[axis]][other][row[other]];
	return count;
}

static inline bool cover_fits(const struct cover *c, const int *row, int most)
{
	int ranks = c->ranks(row);

	return ranks > 0 && ranks <= most;
}

/* A possible row with the two choices that `row` has already; half of the others are the first of their axis. */
static inline bool cover_begin(struct cover *c, int *row, int a, int b, int most)
{
	for (int i = 0; i < COVER_TRIES; i++) {
		for (int axis = 0; axis < c->axes; axis++) {
			if (axis != a && axis != b)
				row[axis] = cover_draw(c, 2) ? cover_draw(c, c->choices[axis]) : 0;
		}
		if (cover_fits(c, row, most))
			return true;
	}
	return false;
}

static inline void cover_improve(struct cover *c, int *row, int a, int b)
{
	int first = cover_draw(c, c->axes), ranks = c->ranks(row), limit = ranks > c->usual ? ranks : c->usual;

	for (int i = 0; i < c->axes; i++) {
		int axis = (first + i) % c->axes, best = row[axis], most;

		if (axis == a || axis == b)
			continue;
		most = cover_new_pairs(c, row, axis);
		for (row[axis] = 0; row[axis] < c->choices[axis]; row[axis]++) {
			int brought = cover_new_pairs(c, row, axis);

			if (brought > most && cover_fits(c, row, limit)) {
				most = brought;
				best = row[axis];
			}
		}
		row[axis] = best;
	}
}

static inline void cover_keep(struct cover *c, const int *row)
{
	memcpy(c->rows[c->count++], row, sizeof c->rows[0]);
	for (int a = 0; a < c->axes; a++) {
		for (int b = 0; b < c->axes; b++) {
			c->pairs += a < b && !c->had[a][row[a]][b][row[b]];
			c->had[a][row[a]][b][row[b]] = true;
		}
	}
}

/* Fills rows; false: they are more than COVER_ROWS. */
static inline bool cover_make(struct cover *c)
{
	for (int a = 0; a < c->axes; a++) {
		for (int b = a + 1; b < c->axes; b++) {
			for (int k = 0; k < c->choices[a] * c->choices[b]; k++) {
				int row[COVER_AXES] = {0};

				row[a] = k / c->choices[b];
				row[b] = k % c->choices[b];
				if (c->had[a][row[a]][b][row[b]])
					continue;
				if (!cover_begin(c, row, a, b, c->usual) && !cover_begin(c, row, a, b, INT32_MAX)) {
					c->impossible++;
					continue;
				}
				if (c->count == COVER_ROWS)
					return false;
				cover_improve(c, row, a, b);
				cover_keep(c, row);
			}
		}
	}
	return true;
}

#endif
