/* yaml: a YAML (or JSON) file as a tree that remembers lines. Anchors, aliases, tags and duplicate keys are refused;
 * depth is at most 32 and a file at most 16 MiB. */
#ifndef MT_BASE_YAML_H
#define MT_BASE_YAML_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum mt_yaml_kind { MT_YAML_SCALAR, MT_YAML_MAP, MT_YAML_LIST };

struct mt_yaml {
	enum mt_yaml_kind kind;
	const char *file;       /* the name given to load or parse; owned by the root */
	int line;               /* 1-based; of a value in a map: its key's */
	char *text;             /* scalar: its text, owned */
	bool quoted;            /* scalar: quoted in the file, so never null */
	size_t count;           /* map or list: number of items */
	char **keys;            /* map: count keys, owned */
	struct mt_yaml **items; /* map or list: count values, owned */
};

/* The root of the file or text. Missing file, syntax error: MT_INPUT with file and line. An empty
 * file is an empty map. Free with mt_yaml_free. */
enum mt_status mt_yaml_load(struct mt_yaml **root, const char *path);
enum mt_status mt_yaml_parse(struct mt_yaml **root, const char *text, const char *name);
void mt_yaml_free(struct mt_yaml *root);

/* The value of a key of a map, or NULL (also when node is NULL or no map). */
const struct mt_yaml *mt_yaml_get(const struct mt_yaml *node, const char *key);
/* Typed reads of a scalar; `what` names it in the message. A missing node (NULL) is MT_INPUT too. */
enum mt_status mt_yaml_int(const struct mt_yaml *node, const char *what, int64_t *value);
enum mt_status mt_yaml_float(const struct mt_yaml *node, const char *what, double *value);
enum mt_status mt_yaml_string(const struct mt_yaml *node, const char *what, const char **value);
/* Every key of the map must be one of `known`: else MT_INPUT with line and nearest. */
enum mt_status mt_yaml_check_keys(const struct mt_yaml *node, const char *const *known, size_t count);

#endif
